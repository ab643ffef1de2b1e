//! Removing a whole tree.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{Place, Root, Walk, is_kernel_file, remove_one};
use crate::{
    fail::{Fail, Result},
    limits::{ENTRIES_PER_SLICE, REMOVE_DEPTH},
    stream::Slice,
};

/// How often a directory is read again because something was put into it meanwhile.
const RESCANS: u32 = 1000;

/// A directory that is being emptied.
struct Level {
    dir: Dir,
    name: CString,
    rescans: u32,
}

/// A tree that is being removed. Links are removed, never followed. Directories that lie too deep
/// to be held open are moved up to the top first.
pub(crate) struct Removal {
    path: String,
    parent: OwnedFd,
    levels: Vec<Level>,
    moved: u64,
    /// The tree is a single name, or there is nothing left to do.
    finished: bool,
}

impl Removal {
    /// Looks at what is to be removed. What is not a directory is removed at once.
    pub(crate) fn begin(root: &Root, path: &str) -> Result<Self> {
        let Place { dir: parent, name } = root.parent(path)?;
        let failed = |errno| Fail::os(errno, path);
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let mut removal =
            Self { path: path.to_owned(), parent, levels: Vec::new(), moved: 0, finished: false };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let name = CString::new(name).map_err(|_| failed(Errno::INVAL))?;
            let level = open_level(removal.parent.as_fd(), name).map_err(failed)?;
            if level.dir.fd().is_ok_and(is_kernel_file) {
                return Err(Fail::invalid(format!("{path} is the kernel's")));
            }
            removal.levels.push(level);
        } else {
            remove_one(removal.parent.as_fd(), name).map_err(failed)?;
            removal.finished = true;
        }
        Ok(removal)
    }

    /// Handles one entry of the deepest directory, or leaves it when it is empty.
    fn advance(&mut self) -> Result<(), Errno> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else {
            self.finished = true;
            return Ok(());
        };
        let Some(found) = level.dir.read() else { return self.leave() };
        let found = found?;
        let name = found.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(());
        }
        let dir = level.dir.fd()?;
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(errno),
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        if depth < REMOVE_DEPTH {
            let level = open_level(dir, name.to_owned())?;
            self.levels.push(level);
            return Ok(());
        }
        self.moved += 1;
        let top = self.levels[0].dir.fd()?;
        let up = format!(".stacyvm-removed-{}", self.moved);
        rustix::fs::renameat(self.levels[depth - 1].dir.fd()?, name, top, up)
    }

    /// Removes the deepest directory, or reads it again if it is not empty after all.
    fn leave(&mut self) -> Result<(), Errno> {
        let Some(mut level) = self.levels.pop() else { return Ok(()) };
        let holder = match self.levels.last() {
            Some(above) => above.dir.fd()?,
            None => self.parent.as_fd(),
        };
        match rustix::fs::unlinkat(holder, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.rescans < RESCANS => {
                level.rescans += 1;
                level.dir.rewind();
                self.levels.push(level);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }
}

/// Opens a directory by its name in another, never through a link and never on another mount.
fn open_level(dir: impl AsFd, name: CString) -> Result<Level, Errno> {
    let flags =
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let fd = rustix::fs::openat2(dir, &name, flags, Mode::empty(), resolve)?;
    Ok(Level { dir: Dir::new(fd)?, name, rescans: 0 })
}

impl Walk for Removal {
    fn step(&mut self, _root: &Root, _out: &mut Vec<u8>) -> Result<Slice> {
        for _ in 0..ENTRIES_PER_SLICE {
            if self.finished {
                return Ok(Slice::Done);
            }
            self.advance().map_err(|errno| Fail::os(errno, &self.path))?;
        }
        Ok(Slice::More)
    }
}
