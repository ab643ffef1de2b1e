//! The store and what it makes of archives.

mod archive;
mod hostile;
mod random;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stacyvm_types::{Timestamp, time::ManualClock};
use tar::EntryType;

use self::archive::{Tar, busybox, gzip};
use super::*;

struct Bench {
    dir: tempfile::TempDir,
    store: ImageStore,
}

fn small() -> Caps {
    Caps { bytes: 8 << 20, entries: 1000, keep_free: 0, ..Caps::default() }
}

fn open(dir: &Path, caps: Caps, in_use: InUse) -> ImageStore {
    ImageStore::open(Parts {
        data_dir: dir.to_owned(),
        caps,
        in_use,
        tasks: TaskTracker::new(),
        clock: Arc::new(ManualClock::new(Timestamp::from_micros(7))),
    })
    .unwrap()
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), small(), Arc::new(|_| false));
    Bench { dir, store }
}

fn body(archive: &[u8]) -> ByteStream {
    let pieces: Vec<_> = archive.chunks(1000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    stream::iter(pieces).boxed()
}

impl Bench {
    async fn import(&self, name: &str, archive: &[u8]) -> Result<ImageRecord> {
        self.store.import(name, body(archive)).await
    }

    fn trees(&self) -> usize {
        fs::read_dir(self.dir.path().join("images/trees")).unwrap().count()
    }

    /// Whether nothing but the two directories of an empty store is there.
    fn is_empty(&self) -> bool {
        let images = self.dir.path().join("images");
        let count = |path: &Path| fs::read_dir(path).unwrap().count();
        count(&images) == 2 && count(&images.join("names")) == 0 && self.trees() == 0
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn an_imported_tree_has_its_files_and_all_that_a_sandbox_needs() {
    let bench = bench();
    let record = bench.import("alpine", &busybox().end()).await.unwrap();
    assert_eq!(record.name, "alpine:latest");
    assert_eq!(record.created, Timestamp::from_micros(7));
    assert_eq!(bench.store.list().await.unwrap(), std::slice::from_ref(&record));
    let root = bench.store.resolve("alpine:latest").unwrap();
    let program = fs::metadata(root.join("bin/busybox")).unwrap();
    assert_eq!(record.size, program.len() + 22);
    assert_eq!(program.nlink(), 2, "the hard link is one");
    assert_eq!(program.mtime(), 1_700_000_000);
    assert_eq!(mode(&root.join("bin/busybox")), 0o755, "no setuid bit on the host");
    assert_eq!(fs::read_link(root.join("bin/sh")).unwrap(), Path::new("busybox"));
    for name in ["proc", "sys", "dev", "run", "workspace", "etc", "home", "var", "usr"] {
        assert!(fs::symlink_metadata(root.join(name)).unwrap().is_dir(), "{name}");
    }
    assert_eq!(mode(&root.join("tmp")), 0o1777);
    assert_eq!(mode(&root), 0o755);
    assert_eq!(fs::read_dir(root.join("dev")).unwrap().count(), 0, "devices are left out");
    assert_eq!(mode(&bench.dir.path().join("images")), 0o700);
}

#[tokio::test]
async fn a_compressed_archive_means_the_same() {
    let bench = bench();
    let plain = bench.import("plain", &busybox().end()).await.unwrap();
    let packed = bench.import("packed", &gzip(&busybox().end())).await.unwrap();
    assert_eq!(plain.size, packed.size);
}

#[tokio::test]
async fn long_names_sparse_files_and_odd_owners_are_kept() {
    let bench = bench();
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(200));
    let mut sparse = Tar::header("sparse", EntryType::GNUSparse, 4, "");
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.sparse[0].offset.copy_from_slice(b"00000010000\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000004\0");
    gnu.realsize.copy_from_slice(b"00000020000\0");
    let archive = Tar::default()
        .extension(EntryType::GNULongName, format!("{long}\0").as_bytes())
        .file("cut", b"gnu")
        .pax(&[("path", &format!("{long}2")), ("mtime", "-3.5"), ("uid", "70000")])
        .file("cut", b"pax")
        .raw(sparse, b"data")
        .owned_file("mine", 0o6777, 33, 44)
        .end();
    bench.import("odd", &archive).await.unwrap();
    let root = bench.store.resolve("odd").unwrap();
    assert_eq!(fs::read(root.join(&long)).unwrap(), b"gnu");
    let pax = fs::metadata(root.join(format!("{long}2"))).unwrap();
    assert_eq!((pax.len(), pax.mtime()), (3, -3));
    let sparse = fs::read(root.join("sparse")).unwrap();
    assert_eq!((sparse.len(), &sparse[4096..4100]), (8192, &b"data"[..]));
    let mine = fs::metadata(root.join("mine")).unwrap();
    assert_eq!(mine.mode() & 0o7777, 0o777);
    if rustix::process::geteuid().is_root() {
        assert_eq!((mine.uid(), mine.gid(), pax.uid()), (33, 44, 65534));
    }
}

#[test]
fn without_root_everything_is_the_callers_and_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let root = tree::open_dir(dir.path()).unwrap();
    let mut closed = Tar::header("closed", EntryType::Directory, 0, "");
    closed.set_mode(0o2000);
    let archive = Tar::default().raw(closed, b"").owned_file("closed/file", 0o4000, 33, 44).end();
    extract::extract(&archive[..], root.as_fd(), &small(), Owners::Caller).unwrap();
    assert_eq!(mode(&dir.path().join("closed")), 0o700);
    let file = fs::metadata(dir.path().join("closed/file")).unwrap();
    assert_eq!(file.mode() & 0o7777, 0);
    assert_eq!(file.uid(), rustix::process::geteuid().as_raw());
}

#[tokio::test]
async fn of_two_entries_with_one_name_the_last_counts() {
    let bench = bench();
    let archive = Tar::default()
        .file("a", b"first")
        .hard_link("b", "a")
        .file("a", b"second")
        .symlink("d", "/etc")
        .dir("d")
        .file("d/inside", b"x")
        .dir("e")
        .symlink("e", "a")
        .end();
    bench.import("twice", &archive).await.unwrap();
    let root = bench.store.resolve("twice").unwrap();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"second");
    assert_eq!(fs::read(root.join("b")).unwrap(), b"first", "not written through the link");
    assert!(fs::symlink_metadata(root.join("d/inside")).unwrap().is_file());
    assert!(fs::symlink_metadata(root.join("e")).unwrap().is_symlink());
}

#[tokio::test]
async fn a_link_in_the_place_of_a_mount_point_becomes_a_directory() {
    let bench = bench();
    let archive = Tar::default()
        .file("bin/sh", b"x")
        .symlink("proc", "/")
        .symlink("tmp", "../../../..")
        .file("workspace", b"x")
        .end();
    bench.import("links", &archive).await.unwrap();
    let root = bench.store.resolve("links").unwrap();
    for name in ["proc", "tmp", "workspace"] {
        assert!(fs::symlink_metadata(root.join(name)).unwrap().is_dir(), "{name}");
    }
}

#[tokio::test]
async fn a_replaced_image_stays_for_those_who_use_it() {
    let bench = bench();
    bench.import("app", &Tar::default().file("v", b"1").end()).await.unwrap();
    let old = bench.store.lease("app").unwrap();
    let second = bench.store.lease("app:latest").unwrap();
    bench.import("app", &Tar::default().file("v", b"2").end()).await.unwrap();
    assert_eq!(bench.store.collect(), 0);
    assert_eq!(fs::read(old.rootfs().join("v")).unwrap(), b"1");
    let new = bench.store.resolve("app").unwrap();
    assert_eq!(fs::read(new.join("v")).unwrap(), b"2");
    let path = old.rootfs().to_owned();
    drop(old);
    assert_eq!(bench.store.collect(), 0, "the second lease holds it");
    drop(second);
    assert_eq!(bench.store.collect(), 1);
    assert!(!path.exists() && new.exists());
    assert_eq!(bench.trees(), 1);
}

#[tokio::test]
async fn an_image_in_use_cannot_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let used = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&used);
    let in_use: InUse = Arc::new(move |path| {
        assert!(path.ends_with("rootfs"));
        flag.load(Ordering::SeqCst)
    });
    let bench = Bench { store: open(dir.path(), small(), in_use), dir };
    bench.import("app", &busybox().end()).await.unwrap();
    let kind = |result: Result<()>| result.map_err(|error| error.kind);
    assert_eq!(kind(bench.store.remove("app").await), Err(ErrorKind::Conflict));
    used.store(false, Ordering::SeqCst);
    let lease = bench.store.lease("app").unwrap();
    assert_eq!(kind(bench.store.remove("app").await), Err(ErrorKind::Conflict));
    drop(lease);
    assert_eq!(kind(bench.store.remove("app").await), Ok(()));
    assert!(bench.is_empty());
    assert_eq!(kind(bench.store.remove("app").await), Err(ErrorKind::NoImage));
}

#[tokio::test]
async fn an_unknown_image_is_answered_with_the_command_that_imports_it() {
    let bench = bench();
    for error in
        [bench.store.resolve("alpine").unwrap_err(), bench.store.lease("alpine").unwrap_err()]
    {
        assert_eq!(error.kind, ErrorKind::NoImage);
        assert!(error.message.contains("stacyvm image import alpine:latest PATH"), "{error}");
    }
    assert_eq!(bench.store.resolve("host").unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn a_new_start_finds_the_images_and_collects_what_a_crash_left() {
    let bench = bench();
    let record = bench.import("app", &busybox().end()).await.unwrap();
    let images = bench.dir.path().join("images");
    for left in [".import-1/rootfs/a", ".dead-2/rootfs", "trees/0123/rootfs"] {
        fs::create_dir_all(images.join(left)).unwrap();
    }
    fs::write(images.join("names/.app:latest.json.new"), "{").unwrap();
    fs::write(images.join("names/bad:latest.json"), "{").unwrap();
    fs::write(
        images.join("names/other:latest.json"),
        fs::read(images.join("names/app:latest.json")).unwrap(),
    )
    .unwrap();
    let again = open(bench.dir.path(), small(), Arc::new(|path| path.ends_with("0123/rootfs")));
    assert_eq!(again.list().await.unwrap(), [record]);
    assert_eq!(again.collect(), 2, "the tree in use stays");
    let again = open(bench.dir.path(), small(), Arc::new(|_| false));
    assert_eq!(again.collect(), 1);
    assert_eq!((bench.trees(), fs::read_dir(&images).unwrap().count()), (1, 2));
    assert!(again.resolve("app").unwrap().join("bin/busybox").exists());
}

#[tokio::test]
async fn an_upload_that_breaks_stalls_or_is_given_up_leaves_nothing() {
    let bench = bench();
    let archive = busybox().end();
    let half = || stream::iter([Ok(Bytes::copy_from_slice(&archive[..archive.len() / 2]))]);
    let broken = half().chain(stream::iter([Err(Error::new(ErrorKind::TooLarge, "body"))]));
    let error = bench.store.import("a", broken.boxed()).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::TooLarge, "body"));

    let stalled = half().chain(stream::pending()).boxed();
    let quick = Caps { stall: Duration::from_millis(20), ..small() };
    let store = open(bench.dir.path(), quick, Arc::new(|_| false));
    assert_eq!(store.import("a", stalled).await.unwrap_err().kind, ErrorKind::Timeout);

    let tasks = bench.store.0.tasks.clone();
    let given_up = bench.store.import("a", half().chain(stream::pending()).boxed());
    let soon = Duration::from_millis(20);
    assert!(tokio::time::timeout(soon, given_up).await.is_err());
    tasks.close();
    tasks.wait().await;
    assert!(bench.is_empty());
}

#[tokio::test]
async fn more_than_two_imports_at_once_are_refused() {
    let bench = bench();
    let mut running = [0, 1].map(|_| bench.store.import("a", stream::pending().boxed()));
    for import in &mut running {
        assert!(futures_util::poll!(import.as_mut()).is_pending());
    }
    let third = bench.import("a", &busybox().end()).await;
    assert_eq!(third.unwrap_err().kind, ErrorKind::Exhausted);
    drop(running);
    bench.store.0.tasks.close();
    bench.store.0.tasks.wait().await;
    assert!(bench.is_empty());
    bench.import("a", &busybox().end()).await.unwrap();
}
