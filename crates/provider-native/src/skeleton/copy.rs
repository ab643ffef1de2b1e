//! Finds and copies the public part of the host's `/etc`.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::BorrowedFd,
        unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, symlink},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, Stat},
    io::Errno,
};

use super::{SkeletonError, allow};
use crate::tree;

const MAX_PIECES: usize = 50_000;
const MAX_FILE: u64 = 32 * 1024 * 1024;
const MAX_TOTAL: u64 = 256 * 1024 * 1024;
const MAX_DEPTH: usize = 16;

/// Something to copy, relative to `/etc`; directories come before what is in them.
#[derive(Debug, Hash)]
pub(super) struct Piece {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Hash)]
enum Kind {
    Directory,
    /// A file, with what tells whether it has changed.
    File {
        executable: bool,
        size: i64,
        inode: u64,
        changed: (i64, u64),
    },
    Link(PathBuf),
}

/// What of an `/etc` may be copied, in a fixed order.
pub(super) fn survey(etc: BorrowedFd<'_>) -> Result<Vec<Piece>, SkeletonError> {
    let mut survey = Survey { pieces: Vec::new(), total: 0 };
    survey.directory(etc, Path::new(""), 0)?;
    Ok(survey.pieces)
}

struct Survey {
    pieces: Vec<Piece>,
    total: u64,
}

impl Survey {
    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        at: &Path,
        depth: usize,
    ) -> Result<(), SkeletonError> {
        let failed = |error| SkeletonError::Io("reading /etc", error);
        let mut names = tree::names(dir).map_err(failed)?;
        names.sort_unstable();
        for name in names {
            let name = std::ffi::OsStr::from_bytes(&name);
            let path = at.join(name);
            let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => self.inner(dir, &path, &stat, depth)?,
                FileType::RegularFile if allow::allowed(&path) && public_file(&stat) => {
                    self.file(path, &stat)?;
                }
                FileType::Symlink if allow::allowed(&path) => {
                    let target = rustix::fs::readlinkat(dir, name, Vec::new());
                    let target = target.map_err(|e| failed(e.into()))?;
                    let target = PathBuf::from(std::ffi::OsStr::from_bytes(target.to_bytes()));
                    if allow::link_allowed(&path, &target) {
                        self.add(Piece { path, kind: Kind::Link(target) })?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn inner(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &Path,
        stat: &Stat,
        depth: usize,
    ) -> Result<(), SkeletonError> {
        let public = stat.st_mode & 0o005 == 0o005;
        if !public || MAX_DEPTH <= depth || !allow::leads_to_allowed(path) {
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default();
        // Gone or replaced meanwhile, or on another file system: not there for us.
        let Ok(dir) = tree::open_below(parent, name) else { return Ok(()) };
        self.add(Piece { path: path.to_owned(), kind: Kind::Directory })?;
        self.directory(std::os::fd::AsFd::as_fd(&dir), path, depth + 1)
    }

    #[expect(clippy::unnecessary_cast, reason = "stat fields differ between architectures")]
    fn file(&mut self, path: PathBuf, stat: &Stat) -> Result<(), SkeletonError> {
        self.total = self.total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        if MAX_TOTAL < self.total {
            return Err(SkeletonError::TooLarge);
        }
        self.add(Piece {
            path,
            kind: Kind::File {
                executable: stat.st_mode & 0o111 != 0,
                size: stat.st_size as i64,
                inode: stat.st_ino as u64,
                changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
            },
        })
    }

    fn add(&mut self, piece: Piece) -> Result<(), SkeletonError> {
        if MAX_PIECES <= self.pieces.len() {
            return Err(SkeletonError::TooLarge);
        }
        self.pieces.push(piece);
        Ok(())
    }
}

/// Copies what was found from one `/etc` to another. Files that are no longer public, or hold a
/// private key, are left out.
pub(super) fn copy(from: BorrowedFd<'_>, to: &Path, pieces: &[Piece]) -> io::Result<()> {
    for piece in pieces {
        let target = to.join(&piece.path);
        match &piece.kind {
            Kind::Directory => {
                fs::create_dir(&target)?;
                fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
            }
            Kind::Link(link) => symlink(link, &target)?,
            Kind::File { executable, .. } => {
                let Some(content) = read_public(from, &piece.path)? else { continue };
                fs::write(&target, content)?;
                let mode = Mode::from_raw_mode(if *executable { 0o755 } else { 0o644 });
                fs::set_permissions(&target, fs::Permissions::from_mode(mode.bits()))?;
            }
        }
    }
    Ok(())
}

fn read_public(etc: BorrowedFd<'_>, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match tree::open_file_below(etc, path) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::ACCESS) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    // Asked again of the open file: the name may mean another one by now.
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !public_file(&stat) {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content)?;
    Ok((!holds_private_key(&content)).then_some(content))
}

fn public_file(stat: &Stat) -> bool {
    let small = u64::try_from(stat.st_size).is_ok_and(|size| size < MAX_FILE);
    stat.st_mode & 0o004 != 0 && small
}

fn holds_private_key(content: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    content.windows(MARK.len()).any(|window| window == MARK)
}
