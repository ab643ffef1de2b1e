//! File operations below one directory, blocking, resolved by the kernel as if it were the root:
//! no link, `..` or race leads out.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use stacyvm_types::Timestamp;

use crate::{
    Error, ErrorKind, FileInfo, FileKind, Result,
    mock::{
        glob,
        remove::{names, remove_tree},
    },
};

/// Above this many entries an answer is refused.
const MOST_ENTRIES: usize = 100_000;

/// Links followed by hand before giving up, as the kernel does it.
const MOST_LINKS: usize = 40;

/// The directory that a sandbox sees as `/`.
pub(super) struct Tree {
    root: OwnedFd,
}

/// A path that was checked: absolute, without NUL, not below `/proc` or `/sys`.
#[derive(Debug, Clone)]
pub(super) struct GuestPath(String);

impl GuestPath {
    pub(super) fn parse(text: &str) -> Result<Self> {
        if !text.starts_with('/') {
            return Err(Error::new(ErrorKind::Invalid, "a path must be absolute"));
        }
        if text.contains('\0') {
            return Err(Error::new(ErrorKind::Invalid, "a path cannot contain a zero byte"));
        }
        let mut clean: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    clean.pop();
                }
                name => clean.push(name),
            }
        }
        if matches!(clean.first(), Some(&("proc" | "sys"))) {
            return Err(Error::new(ErrorKind::Denied, "/proc and /sys are not files"));
        }
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory part and the last name, where the path has one.
    fn split(&self) -> Result<(&str, &str)> {
        let trimmed = self.0.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", ""));
        if matches!(name, "" | "." | "..") {
            return Err(Error::new(ErrorKind::Invalid, "the path names no file"));
        }
        Ok((if parent.is_empty() { "/" } else { parent }, name))
    }
}

/// A new file that takes its target's place when committed and disappears otherwise.
pub(super) struct Draft {
    pub(super) file: File,
    directory: OwnedFd,
    temporary: String,
    name: String,
    path: String,
    committed: bool,
}

impl Draft {
    pub(super) fn commit(mut self) -> Result<FileInfo> {
        let named = |errno| error(errno, &self.path);
        rustix::fs::renameat(&self.directory, &*self.temporary, &self.directory, &*self.name)
            .map_err(named)?;
        self.committed = true;
        Ok(describe(self.path.clone(), &rustix::fs::fstat(&self.file).map_err(named)?))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            // It may be gone with its directory.
            let _ = rustix::fs::unlinkat(&self.directory, &*self.temporary, AtFlags::empty());
        }
    }
}

impl Tree {
    pub(super) fn open(root: &std::path::Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::openat(CWD, root, flags, Mode::empty())? })
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // Something was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    fn directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    fn make_directories(&self, path: &str) -> Result<OwnedFd, Errno> {
        let mut so_far = String::from("/");
        let mut current = self.directory(&so_far)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far.push_str(part);
            so_far.push('/');
            current = match self.directory(&so_far) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&current, part, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => self.directory(&so_far)?,
                        Err(errno) => return Err(errno),
                    }
                }
                other => other?,
            };
        }
        Ok(current)
    }

    pub(super) fn open_file(&self, path: &GuestPath) -> Result<(File, FileInfo)> {
        let named = |errno| error(errno, path.as_str());
        let handle = self.resolve(path.as_str(), OFlags::PATH).map_err(named)?;
        let info = describe(path.0.clone(), &rustix::fs::fstat(&handle).map_err(named)?);
        require_regular(&info)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, magic(&handle), flags, Mode::empty()).map_err(named)?;
        Ok((file.into(), info))
    }

    /// Begins to replace or make a file, at the end of any links.
    pub(super) fn draft(&self, path: &GuestPath, mode: Option<u32>) -> Result<Draft> {
        if mode.is_some_and(|mode| 0o7777 < mode) {
            return Err(Error::new(ErrorKind::Invalid, "a mode is at most 0o7777"));
        }
        let named = |errno| error(errno, path.as_str());
        let mut target = path.clone();
        for _ in 0..MOST_LINKS {
            let (parent, name) = target.split()?;
            let directory = self.make_directories(parent).map_err(named)?;
            let old = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(describe(path.0.clone(), &stat)),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(named(errno)),
            };
            if old.as_ref().is_some_and(|old| old.kind == FileKind::Symlink) {
                let link = rustix::fs::readlinkat(&directory, name, Vec::new()).map_err(named)?;
                let link = link.to_str().map_err(|_| named(Errno::ILSEQ))?;
                let absolute =
                    if link.starts_with('/') { link.into() } else { format!("{parent}/{link}") };
                target = GuestPath::parse(&absolute)?;
                continue;
            }
            old.as_ref().map_or(Ok(()), require_regular)?;
            let mode = mode.or_else(|| old.map(|old| old.mode)).unwrap_or(0o644);
            return new_draft(directory, name, mode, path).map_err(named);
        }
        Err(named(Errno::LOOP))
    }

    pub(super) fn stat(&self, path: &GuestPath) -> Result<FileInfo> {
        let named = |errno| error(errno, path.as_str());
        let handle = self.resolve(path.as_str(), OFlags::PATH).map_err(named)?;
        Ok(describe(path.0.clone(), &rustix::fs::fstat(&handle).map_err(named)?))
    }

    pub(super) fn list(&self, path: &GuestPath) -> Result<Vec<FileInfo>> {
        let named = |errno| error(errno, path.as_str());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = self.resolve(path.as_str(), flags).map_err(named)?;
        let prefix = path.as_str().trim_end_matches('/');
        let mut infos = Vec::new();
        for name in names(&directory).map_err(named)? {
            let Ok(stat) = rustix::fs::statat(&directory, &*name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let name = String::from_utf8_lossy(&name).into_owned();
            infos.push(describe(format!("{prefix}/{name}"), &stat));
            check_count(infos.len())?;
        }
        infos.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(infos)
    }

    pub(super) fn glob(&self, pattern: &str) -> Result<Vec<String>> {
        let pattern = if pattern.starts_with('/') {
            pattern.to_owned()
        } else {
            format!("/workspace/{pattern}")
        };
        GuestPath::parse(&pattern)?;
        let parts = glob::parse(&pattern)?;
        let mut found = Vec::new();
        let mut open: Vec<(String, usize)> = vec![(String::new(), 0)];
        let mut looked_at = 0;
        while let Some((at, index)) = open.pop() {
            let Some(part) = parts.get(index) else {
                found.push(if at.is_empty() { "/".into() } else { at });
                check_count(found.len())?;
                continue;
            };
            if *part == glob::Part::Deep {
                open.push((at.clone(), index + 1));
            }
            let path = if at.is_empty() { "/" } else { &*at };
            let Ok(directory) = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) else {
                continue;
            };
            for name in names(&directory).map_err(|errno| error(errno, path))? {
                looked_at += 1;
                check_count(looked_at / 10)?;
                let Ok(text) = std::str::from_utf8(&name) else { continue };
                if at.is_empty() && matches!(text, "proc" | "sys") {
                    continue;
                }
                let next = match part {
                    glob::Part::Name(name) if name.matches(text) => index + 1,
                    glob::Part::Deep if is_directory(&directory, &name) => index,
                    glob::Part::Name(_) | glob::Part::Deep => continue,
                };
                open.push((format!("{at}/{text}"), next));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    pub(super) fn rename(&self, from: &GuestPath, to: &GuestPath) -> Result<()> {
        let (from_parent, from_name) = from.split()?;
        let (to_parent, to_name) = to.split()?;
        let source = self.directory(from_parent).map_err(|errno| error(errno, from.as_str()))?;
        rustix::fs::statat(&source, from_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| error(errno, from.as_str()))?;
        let target = self.make_directories(to_parent).map_err(|errno| error(errno, to.as_str()))?;
        rustix::fs::renameat(&source, from_name, &target, to_name)
            .map_err(|errno| error(errno, to.as_str()))
    }

    pub(super) fn chmod(&self, path: &GuestPath, mode: u32) -> Result<()> {
        if 0o7777 < mode {
            return Err(Error::new(ErrorKind::Invalid, "a mode is at most 0o7777"));
        }
        let named = |errno| error(errno, path.as_str());
        let handle = self.resolve(path.as_str(), OFlags::PATH).map_err(named)?;
        rustix::fs::chmod(magic(&handle), Mode::from_raw_mode(mode)).map_err(named)
    }

    pub(super) fn remove(&self, path: &GuestPath, recursive: bool) -> Result<()> {
        let named = |errno| error(errno, path.as_str());
        let (parent, name) = path.split()?;
        let directory = self.directory(parent).map_err(named)?;
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            done => return done.map_err(named),
        }
        match rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if recursive => {
                remove_tree(&directory, name.as_bytes()).map_err(named)
            }
            done => done.map_err(named),
        }
    }

    /// Bytes in regular files of the whole tree.
    pub(super) fn size(&self) -> u64 {
        let mut sum = 0;
        let mut open = vec![String::from("/")];
        while let Some(path) = open.pop() {
            let Ok(directory) = self.resolve(&path, OFlags::RDONLY | OFlags::DIRECTORY) else {
                continue;
            };
            for name in names(&directory).unwrap_or_default() {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let Ok(stat) = rustix::fs::statat(&directory, &*name, flags) else { continue };
                match (FileType::from_raw_mode(stat.st_mode), std::str::from_utf8(&name)) {
                    (FileType::Directory, Ok(name)) => open.push(format!("{path}{name}/")),
                    (FileType::RegularFile, _) => sum += stat.st_size.cast_unsigned(),
                    _ => {}
                }
            }
        }
        sum
    }
}

fn new_draft(directory: OwnedFd, name: &str, mode: u32, path: &GuestPath) -> Result<Draft, Errno> {
    let temporary = format!(".stacyvm-{:016x}", super::entropy());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, &*temporary, flags, Mode::from_raw_mode(0o600))?;
    let draft = Draft {
        file: file.into(),
        directory,
        temporary,
        name: name.to_owned(),
        path: path.0.clone(),
        committed: false,
    };
    rustix::fs::fchmod(&draft.file, Mode::from_raw_mode(mode))?;
    Ok(draft)
}

fn is_directory(directory: &OwnedFd, name: &[u8]) -> bool {
    rustix::fs::statat(directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn magic(handle: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

fn require_regular(info: &FileInfo) -> Result<()> {
    match info.kind {
        FileKind::File => Ok(()),
        FileKind::Directory => {
            Err(Error::new(ErrorKind::Conflict, format!("{}: is a directory", info.path)))
        }
        FileKind::Symlink | FileKind::Other => {
            Err(Error::new(ErrorKind::Conflict, format!("{}: is not a regular file", info.path)))
        }
    }
}

fn check_count(count: usize) -> Result<()> {
    if count <= MOST_ENTRIES {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, format!("more than {MOST_ENTRIES} entries")))
}

fn describe(path: String, stat: &Stat) -> FileInfo {
    let micros = stat.st_mtime.saturating_mul(1_000_000);
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    FileInfo {
        path,
        size: stat.st_size.cast_unsigned(),
        mode: stat.st_mode & 0o7777,
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Other,
        },
        modified: Timestamp::from_micros(micros.saturating_add(nanos / 1000)),
    }
}

/// A system error in the words of the contract.
pub(super) fn error(errno: Errno, path: &str) -> Error {
    let (kind, words) = match errno {
        Errno::NOENT => (ErrorKind::NotFound, "no such file or directory"),
        Errno::NOTDIR => (ErrorKind::Conflict, "is not a directory"),
        Errno::ISDIR => (ErrorKind::Conflict, "is a directory"),
        Errno::NOTEMPTY | Errno::EXIST => (ErrorKind::Conflict, "is not empty or exists already"),
        Errno::BUSY | Errno::TXTBSY => (ErrorKind::Conflict, "is in use"),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => (ErrorKind::Denied, "permission denied"),
        Errno::NOSPC | Errno::DQUOT => (ErrorKind::DiskFull, "no space left"),
        Errno::NAMETOOLONG => (ErrorKind::Invalid, "the name is too long"),
        Errno::LOOP => (ErrorKind::Invalid, "too many symbolic links"),
        Errno::INVAL | Errno::ILSEQ => (ErrorKind::Invalid, "cannot be done with this path"),
        Errno::XDEV => (ErrorKind::Invalid, "is on another file system"),
        _ => (ErrorKind::Internal, "the operation failed"),
    };
    Error::new(kind, format!("{path}: {words}")).because(io::Error::from(errno))
}
