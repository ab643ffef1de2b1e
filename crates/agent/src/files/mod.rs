//! Files of the sandbox.
//!
//! Every path is resolved by the kernel below a descriptor of the sandbox's root: no link, `..` or
//! race leads out of it. What is changed is changed through descriptors of parent directories, so
//! that a name swapped meanwhile is at most another name in the same directory. The kernel's own
//! file systems are not files in this sense and are refused.

mod glob;
mod pattern;
mod read;
mod remove;
mod walk;
mod write;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat},
    io::Errno,
};
use stacyvm_agent_proto::{Entry, EntryKind};

pub(crate) use self::{
    glob::Glob,
    read::Reading,
    remove::Removal,
    walk::{Listing, Walk},
    write::Upload,
};
use crate::{
    fail::{Fail, Result},
    limits::{MAX_PATH, RESOLVE_RETRIES},
};

/// File systems whose files are the kernel's: procfs, sysfs, cgroup (both), debugfs, tracefs,
/// securityfs, bpf, configfs.
const KERNEL_FILES: [u64; 9] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6265_6570,
];

/// The root below which every path is resolved.
pub(crate) struct Root {
    fd: OwnedFd,
}

/// A directory and the name of something in it.
pub(crate) struct Place<'a> {
    pub(crate) dir: OwnedFd,
    pub(crate) name: &'a str,
}

impl Root {
    /// The root of this process.
    pub(crate) fn open() -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open("/", flags, Mode::empty())? })
    }

    /// Opens a path inside.
    pub(crate) fn open_at<P: rustix::path::Arg + Copy>(
        &self,
        path: P,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RESOLVE_RETRIES {
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A descriptor of whatever a path leads to, which opens nothing.
    fn locate(&self, path: &str) -> Result<OwnedFd> {
        check(path)?;
        let fd = self.open_at(path, OFlags::PATH).map_err(|errno| Fail::os(errno, path))?;
        refuse_kernel_files(fd.as_fd(), path)?;
        Ok(fd)
    }

    /// The directory that holds what a path names, and its name there.
    pub(crate) fn parent<'a>(&self, path: &'a str) -> Result<Place<'a>> {
        let (parent, name) = split(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let dir = self.open_at(parent, flags).map_err(|errno| Fail::os(errno, parent))?;
        refuse_kernel_files(dir.as_fd(), path)?;
        Ok(Place { dir, name })
    }

    /// As [`Root::parent`], making the directories that are missing.
    pub(crate) fn parent_made<'a>(&self, path: &'a str) -> Result<Place<'a>> {
        match self.parent(path) {
            Err(fail) if fail.kind == stacyvm_agent_proto::FailKind::NotFound => {
                self.make_directories(split(path)?.0)?;
                self.parent(path)
            }
            result => result,
        }
    }

    fn make_directories(&self, path: &str) -> Result<()> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for end in ends {
            let prefix = &path[..end];
            if prefix.is_empty() || prefix.ends_with('/') {
                continue;
            }
            match self.open_at(prefix, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Fail::os(errno, prefix)),
            }
            let Place { dir, name } = self.parent(prefix)?;
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Fail::os(errno, prefix)),
            }
        }
        Ok(())
    }

    /// Describes what a path leads to.
    pub(crate) fn stat(&self, path: &str) -> Result<Entry<'static>> {
        let fd = self.locate(path)?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Fail::os(errno, path))?;
        Ok(entry(path.to_owned(), &stat))
    }

    /// Sets permission bits.
    pub(crate) fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        if 0o7777 < mode {
            return Err(Fail::invalid("a mode is at most 7777"));
        }
        let fd = self.locate(path)?;
        let failed = |errno| Fail::os(errno, path);
        let Err(error) = stacyvm_hostkit::process::chmod_descriptor(fd.as_fd(), mode) else {
            return Ok(());
        };
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        // Kernels and filters that do not know the call leave only what can be opened.
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let can_open = matches!(kind, FileType::RegularFile | FileType::Directory);
        if !matches!(errno, Errno::NOSYS | Errno::PERM) || !can_open {
            return Err(failed(errno));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open_at(path, flags).map_err(failed)?;
        refuse_kernel_files(fd.as_fd(), path)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(failed)
    }

    /// Renames; the target's parents are made.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let old = self.parent(from)?;
        let failed = |errno| Fail::os(errno, from);
        rustix::fs::statat(&old.dir, old.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let new = self.parent_made(to)?;
        rustix::fs::renameat_with(&old.dir, old.name, &new.dir, new.name, RenameFlags::empty())
            .map_err(|errno| match errno {
                Errno::NOENT => failed(errno),
                errno => Fail::os(errno, to),
            })
    }

    /// Removes a file, a link, or an empty directory.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        let Place { dir, name } = self.parent(path)?;
        remove_one(dir.as_fd(), name).map_err(|errno| Fail::os(errno, path))
    }

    /// The beginning of a small regular file; nothing when it cannot be read as one.
    pub(crate) fn small_file(&self, path: &str, most: usize) -> Vec<u8> {
        let Ok(reading) = self.read(path, None) else { return Vec::new() };
        reading.all(most)
    }
}

/// Removes one name, a directory only when it is empty.
fn remove_one<P: rustix::path::Arg + Copy>(dir: BorrowedFd<'_>, name: P) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        result => result,
    }
}

/// A path that can be resolved at all.
fn check(path: &str) -> Result<()> {
    if !path.starts_with('/') {
        return Err(Fail::invalid("the path must be absolute"));
    }
    if MAX_PATH < path.len() {
        return Err(Fail::invalid(format!("a path has at most {MAX_PATH} bytes")));
    }
    if path.contains('\0') {
        return Err(Fail::invalid("the path holds a NUL byte"));
    }
    Ok(())
}

/// The parent and the last name of a path.
fn split(path: &str) -> Result<(&str, &str)> {
    check(path)?;
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", ""));
    if matches!(name, "" | "." | "..") {
        return Err(Fail::invalid(format!("{path} does not end with a name")));
    }
    Ok((if parent.is_empty() { "/" } else { parent }, name))
}

/// Whether a descriptor is on a file system of the kernel's.
fn is_kernel_file(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(fd)
        .is_ok_and(|fs| u64::try_from(fs.f_type).is_ok_and(|kind| KERNEL_FILES.contains(&kind)))
}

fn refuse_kernel_files(fd: BorrowedFd<'_>, path: &str) -> Result<()> {
    if is_kernel_file(fd) {
        let message = format!("{path} is the kernel's; only commands can use it");
        return Err(Fail::invalid(message));
    }
    Ok(())
}

/// Describes a file.
pub(crate) fn entry(path: String, stat: &Stat) -> Entry<'static> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let modified_us = stat.st_mtime.saturating_mul(1_000_000).saturating_add(nanos / 1000);
    Entry {
        path: path.into(),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        kind,
        modified_us,
    }
}
