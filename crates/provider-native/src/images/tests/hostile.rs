//! Archives that mean harm, or are broken: each is refused with a sentence and leaves nothing.

use std::fs;

use stacyvm_provider::ErrorKind;
use tar::EntryType;

use super::{
    Bench,
    archive::{Tar, busybox, gzip},
    bench,
};

const INVALID: ErrorKind = ErrorKind::Invalid;
const LARGE: ErrorKind = ErrorKind::TooLarge;

async fn refused(bench: &Bench, archive: &[u8], kind: ErrorKind, words: &str) {
    let error = bench.import("bad", archive).await.expect_err(words);
    assert_eq!(error.kind, kind, "{words}: {error}");
    assert!(error.message.contains(words), "{words:?} is not in: {error}");
    assert!(bench.is_empty(), "{words}: something is left");
}

#[tokio::test]
async fn names_and_links_that_lead_out_of_the_tree_are_refused() {
    let bench = bench();
    let outside = bench.dir.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let absolute = outside.to_str().unwrap();
    let tar = Tar::default;
    for (archive, words) in [
        (tar().file("/etc/passwd", b"x"), "absolute"),
        (tar().file("//etc/passwd", b"x"), "absolute"),
        (tar().file(absolute, b"x"), "absolute"),
        (tar().file("../../../outside", b"x"), "climbs"),
        (tar().file("a/../../../../outside", b"x"), "climbs"),
        (tar().dir("a/.."), "climbs"),
        (tar().pax(&[("path", "../../../outside")]).file("a", b"x"), "climbs"),
        (tar().extension(EntryType::GNULongName, b"../out\0").file("a", b"x"), "climbs"),
        (tar().symlink("a", "../../..").file("a/outside", b"x"), "below a symbolic link"),
        (tar().symlink("a", "/").file("a/b/c/d", b"x"), "below a symbolic link"),
        (tar().symlink("a", "..").dir("a/b"), "below a symbolic link"),
        (tar().symlink("a", "..").symlink("a/b", "c"), "below a symbolic link"),
        (tar().symlink("a", ".").symlink("a/b", "..").file("a/b/c", b""), "below a symbolic"),
        (tar().symlink("a", "..").hard_link("b", "a/../../outside"), "climbs"),
        (tar().symlink("a", "../../..").hard_link("b", "a/outside"), "not in the archive"),
        (tar().hard_link("a", absolute), "absolute"),
        (tar().hard_link("a", "../../../outside"), "climbs"),
        (tar().hard_link("a", "later").file("later", b""), "not in the archive"),
        (tar().dir("d").hard_link("a", "d"), "hard link to a directory"),
        (tar().hard_link("a", "."), "top directory"),
        (tar().pax(&[("linkpath", "/etc/shadow")]).hard_link("a", "b"), "absolute"),
        (tar().file("a", b"").file("a/b", b""), "below a file"),
        (tar().file("d/f", b"").symlink("d", "/etc"), "a directory with files"),
        (tar().symlink("a", ""), "target"),
        (tar().special("null", EntryType::Char), "device"),
        (tar().special("etc/sda", EntryType::Block), "device"),
        (tar().special("x/dev/sda", EntryType::Block), "device"),
        (tar().special("a", EntryType::new(b'M')), "unknown type"),
        (tar().pax(&[("path", "a\0b")]).file("a", b""), "no file can have"),
        (tar().pax(&[("path", &"n".repeat(256))]).file("a", b""), "no file can have"),
        (tar().pax(&[("path", &"a/".repeat(300))]).file("a", b"x"), "too many directories"),
        (tar().pax(&[("path", &"abcdefg/".repeat(600))]).file("a", b"x"), "too long"),
        (tar().pax(&[("linkpath", &"x".repeat(5000))]).symlink("a", "b"), "target"),
    ] {
        refused(&bench, &archive.end(), INVALID, words).await;
    }
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
}

#[tokio::test]
async fn an_entry_written_through_an_earlier_link_replaces_the_link() {
    let bench = bench();
    let outside = bench.dir.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let archive = Tar::default()
        .symlink("link", outside.to_str().unwrap())
        .file("link", b"inside")
        .symlink("again", outside.to_str().unwrap())
        .hard_link("alias", "again")
        .file("alias", b"inside")
        .end();
    bench.import("links", &archive).await.unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
    let root = bench.store.resolve("links").unwrap();
    assert_eq!(fs::read(root.join("link")).unwrap(), b"inside");
}

#[tokio::test]
async fn sizes_that_lie_and_floods_are_refused() {
    let bench = bench();
    let tar = Tar::default;
    let huge = |size| Tar::header("a", EntryType::Regular, size, "");
    let zeros = gzip(&vec![0; 64 << 20]);
    let mut bomb = tar().raw(huge(64 << 20), b"").cut();
    bomb.extend(vec![0; 64 << 20]);
    let mut many = tar();
    for number in 0..1001 {
        many = many.file(&number.to_string(), b"");
    }
    let mut trailing = busybox().end();
    trailing.extend(vec![0; 9 << 20]);
    let name_bomb = Tar::header("a", EntryType::GNULongName, 1 << 40, "");
    for (archive, kind, words) in [
        (tar().raw(huge(u64::MAX), b"").end(), LARGE, "8 MiB"),
        (tar().raw(huge(1 << 40), b"").end(), LARGE, "8 MiB"),
        (tar().pax(&[("size", "18446744073709551615")]).file("a", b"").end(), LARGE, "8 MiB"),
        (gzip(&bomb), LARGE, "8 MiB"),
        ([gzip(&busybox().cut()), zeros.clone()].concat(), LARGE, "8 MiB"),
        (gzip(&trailing), LARGE, "8 MiB"),
        (many.end(), LARGE, "1000 entries"),
        (tar().raw(name_bomb, b"").end(), INVALID, "1 MiB"),
        (tar().raw(huge(5000), b"short").cut(), INVALID, "cut short"),
    ] {
        refused(&bench, &archive, kind, words).await;
    }
}

#[tokio::test]
async fn a_sparse_file_cannot_claim_more_than_the_cap_or_overlap_itself() {
    let bench = bench();
    let sparse = |real: &[u8; 12], slots: &[(&[u8; 12], &[u8; 12])], stored: u64| {
        let mut header = Tar::header("s", EntryType::GNUSparse, stored, "");
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize = *real;
        for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(slots) {
            slot.offset = **offset;
            slot.numbytes = **length;
        }
        Tar::default().raw(header, &[b'x'; 8]).end()
    };
    let four = b"00000000004\0";
    let zero = b"00000000000\0";
    refused(&bench, &sparse(b"77777777777\0", &[(zero, four)], 4), LARGE, "8 MiB").await;
    for archive in [
        sparse(b"00000000010\0", &[(zero, four), (zero, four)], 8),
        sparse(b"00000000010\0", &[(four, four), (zero, four)], 8),
        sparse(b"00000000003\0", &[(zero, four)], 4),
        sparse(b"00000000010\0", &[(zero, four)], 8),
        sparse(b"xxxxxxxxxxx\0", &[(zero, four)], 4),
        sparse(b"00000000010\0", &[(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", four)], 4),
    ] {
        refused(&bench, &archive, INVALID, "sparse map").await;
    }
    let pax = Tar::default().pax(&[("GNU.sparse.major", "1")]).file("a", b"").end();
    refused(&bench, &pax, INVALID, "PAX").await;
}

#[tokio::test]
async fn what_is_not_a_root_file_system_is_refused_with_advice() {
    let bench = bench();
    let saved = Tar::default().file("manifest.json", b"[]").file("layer.tar", b"").end();
    let mut damaged = busybox().end();
    damaged[600] ^= 1;
    let packed = gzip(&busybox().end());
    let mut wrong_sum = packed.clone();
    let near_end = wrong_sum.len() - 6;
    wrong_sum[near_end] ^= 1;
    for (archive, words) in [
        (Vec::new(), "empty"),
        (vec![0; 1024], "no files"),
        (Tar::default().dir("./").dir("dev").end(), "no files"),
        (b"#!/bin/sh\n".repeat(200), "not a tar archive"),
        (b"PK\x03\x04zip".to_vec(), "zip"),
        (b"\x28\xb5\x2f\xfd....".to_vec(), "zstd"),
        (b"\xfd7zXZ\0".to_vec(), "xz"),
        (b"BZh9".to_vec(), "bzip2"),
        (b"\x1f\x8b\x08\x00".to_vec(), "gzip"),
        (saved, "docker export"),
        (damaged, "damaged"),
        (packed[..packed.len() / 2].to_vec(), "gzip"),
        (wrong_sum, "gzip"),
        (Tar::default().extension(EntryType::XHeader, b"nonsense").end(), "malformed"),
        (Tar::default().extension(EntryType::XHeader, b"99 path=a\n").end(), "malformed"),
        (Tar::default().extension(EntryType::XHeader, b"3 \n").end(), "malformed"),
    ] {
        refused(&bench, &archive, INVALID, words).await;
    }
}

#[tokio::test]
async fn an_archive_cut_anywhere_is_refused() {
    let bench = bench();
    let archive = Tar::default()
        .dir("a")
        .pax(&[("path", "a/long")])
        .file("x", &[b'x'; 700])
        .symlink("b", "a")
        .cut();
    for length in (0..=archive.len()).step_by(64) {
        let error = bench.import("bad", &archive[..length]).await.expect_err("cut");
        assert_eq!(error.kind, INVALID, "{length}: {error}");
        assert!(bench.is_empty());
    }
}
