//! The `/dev` of every sandbox: one small read-only file system with six nodes, made once and shown
//! in each sandbox as a copy of its mount.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, makedev, mkdirat, mknodat, symlinkat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, open_tree,
    },
};
use stacyvm_hostkit::mount;

/// Name, major and minor number of each node.
pub(crate) const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Name and target of each link.
pub(crate) const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Directories that others are mounted on, and one that stays empty.
pub(crate) const DIRECTORIES: [&str; 3] = ["pts", "shm", EMPTY];

/// A directory that nothing is ever put in: shown where the host's would be.
pub(crate) const EMPTY: &str = ".empty";

/// Makes the file system, attached nowhere.
pub(crate) fn template() -> io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "mode", "755")?;
    fsconfig_set_string(fs.as_fd(), "size", "64k")?;
    fsconfig_create(fs.as_fd())?;
    let dev = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let umask = rustix::process::umask(Mode::empty());
    let filled = fill(&dev);
    rustix::process::umask(umask);
    filled?;
    mount::set_attributes(
        dev.as_fd(),
        mount::Attributes {
            read_only: true,
            nosuid: true,
            noexec: true,
            ..mount::Attributes::default()
        },
    )?;
    Ok(dev)
}

fn fill(dev: &OwnedFd) -> io::Result<()> {
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(dev, name, FileType::CharacterDevice, mode, makedev(major, minor))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name)?;
    }
    for name in DIRECTORIES {
        mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// A copy of the mount, to be moved into a sandbox.
pub(crate) fn copy(template: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(template.as_fd(), "", flags)?)
}
