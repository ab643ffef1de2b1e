//! Unpacks an archive into a directory, below which everything stays.
//!
//! What is kept: files (permission bits and modification time), directories, symbolic links, hard
//! links within the archive, and, as root, owners between 0 and 65535 (others become 65534).
//! What is dropped: setuid and setgid bits of files (nothing inside a sandbox may gain privileges,
//! and on the host they would be a trap), extended attributes, named pipes, the mode of the top
//! directory, and everything named or below `dev`, `proc` and `sys`, which a sandbox gets fresh.
//! What is refused: everything that reaches outside or needs a guess.

use std::{
    ffi::OsStr,
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    rc::Rc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};
use stacyvm_provider::{ErrorKind, Result};

use super::{
    Caps,
    finish::{self, kind},
    header::{Archive, Entry, Extent, Kind},
    input::too_large,
    refusal::{host, invalid, refuse},
};
use crate::tree;

/// Whom the unpacked files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// To those whom the archive names. Needs root.
    FromArchive,
    /// To the user who runs the server, who can always list and remove its directories.
    Caller,
}

/// Replaced by the sandbox's own.
const FRESH: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// So often, in written bytes, the free space is looked at.
const SPACE_CHECK: u64 = 32 * 1024 * 1024;
const NAME_MAX: usize = 255;
const OVERFLOW_ID: u32 = 65534;

/// Unpacks a plain tar stream into the empty directory `root`; returns the bytes of its files.
pub(super) fn extract(
    input: impl Read,
    root: BorrowedFd<'_>,
    caps: &Caps,
    owners: Owners,
) -> Result<u64> {
    let mut archive = Archive::new(input, caps);
    let mut tree =
        Extraction { root, caps, owners, size: 0, unchecked: SPACE_CHECK, parent: None, placed: 0 };
    while let Some(entry) = archive.next()? {
        tree.place(&mut archive, &entry)?;
    }
    if tree.placed == 0 {
        return Err(invalid("the archive holds no files"));
    }
    finish::refuse_layers(root)?;
    finish::complete(root)?;
    Ok(tree.size)
}

struct Extraction<'a> {
    root: BorrowedFd<'a>,
    caps: &'a Caps,
    owners: Owners,
    size: u64,
    /// Bytes written since the free space was looked at.
    unchecked: u64,
    /// The directory of the last entry: archives list neighbours together.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    placed: u64,
}

impl Extraction<'_> {
    fn place<R: Read>(&mut self, archive: &mut Archive<'_, R>, entry: &Entry) -> Result<()> {
        let path = entry.path.as_slice();
        let parts = self.parts(path, path)?;
        let Some((name, parents)) = parts.split_last() else {
            // The top directory itself: always there, always 0755.
            return Ok(());
        };
        if FRESH.contains(&parts[0]) {
            return Ok(());
        }
        self.placed += 1;
        let parent = match &entry.kind {
            Kind::Pipe => return Ok(()),
            Kind::Device => {
                return refuse(ErrorKind::Invalid, path, "a device outside /dev is not taken");
            }
            _ => self.directory(parents, path)?,
        };
        let (parent, name) = (parent.as_fd(), OsStr::from_bytes(name));
        match &entry.kind {
            Kind::Directory => self.place_directory(parent, name, entry),
            Kind::File(extents) => self.place_file(parent, name, entry, extents, archive),
            Kind::Symlink(target) => self.place_symlink(parent, name, entry, target),
            Kind::HardLink(target) => self.place_hard_link(parent, name, entry, target, &parts),
            Kind::Device | Kind::Pipe => Ok(()),
        }
    }

    fn place_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
    ) -> Result<()> {
        if kind(parent, name)? != Some(FileType::Directory) {
            self.clear(parent, name, &entry.path)?;
            fs::mkdirat(parent, name, Mode::RWXU).map_err(|e| host("unpacked", e))?;
        }
        let dir = tree::open_below(parent, name).map_err(|e| host("unpacked", e))?;
        self.own(dir.as_fd(), entry)?;
        let mode = match self.owners {
            Owners::FromArchive => entry.mode & 0o3777,
            Owners::Caller => entry.mode & 0o1777 | 0o700,
        };
        fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(|e| host("unpacked", e))
    }

    fn place_file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        extents: &[Extent],
        archive: &mut Archive<'_, R>,
    ) -> Result<()> {
        self.count(entry.size)?;
        self.clear(parent, name, &entry.path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = fs::openat(parent, name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .map_err(|e| host("unpacked", e))?;
        let mut file = std::fs::File::from(file);
        let mut buffer = [0; 64 * 1024];
        let mut end = 0;
        for extent in extents {
            if extent.offset != end {
                file.seek(SeekFrom::Start(extent.offset)).map_err(|e| host("unpacked", e))?;
            }
            let mut left = extent.length;
            while 0 < left {
                let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let got = archive.read_body(&mut buffer[..want])?;
                file.write_all(&buffer[..got]).map_err(|e| host("unpacked", e))?;
                left -= got as u64;
                self.watch_space(got as u64)?;
            }
            end = extent.offset + extent.length;
        }
        if end != entry.size {
            file.set_len(entry.size).map_err(|e| host("unpacked", e))?;
        }
        self.own(file.as_fd(), entry)?;
        fs::fchmod(&file, Mode::from_raw_mode(entry.mode & 0o777))
            .map_err(|e| host("unpacked", e))?;
        // Compiled caches beside sources (Python's, for one) compare modification times.
        let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        fs::futimens(&file, &times).map_err(|e| host("unpacked", e))
    }

    fn place_symlink(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        target: &[u8],
    ) -> Result<()> {
        // The target may say anything: it is resolved inside the sandbox only.
        if target.is_empty() || self.caps.path < target.len() || target.contains(&0) {
            return refuse(ErrorKind::Invalid, &entry.path, "its target is empty or too long");
        }
        self.clear(parent, name, &entry.path)?;
        fs::symlinkat(target, parent, name).map_err(|e| host("unpacked", e))?;
        if self.owners == Owners::FromArchive {
            let (uid, gid) = ids(entry);
            fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| host("unpacked", e))?;
        }
        Ok(())
    }

    fn place_hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        target: &[u8],
        parts: &[&[u8]],
    ) -> Result<()> {
        let path = entry.path.as_slice();
        let target_parts = self.parts(target, path)?;
        let Some((target_name, target_parents)) = target_parts.split_last() else {
            return refuse(ErrorKind::Invalid, path, "it links to the top directory");
        };
        if target_parts == parts {
            return Ok(());
        }
        let missing = "it is a hard link to something that is not in the archive before it";
        let from = match tree::open_below(self.root, &join(target_parents)) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                return refuse(ErrorKind::Invalid, path, missing);
            }
            Err(error) => return Err(host("unpacked", error)),
        };
        self.clear(parent, name, path)?;
        let target_name = OsStr::from_bytes(target_name);
        match fs::linkat(&from, target_name, parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => refuse(ErrorKind::Invalid, path, missing),
            Err(Errno::PERM) => refuse(ErrorKind::Invalid, path, "a hard link to a directory"),
            Err(Errno::MLINK) => refuse(ErrorKind::TooLarge, path, "too many links to one file"),
            Err(error) => Err(host("unpacked", error)),
        }
    }

    /// The parts of a name; `.` and empty ones left out, everything that climbs refused.
    fn parts<'p>(&self, name: &'p [u8], entry: &[u8]) -> Result<Vec<&'p [u8]>> {
        if name.starts_with(b"/") {
            return refuse(ErrorKind::Invalid, entry, "an absolute name");
        }
        if self.caps.path < name.len() {
            return refuse(ErrorKind::Invalid, entry, "a name that is too long");
        }
        let parts: Vec<&[u8]> =
            name.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if self.caps.depth < parts.len() {
            return refuse(ErrorKind::Invalid, entry, "a name with too many directories");
        }
        for part in &parts {
            if *part == b".." {
                return refuse(ErrorKind::Invalid, entry, "a name that climbs with ..");
            }
            if NAME_MAX < part.len() || part.contains(&0) {
                return refuse(ErrorKind::Invalid, entry, "a name that no file can have");
            }
        }
        Ok(parts)
    }

    /// Opens the directory of an entry; makes what is missing of it.
    fn directory(&mut self, parents: &[&[u8]], entry: &[u8]) -> Result<Rc<OwnedFd>> {
        let joined = join(parents);
        if let Some((known, dir)) = &self.parent
            && known == joined.as_bytes()
        {
            return Ok(Rc::clone(dir));
        }
        let dir = match tree::open_below(self.root, &joined) {
            Err(Errno::NOENT) => self.make_directories(parents)?,
            other => other,
        };
        let dir = match dir {
            Ok(dir) => Rc::new(dir),
            Err(Errno::LOOP) => {
                return refuse(ErrorKind::Invalid, entry, "it lies below a symbolic link");
            }
            Err(Errno::NOTDIR) => {
                return refuse(ErrorKind::Invalid, entry, "it lies below a file");
            }
            Err(error) => return Err(host("unpacked", error)),
        };
        self.parent = Some((joined.as_bytes().to_vec(), Rc::clone(&dir)));
        Ok(dir)
    }

    fn make_directories(&self, parents: &[&[u8]]) -> Result<rustix::io::Result<OwnedFd>> {
        let mut at =
            rustix::io::fcntl_dupfd_cloexec(self.root, 0).map_err(|e| host("unpacked", e))?;
        for part in parents {
            let part = OsStr::from_bytes(part);
            match fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(host("unpacked", error)),
            }
            match tree::open_below(at.as_fd(), part) {
                Ok(next) => at = next,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(at))
    }

    /// Removes what an earlier entry put under this name: the last one counts. A directory gives
    /// way only while it is empty.
    fn clear(&mut self, parent: BorrowedFd<'_>, name: &OsStr, entry: &[u8]) -> Result<()> {
        let flags = match kind(parent, name)? {
            None => return Ok(()),
            Some(FileType::Directory) => {
                self.parent = None;
                AtFlags::REMOVEDIR
            }
            Some(_) => AtFlags::empty(),
        };
        match fs::unlinkat(parent, name, flags) {
            Ok(()) => Ok(()),
            Err(Errno::NOTEMPTY) => {
                refuse(ErrorKind::Invalid, entry, "it stands where a directory with files is")
            }
            Err(error) => Err(host("unpacked", error)),
        }
    }

    fn own(&self, file: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        match self.owners {
            Owners::Caller => Ok(()),
            Owners::FromArchive => {
                let (uid, gid) = ids(entry);
                fs::fchown(file, Some(uid), Some(gid)).map_err(|e| host("unpacked", e))
            }
        }
    }

    fn count(&mut self, size: u64) -> Result<()> {
        self.size = self.size.saturating_add(size);
        if self.caps.bytes < self.size { Err(too_large(self.caps.bytes)) } else { Ok(()) }
    }

    /// Stops before the disk is full for everybody else.
    fn watch_space(&mut self, written: u64) -> Result<()> {
        self.unchecked += written;
        if self.unchecked < SPACE_CHECK {
            return Ok(());
        }
        self.unchecked = 0;
        let disk = fs::fstatvfs(self.root).map_err(|e| host("unpacked", e))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.caps.keep_free {
            return Err(host("unpacked", Errno::NOSPC));
        }
        Ok(())
    }
}

fn ids(entry: &Entry) -> (Uid, Gid) {
    let id = |raw: u64| u32::try_from(raw).ok().filter(|id| *id <= 65535).unwrap_or(OVERFLOW_ID);
    (Uid::from_raw(id(entry.uid)), Gid::from_raw(id(entry.gid)))
}

fn join(parts: &[&[u8]]) -> std::ffi::OsString {
    let joined = if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') };
    std::os::unix::ffi::OsStringExt::from_vec(joined)
}
