//! Writing a regular file: all of it or nothing.

use std::{
    borrow::Cow,
    hash::{BuildHasher, RandomState},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid},
    io::Errno,
};
use stacyvm_agent_proto::Entry;

use super::{Place, Root, entry, read::require_regular};
use crate::{
    fail::{Fail, Result},
    limits::MAX_LINKS,
};

const DEFAULT_MODE: u32 = 0o644;

/// A file that is being received. Dropped before it is complete, it leaves nothing.
pub(crate) struct Upload {
    path: String,
    dir: OwnedFd,
    name: String,
    temporary: Option<String>,
    file: OwnedFd,
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl Upload {
    /// Finds the target through final links and makes a temporary file beside it.
    pub(crate) fn begin(root: &Root, path: &str, mode: Option<u32>) -> Result<Self> {
        if mode.is_some_and(|mode| 0o7777 < mode) {
            return Err(Fail::invalid("a mode is at most 7777"));
        }
        let (dir, name, existing) = target(root, path)?;
        let (mode, owner) = match existing {
            Some(stat) => {
                require_regular(&stat, path)?;
                (mode.unwrap_or(stat.st_mode & 0o7777), Some((stat.st_uid, stat.st_gid)))
            }
            None => (mode.unwrap_or(DEFAULT_MODE), None),
        };
        let temporary = format!(".stacyvm-{:016x}", RandomState::new().hash_one(&name));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY;
        let private = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(&dir, &temporary, flags | OFlags::CLOEXEC, private)
            .map_err(|errno| Fail::os(errno, path))?;
        Ok(Self { path: path.to_owned(), dir, name, temporary: Some(temporary), file, mode, owner })
    }

    fn failed(&self, errno: Errno) -> Fail {
        Fail::os(errno, &self.path)
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.file, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        Ok(())
    }

    /// Puts the file in its place.
    pub(crate) fn complete(&mut self) -> Result<Entry<'static>> {
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            match rustix::fs::fchown(&self.file, Some(uid), Some(gid)) {
                // An owner that is not mapped here, or that we may not give to, cannot be kept.
                Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::OVERFLOW) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        // After the owner, whose change clears the bits that run a file as somebody else.
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(self.mode))
            .map_err(|errno| self.failed(errno))?;
        let stat = rustix::fs::fstat(&self.file).map_err(|errno| self.failed(errno))?;
        let Some(temporary) = self.temporary.take() else { return Err(self.failed(Errno::IO)) };
        if let Err(errno) =
            rustix::fs::renameat(&self.dir, &temporary, &self.dir, self.name.as_str())
        {
            self.temporary = Some(temporary);
            return Err(self.failed(errno));
        }
        Ok(entry(self.path.clone(), &stat))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing more can be done about a directory that lets nothing be removed any more.
            let _ = rustix::fs::unlinkat(&self.dir, temporary, AtFlags::empty());
        }
    }
}

/// Where a path is written: directory, name, and what is there now. Each link is read by its own
/// descriptor and resolved from the root again.
fn target(root: &Root, path: &str) -> Result<(OwnedFd, String, Option<rustix::fs::Stat>)> {
    let failed = |errno| Fail::os(errno, path);
    let mut at = Cow::Borrowed(path);
    for _ in 0..=MAX_LINKS {
        let Place { dir, name } = root.parent_made(&at)?;
        let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok((dir, name.to_owned(), None)),
            Err(errno) => return Err(failed(errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok((dir, name.to_owned(), Some(stat)));
        }
        let link = rustix::fs::readlinkat(&dir, name, Vec::new()).map_err(failed)?;
        let link = link
            .into_string()
            .map_err(|_| Fail::invalid(format!("{path} is a link to a name that is not UTF-8")))?;
        at = if link.starts_with('/') {
            link.into()
        } else {
            let parent = at.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
            format!("{parent}/{link}").into()
        };
    }
    Err(failed(Errno::LOOP))
}
