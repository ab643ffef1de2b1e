//! Where byte channels come from.

use std::{
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use rustix::fs::{Mode, OFlags};
use stacyvm_provider::Duplex;
use tokio::net::UnixStream;

/// Yields a fresh byte channel to an agent each time it is called.
pub type Connector = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> + Send + Sync>;

/// A connector from a function.
pub fn connector<F, C>(connect: F) -> Connector
where
    F: Fn() -> C + Send + Sync + 'static,
    C: Future<Output = io::Result<Box<dyn Duplex>>> + Send + 'static,
{
    Arc::new(move || Box::pin(connect()))
}

/// Connects to a unix socket by path. A path that is too long for an address is reached through a
/// descriptor of its directory.
pub fn unix(path: impl Into<PathBuf>) -> Connector {
    let path: Arc<Path> = path.into().into();
    connector(move || {
        let path = Arc::clone(&path);
        async move { Ok(Box::new(connect_unix(&path).await?) as Box<dyn Duplex>) }
    })
}

/// The longest path that fits into an address with its final NUL.
const LONGEST: usize = 107;

async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().as_bytes().len() <= LONGEST {
        return UnixStream::connect(path).await;
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    UnixStream::connect(short).await
}
