//! What can be done inside a runtime.

use std::ops::Range;

use async_trait::async_trait;
use stacyvm_types::ExecId;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{ByteStream, Exec, ExecSpec, FileInfo, FileRead, Result, WriteOptions};

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The inside of one runtime.
///
/// Promises, each with a case in the suite:
/// - Paths are absolute, resolved inside the sandbox, symbolic links included: no link, `..` or
///   race leads outside. `/proc` and `/sys` are not files in this sense and are refused.
/// - A write is all or nothing: an interrupted one leaves the old file.
/// - Dropping a call, or an [`Exec`], leaves the sandbox as if the call had finished or never
///   begun; a started command runs on.
/// - Every answer is bounded: lists and globs stop with [`crate::ErrorKind::TooLarge`] above
///   100,000 entries.
#[async_trait]
pub trait Guest: Send + Sync {
    /// Starts a command, or attaches to it at offset 0 if this id was started before. One that was
    /// started and forgotten is not started again: [`crate::ErrorKind::NotFound`], for the last
    /// 8,192 ids of the sandbox at least.
    async fn exec(&self, spec: ExecSpec) -> Result<Exec>;

    /// Follows a command's output from a byte offset, also after its end for as long as the
    /// journal is kept. Unknown or forgotten ids are [`crate::ErrorKind::NotFound`].
    async fn attach(&self, exec: &ExecId, offset: u64) -> Result<Exec>;

    /// Reads a regular file. `range` is cut to the file; one that starts past its end is
    /// [`crate::ErrorKind::Invalid`].
    async fn read(&self, path: &str, range: Option<Range<u64>>) -> Result<FileRead>;

    /// Replaces or makes a regular file, with its parent directories. Follows a final link.
    async fn write(&self, path: &str, options: WriteOptions, body: ByteStream) -> Result<FileInfo>;

    /// The entries of a directory, by name; `.` and `..` excluded.
    async fn list(&self, path: &str) -> Result<Vec<FileInfo>>;

    /// One path, a final link followed.
    async fn stat(&self, path: &str) -> Result<FileInfo>;

    /// The paths that match, sorted. `*` and `?` and `[…]` stay within a name, `**` crosses
    /// directories, and links to directories are not followed by `**`. A pattern that is not
    /// absolute starts at `/workspace`.
    async fn glob(&self, pattern: &str) -> Result<Vec<String>>;

    /// Renames, replacing a file at the target; parents of the target are made.
    async fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Sets permission bits, a final link followed.
    async fn chmod(&self, path: &str, mode: u32) -> Result<()>;

    /// Removes a file, a link itself, or an empty directory; with `recursive` a whole tree.
    async fn remove(&self, path: &str, recursive: bool) -> Result<()>;

    /// Connects to a TCP port on the sandbox's loopback.
    async fn dial(&self, port: u16) -> Result<Box<dyn Duplex>>;

    /// What the sandbox uses now.
    async fn stats(&self) -> Result<Stats>;

    /// The last `lines` lines that commands wrote, oldest first, out of the last 64 KiB.
    async fn logs(&self, lines: usize) -> Result<Vec<String>>;
}

/// What a sandbox uses. `None` where this host cannot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Processor time since its start, in microseconds.
    pub cpu_us: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// The memory limit in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Written space in bytes.
    pub disk_bytes: Option<u64>,
    /// The writable space in bytes.
    pub disk_limit_bytes: Option<u64>,
    /// Bytes received, loopback excluded.
    pub net_rx_bytes: Option<u64>,
    /// Bytes sent, loopback excluded.
    pub net_tx_bytes: Option<u64>,
}
