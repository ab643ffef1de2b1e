//! Work through directories in slices, so that a huge tree never holds up the loop.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Dir, OFlags};
use stacyvm_agent_proto::{Entry, FailKind, Reply, encode};

use super::{Root, entry, refuse_kernel_files};
use crate::{
    fail::{Fail, Result},
    limits::{ENTRIES_PER_SLICE, MAX_ENTRIES},
    stream::Slice,
};

/// Work that is done in slices.
pub(crate) trait Walk {
    /// Does a bounded part of the work and appends the messages that come of it.
    fn step(&mut self, root: &Root, out: &mut Vec<u8>) -> Result<Slice>;
}

/// The error of an answer that would be too long.
pub(super) fn too_many() -> Fail {
    let message = format!("there are more than {MAX_ENTRIES} entries; ask for fewer");
    Fail::new(FailKind::TooLarge, message)
}

/// The entries of one directory.
pub(crate) struct Listing {
    dir: Dir,
    path: String,
    told: u64,
}

impl Listing {
    /// Opens the directory.
    pub(crate) fn begin(root: &Root, path: &str) -> Result<Self> {
        let found = root.locate(path)?;
        drop(found);
        let failed = |errno| Fail::os(errno, path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let fd = root.open_at(path, flags).map_err(failed)?;
        refuse_kernel_files(fd.as_fd(), path)?;
        let dir = Dir::new(fd).map_err(failed)?;
        Ok(Self { dir, path: path.trim_end_matches('/').to_owned(), told: 0 })
    }
}

impl Walk for Listing {
    fn step(&mut self, _root: &Root, out: &mut Vec<u8>) -> Result<Slice> {
        let mut entries: Vec<Entry<'_>> = Vec::new();
        let mut slice = Slice::More;
        for _ in 0..ENTRIES_PER_SLICE {
            let Some(found) = self.dir.read() else {
                slice = Slice::Done;
                break;
            };
            let found = found.map_err(|errno| Fail::os(errno, &self.path))?;
            let name = found.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let dir = self.dir.fd().map_err(|errno| Fail::os(errno, &self.path))?;
            // One that is gone meanwhile is no entry.
            let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            self.told += 1;
            if MAX_ENTRIES < self.told {
                return Err(too_many());
            }
            let path = format!("{}/{}", self.path, name.to_string_lossy());
            entries.push(entry(path, &stat));
        }
        if !entries.is_empty() {
            encode(&Reply::Entries(entries), out);
        }
        Ok(slice)
    }
}
