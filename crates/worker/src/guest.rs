//! A guest whose answers are waited for no longer than they are worth.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use stacyvm_fleet::idle::{self, Movement};
use stacyvm_provider::{
    ByteStream, Duplex, Error, ErrorKind, Exec, ExecSpec, FileInfo, FileRead, Guest, Result, Stats,
    WriteOptions,
};
use stacyvm_types::ExecId;
use tokio::time::timeout;

/// For what a healthy agent answers at once.
const QUICK: Duration = Duration::from_secs(10);
/// For what may walk a whole file system.
const WALK: Duration = Duration::from_secs(60);
/// How long a transfer may stand still on the sandbox's side.
pub(crate) const STILL: Duration = Duration::from_secs(30);

/// Bounds every call of a guest. The length of a command and the size of a file have no bound
/// here: their streams do, by standing still.
pub(crate) struct BoundedGuest(Arc<dyn Guest>);

impl BoundedGuest {
    pub(crate) fn new(inner: Arc<dyn Guest>) -> Self {
        Self(inner)
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        let message = format!("the sandbox did not answer within {} s", limit.as_secs());
        Err(Error::unknown(ErrorKind::Timeout, message))
    })
}

#[async_trait]
impl Guest for BoundedGuest {
    #[tracing::instrument(level = "debug", name = "guest.exec", skip_all)]
    async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        within(QUICK, self.0.exec(spec)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.attach", skip_all)]
    async fn attach(&self, exec: &ExecId, offset: u64) -> Result<Exec> {
        within(QUICK, self.0.attach(exec, offset)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.read", skip_all)]
    async fn read(&self, path: &str, range: Option<Range<u64>>) -> Result<FileRead> {
        let mut read = within(QUICK, self.0.read(path, range)).await?;
        read.body = idle::outgoing(read.body, STILL);
        Ok(read)
    }

    #[tracing::instrument(level = "debug", name = "guest.write", skip_all)]
    async fn write(&self, path: &str, options: WriteOptions, body: ByteStream) -> Result<FileInfo> {
        let movement = Movement::default();
        let body = movement.watch(body);
        movement.bound(STILL, self.0.write(path, options, body)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.list", skip_all)]
    async fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        within(WALK, self.0.list(path)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.stat", skip_all)]
    async fn stat(&self, path: &str) -> Result<FileInfo> {
        within(QUICK, self.0.stat(path)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.glob", skip_all)]
    async fn glob(&self, pattern: &str) -> Result<Vec<String>> {
        within(WALK, self.0.glob(pattern)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.rename", skip_all)]
    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        within(QUICK, self.0.rename(from, to)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.chmod", skip_all)]
    async fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        within(QUICK, self.0.chmod(path, mode)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.remove", skip_all)]
    async fn remove(&self, path: &str, recursive: bool) -> Result<()> {
        within(WALK, self.0.remove(path, recursive)).await
    }

    #[tracing::instrument(level = "debug", name = "guest.dial", skip_all)]
    async fn dial(&self, port: u16) -> Result<Box<dyn Duplex>> {
        within(QUICK, self.0.dial(port)).await
    }

    async fn stats(&self) -> Result<Stats> {
        within(QUICK, self.0.stats()).await
    }

    async fn logs(&self, lines: usize) -> Result<Vec<String>> {
        within(QUICK, self.0.logs(lines)).await
    }
}
