//! What becomes of an unpacked tree before it is an image.

use std::{ffi::OsStr, os::fd::BorrowedFd};

use rustix::{
    fs::{self, AtFlags, FileType, Mode},
    io::Errno,
};
use stacyvm_provider::Result;

use super::refusal::{host, invalid};

/// Made when the archive lacks them: a sandbox mounts on some and expects the others.
const MOUNT_POINTS: [(&str, u32); 6] = [
    ("proc", 0o755),
    ("sys", 0o755),
    ("dev", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    // Whatever user a command runs as, it works here.
    ("workspace", 0o777),
];
const EXPECTED: [(&str, u32); 6] = [
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("root", 0o700),
    ("usr", 0o755),
    ("var", 0o755),
];

/// What is under a name; a link itself, not what it leads to.
pub(super) fn kind(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<FileType>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(host("unpacked", error)),
    }
}

/// `docker save` and OCI archives hold layers, not a root file system.
pub(super) fn refuse_layers(root: BorrowedFd<'_>) -> Result<()> {
    let has = |name: &str| kind(root, OsStr::new(name)).map(|kind| kind.is_some());
    let layers = has("manifest.json")? || has("oci-layout")?;
    if layers && !has("bin")? && !has("usr")? {
        return Err(invalid(
            "the archive holds the layers of an image, not its files: make one with docker export \
             of a container, not with docker save",
        ));
    }
    Ok(())
}

/// Makes what every sandbox needs. Mount points are real directories, whatever the archive put in
/// their place: a link there would move the mount.
pub(super) fn complete(root: BorrowedFd<'_>) -> Result<()> {
    for (name, mode) in MOUNT_POINTS {
        let there = kind(root, OsStr::new(name))?;
        if there == Some(FileType::Directory) {
            continue;
        }
        if there.is_some() {
            fs::unlinkat(root, name, AtFlags::empty()).map_err(|e| host("unpacked", e))?;
        }
        make(root, name, mode)?;
    }
    for (name, mode) in EXPECTED {
        if kind(root, OsStr::new(name))?.is_none() {
            make(root, name, mode)?;
        }
    }
    Ok(())
}

fn make(root: BorrowedFd<'_>, name: &str, mode: u32) -> Result<()> {
    fs::mkdirat(root, name, Mode::RWXU)
        .and_then(|()| fs::chmodat(root, name, Mode::from_raw_mode(mode), AtFlags::empty()))
        .map_err(|e| host("unpacked", e))
}
