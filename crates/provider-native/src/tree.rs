//! Directory trees handled by descriptor: nothing here follows a symbolic link or leaves the tree
//! it was given.

use std::{
    ffi::{CStr, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Paths below a directory: no link, no way up, no other file system.
const BELOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// So many directories are held open at once while a tree is removed; deeper ones are first moved
/// up.
const OPEN_AT_ONCE: usize = 64;

/// Opens a directory whose path is ours, links in it followed.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a directory for us alone, with its parents, and opens it. One that exists is narrowed to
/// mode 0700.
pub(crate) fn private_dir(path: &Path) -> io::Result<OwnedFd> {
    std::fs::create_dir_all(path)?;
    let dir = open_dir(path)?;
    fs::fchmod(&dir, Mode::RWXU)?;
    Ok(dir)
}

/// Opens the directory `path` below `root`. A link anywhere in it is [`Errno::LOOP`].
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat2(root, path, flags, Mode::empty(), BELOW)
}

/// Opens a regular file below `root` for reading, without waiting on pipes or devices. Links are
/// refused, other file systems are not.
pub(crate) fn open_file_below(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::openat2(root, path, flags, Mode::empty(), BELOW.difference(ResolveFlags::NO_XDEV))
}

/// Writes a file that is either complete under its name, also after a power cut, or not there.
/// `name` is replaced.
pub(crate) fn write_durably(dir: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!(".{name}.new");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(dir, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(file);
    io::Write::write_all(&mut file, content)?;
    file.sync_all()?;
    fs::renameat(dir, &temporary, dir, name)?;
    Ok(fs::fsync(dir)?)
}

/// The names in a directory, `.` and `..` left out, in no order.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !is_dot(entry.file_name()) {
            names.push(entry.file_name().to_bytes().to_vec());
        }
    }
    Ok(names)
}

/// Removes `name` below `parent`, with everything in it. What is not there is removed already.
/// Directories that their owner may not read are opened up first. Depth does not matter: neither
/// the stack nor the number of open files grows with it.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    loop {
        let kind = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if kind != FileType::Directory {
            return gone(fs::unlinkat(parent, name, AtFlags::empty()));
        }
        let top = open_for_removal(parent, name)?;
        let mut removal = Removal { top: top.as_fd(), moved: 0 };
        removal.empty(top.as_fd(), 0)?;
        if removal.moved == 0 {
            return gone(fs::unlinkat(parent, name, AtFlags::REMOVEDIR));
        }
    }
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Removal<'_> {
    fn empty(&mut self, dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        loop {
            let mut found = false;
            for entry in Dir::read_from(dir)? {
                let entry = entry?;
                let name = entry.file_name();
                if is_dot(name) {
                    continue;
                }
                found |= self.remove(dir, name, depth)?;
            }
            if !found {
                return Ok(());
            }
        }
    }

    /// Removes one entry. `false` when it was set aside at the top for another round.
    fn remove(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<bool> {
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        if depth == 0 && name.to_bytes().starts_with(ASIDE) && 0 < self.moved {
            return Ok(false);
        }
        if depth == OPEN_AT_ONCE {
            // A directory must be writable to get another parent.
            drop(open_for_removal(dir, OsStr::from_bytes(name.to_bytes()))?);
            let aside = format!(".aside-{:016x}", rand::random::<u64>());
            fs::renameat(dir, name, self.top, aside)?;
            self.moved += 1;
            return Ok(true);
        }
        let inner = open_for_removal(dir, OsStr::from_bytes(name.to_bytes()))?;
        self.empty(inner.as_fd(), depth + 1)?;
        drop(inner);
        gone(fs::unlinkat(dir, name, AtFlags::REMOVEDIR))?;
        Ok(true)
    }
}

const ASIDE: &[u8] = b".aside-";

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_for_removal(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let dir = match fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            fs::openat(parent, name, DIRECTORY, Mode::empty())?
        }
        other => other?,
    };
    if !rustix::process::geteuid().is_root() {
        fs::fchmod(&dir, Mode::RWXU)?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn removing_a_tree_does_not_touch_what_its_links_point_to() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/sub")).unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        fs::write(dir.path().join("kept/file"), "x").unwrap();
        symlink(dir.path().join("kept"), dir.path().join("tree/sub/link")).unwrap();
        symlink(dir.path().join("kept"), dir.path().join("top")).unwrap();
        let parent = open_dir(dir.path()).unwrap();
        remove_tree(parent.as_fd(), OsStr::new("tree")).unwrap();
        remove_tree(parent.as_fd(), OsStr::new("top")).unwrap();
        remove_tree(parent.as_fd(), OsStr::new("never-there")).unwrap();
        assert_eq!(names(parent.as_fd()).unwrap(), [b"kept".to_vec()]);
        assert!(dir.path().join("kept/file").exists());
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let parent = open_dir(dir.path()).unwrap();
        rustix::fs::mkdirat(&parent, "tree", Mode::RWXU).unwrap();
        let mut at = open_below(parent.as_fd(), OsStr::new("tree")).unwrap();
        for _ in 0..500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::empty()).unwrap();
            at = open_below(at.as_fd(), OsStr::new("d")).unwrap();
        }
        drop(at);
        remove_tree(parent.as_fd(), OsStr::new("tree")).unwrap();
        assert!(names(parent.as_fd()).unwrap().is_empty());
    }
}
