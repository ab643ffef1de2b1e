//! Archives by chance: whatever the bytes, unpacking ends, does not panic, and stays in its tree.

use std::{fs, io::Read, os::fd::AsFd, path::Path};

use proptest::prelude::*;
use tar::EntryType;

use super::{
    super::{extract, extract::Owners, input},
    archive::{Tar, gzip},
    small,
};
use crate::tree;

/// Unpacks beside a tree that must not change.
fn stays_inside(archive: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let beside = dir.path().join("beside");
    let root = dir.path().join("deep/root");
    fs::create_dir(&beside).unwrap();
    fs::create_dir_all(&root).unwrap();
    fs::write(beside.join("file"), "untouched").unwrap();
    let before = look(dir.path(), &root);
    let opened = tree::open_dir(&root).unwrap();
    let done = input::unpacked(archive, 1 << 20)
        .and_then(|plain| {
            let plain: Box<dyn Read> = plain;
            extract::extract(plain, opened.as_fd(), &small(), Owners::Caller)
        })
        .is_ok();
    assert_eq!(before, look(dir.path(), &root));
    let parent = tree::open_dir(root.parent().unwrap()).unwrap();
    tree::remove_tree(parent.as_fd(), "root".as_ref()).unwrap();
    done
}

/// Everything below `at` with its content, `except` left out.
fn look(at: &Path, except: &Path) -> Vec<(String, Vec<u8>)> {
    let mut seen = Vec::new();
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let content = fs::read(&path).unwrap_or_default();
        seen.push((path.display().to_string(), content));
        if path != except && path.is_dir() {
            seen.extend(look(&path, except));
        }
    }
    seen.sort();
    seen
}

#[derive(Debug, Clone)]
enum Step {
    File(String, usize),
    Dir(String),
    Symlink(String, String),
    HardLink(String, String),
    Special(String, u8),
    LongName(String),
}

fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[abc]",
        1 => Just("..".to_owned()),
        1 => Just("beside".to_owned()),
        1 => Just(String::new()),
        1 => Just("file".to_owned()),
    ];
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (name(), 0_usize..2000).prop_map(|(n, s)| Step::File(n, s)),
        name().prop_map(Step::Dir),
        (name(), name()).prop_map(|(n, t)| Step::Symlink(n, t)),
        (name(), name()).prop_map(|(n, t)| Step::HardLink(n, t)),
        (name(), any::<u8>()).prop_map(|(n, k)| Step::Special(n, k)),
        name().prop_map(Step::LongName),
    ]
}

fn build(steps: &[Step]) -> Vec<u8> {
    let mut tar = Tar::default();
    for step in steps {
        tar = match step {
            Step::File(name, size) => tar.file(name, &vec![b'x'; *size]),
            Step::Dir(name) => tar.dir(name),
            Step::Symlink(name, target) => tar.symlink(name, target),
            Step::HardLink(name, target) => tar.hard_link(name, target),
            Step::Special(name, kind) => tar.special(name, EntryType::new(*kind)),
            Step::LongName(name) => tar.extension(EntryType::GNULongName, name.as_bytes()),
        };
    }
    tar.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        prop_assert!(!stays_inside(&bytes));
    }

    #[test]
    fn random_entries_stay_inside(steps in proptest::collection::vec(step(), 0..12)) {
        stays_inside(&build(&steps));
    }

    #[test]
    fn mutated_archives_stay_inside(
        steps in proptest::collection::vec(step(), 1..6),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        sums in any::<bool>(),
    ) {
        let mut archive = build(&steps);
        for (at, value) in flips {
            let at = at.index(archive.len());
            archive[at] = value;
        }
        if sums {
            mend(&mut archive);
        }
        stays_inside(&archive);
        stays_inside(&gzip(&archive));
    }

    #[test]
    fn mutated_gzip_streams_end(
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut packed = gzip(&Tar::default().file("a", &[7; 3000]).end());
        let at = at.index(packed.len());
        packed[at] = value;
        stays_inside(&packed);
        stays_inside(&packed[..cut.index(packed.len())]);
    }
}

/// Makes the checksum of every block right, so that mutations reach what lies behind the check.
fn mend(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512).filter(|block| block.iter().any(|b| *b != 0)) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
}
