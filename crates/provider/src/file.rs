//! Files inside a sandbox.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use stacyvm_types::Timestamp;

use crate::Result;

/// A body that flows in pieces.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

/// A file, described the same way by every provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Absolute path as it was asked for or found. Bytes that are not UTF-8 are replaced by
    /// U+FFFD; such a file cannot be named through the API, only by a command.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits, `0..=0o7777`.
    pub mode: u32,
    /// What it is. `stat` follows a final symbolic link; `list` does not.
    pub kind: FileKind,
    /// Last change of the content.
    pub modified: Timestamp,
}

/// A file being read.
pub struct FileRead {
    /// The file.
    pub info: FileInfo,
    /// The part of it that follows, cut to its size.
    pub range: Range<u64>,
    /// The bytes of `range`. Shorter when the file shrinks meanwhile.
    pub body: ByteStream,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Permission bits; `None` keeps those of an existing file, or is `0o644`.
    pub mode: Option<u32>,
}
