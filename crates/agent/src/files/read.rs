//! Reading a regular file.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{FileType, OFlags, Stat},
    io::Errno,
};
use stacyvm_agent_proto::{Entry, Reply};

use super::{Root, entry, refuse_kernel_files};
use crate::fail::{Fail, Result};

/// A file that is being read.
pub(crate) struct Reading {
    fd: OwnedFd,
    entry: Entry<'static>,
    start: u64,
    at: u64,
    end: u64,
}

impl Root {
    /// Opens a regular file for reading. It is looked at before it is opened, since opening a pipe
    /// or device alone can have effects, and again afterwards.
    pub(crate) fn read(&self, path: &str, range: Option<(u64, u64)>) -> Result<Reading> {
        let found = self.locate(path)?;
        let failed = |errno| Fail::os(errno, path);
        require_regular(&rustix::fs::fstat(&found).map_err(failed)?, path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open_at(path, flags).map_err(failed)?;
        refuse_kernel_files(fd.as_fd(), path)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        require_regular(&stat, path)?;
        let entry = entry(path.to_owned(), &stat);
        let (start, end) = range.unwrap_or((0, entry.size));
        if entry.size < start || end < start {
            let message = format!("the range starts after the end of {path}");
            return Err(Fail::invalid(message));
        }
        let end = end.min(entry.size);
        Ok(Reading { fd, entry, start, at: start, end })
    }
}

/// Only regular files hold bytes in this sense.
pub(super) fn require_regular(stat: &Stat, path: &str) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Fail::os(Errno::ISDIR, path)),
        _ => Err(Fail::invalid(format!("{path} is not a regular file"))),
    }
}

impl Reading {
    /// What is sent before the bytes.
    pub(crate) fn head(&self) -> Reply<'static> {
        Reply::File { entry: self.entry.clone(), start: self.start, end: self.end }
    }

    /// The next bytes; none at the end, also when the file shrank.
    pub(crate) fn next(&mut self, most: usize) -> Result<Vec<u8>> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(most)];
        loop {
            match rustix::io::pread(&self.fd, &mut bytes[..], self.at) {
                Ok(length) => {
                    bytes.truncate(length);
                    self.at += length as u64;
                    return Ok(bytes);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Fail::os(errno, &self.entry.path)),
            }
        }
    }

    /// The first bytes at once; what was read when an error cuts it short.
    pub(super) fn all(mut self, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < most
            && let Ok(bytes) = self.next(most - all.len())
            && !bytes.is_empty()
        {
            all.extend(bytes);
        }
        all
    }
}
