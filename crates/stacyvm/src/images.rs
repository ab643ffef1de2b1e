//! `image … --data-dir`: the images of a worker on this host, asked of the process that runs there,
//! or changed in its place when none runs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::HeaderMap;
use stacyvm_api_types::Image;
use stacyvm_cli::{ExitStatus, Failure, Global, ImagePlace, Told, Upload, args::ImageCommand};
use stacyvm_config::Provider;
use stacyvm_fleet::{
    Worker as _,
    identity::{Credentials, NoCredential, Scope},
    remote::{Connect, RemoteWorker, Stream, who_is_there},
};
use stacyvm_provider::{Capabilities, Error, ErrorKind, ImageRecord, Images};
use stacyvm_types::{WorkerId, time::SystemClock};
use tokio::{net::UnixStream, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{data_dir, failed};

/// The socket for calls from this host, in the data directory of a worker that runs.
pub(crate) const SOCKET: &str = "worker.sock";
/// How long a worker may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs one command about the images of a data directory.
pub(crate) fn images(global: &Global, command: ImageCommand) -> Result<ExitStatus, Failure> {
    let Some(dir) = command.data_dir() else { return Err(failed("no data directory is named")) };
    if !dir.is_dir() {
        let message = format!("{} is no data directory", dir.display());
        return Err(Failure::new(ExitStatus::NOT_FOUND, message));
    }
    let dir = data_dir::prepare(dir)?;
    let runtime = crate::runtime()?;
    let result = runtime.block_on(async {
        let place = Place::open(&dir).await?;
        stacyvm_cli::images(global, &place, command).await
    });
    // A read of standard input that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    result
}

struct Place {
    images: Arc<dyn Images>,
    /// Who has them, where it runs.
    worker: Option<WorkerId>,
    _lock: Option<data_dir::Lock>,
}

impl Place {
    async fn open(dir: &Path) -> Result<Self, Failure> {
        if let Some(lock) = data_dir::try_lock(dir)? {
            let images =
                stacyvm_provider_native::images_of(dir, &TaskTracker::new(), Arc::new(SystemClock));
            let images = Arc::new(images.map_err(refused)?);
            return Ok(Self { images, worker: None, _lock: Some(lock) });
        }
        let here = Here(dir.join(SOCKET));
        let asked = async { who_is_there(here.stream().await?).await };
        let worker = match timeout(PATIENCE, asked).await {
            Ok(Ok(worker)) => worker,
            Ok(Err(_)) | Err(_) => {
                let message = format!(
                    "what uses the data directory {} is no worker that answers; a server is asked \
                     without --data-dir",
                    dir.display()
                );
                return Err(Failure::new(ExitStatus::UNREACHABLE, message));
            }
        };
        let far =
            RemoteWorker::new(worker.clone(), "http://here:80", Arc::new(here), Arc::new(Owner));
        let far = far.map_err(refused)?;
        let provider = Provider::Native.word();
        let capabilities = Capabilities { images: true, ..Capabilities::default() };
        far.set_offers(vec![(provider.into(), capabilities)]);
        let images = far.images(provider).map_err(refused)?;
        Ok(Self { images, worker: Some(worker), _lock: None })
    }

    fn shown(&self, record: ImageRecord) -> Image {
        Image {
            name: record.name,
            size_bytes: record.size,
            created_at: record.created.to_string(),
            workers: self.worker.iter().map(ToString::to_string).collect(),
        }
    }
}

impl ImagePlace for Place {
    async fn list(&self) -> Result<(Told<Vec<Image>>, Vec<String>), Failure> {
        let records = self.images.list().await.map_err(refused)?;
        let value: Vec<_> = records.into_iter().map(|record| self.shown(record)).collect();
        let json = written(serde_json::to_vec(&value))?;
        Ok((Told { value, json }, Vec::new()))
    }

    async fn import(&self, name: &str, archive: Upload) -> Result<Told<Image>, Failure> {
        let archive = archive.into_stream().map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the archive cannot be read: {error}"))
        });
        let imported = self.images.import(name, archive.boxed()).await;
        let value = self.shown(imported.map_err(refused)?);
        let json = written(serde_json::to_vec(&value))?;
        Ok(Told { value, json })
    }

    async fn remove(&self, name: &str) -> Result<Vec<u8>, Failure> {
        self.images.remove(name).await.map_err(refused)?;
        let reply = stacyvm_api_types::StatusReply { status: "deleted".to_owned() };
        written(serde_json::to_vec(&reply))
    }
}

fn written(json: serde_json::Result<Vec<u8>>) -> Result<Vec<u8>, Failure> {
    json.map_err(|error| failed(error.to_string()))
}

fn refused(error: Error) -> Failure {
    use ErrorKind as K;
    let status = match error.kind {
        K::NoImage | K::NotFound | K::NoSandbox => ExitStatus::NOT_FOUND,
        K::Conflict | K::Exhausted | K::Denied | K::Fenced => ExitStatus::REFUSED,
        K::Invalid | K::TooLarge => ExitStatus::USAGE,
        K::Unavailable | K::Timeout => ExitStatus::UNREACHABLE,
        K::Unsupported | K::NotExecutable | K::DiskFull | K::Internal => ExitStatus::FAILED,
    };
    Failure::new(status, crate::chain(&error))
}

/// The way to the worker of this host.
struct Here(PathBuf);

impl Here {
    async fn stream(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(UnixStream::connect(&self.0).await?))
    }
}

#[async_trait]
impl Connect for Here {
    async fn connect(&self, _: &WorkerId, _: &str, _: u16) -> io::Result<Box<dyn Stream>> {
        self.stream().await
    }
}

/// Whoever reaches the socket shows nothing more.
struct Owner;

impl Credentials for Owner {
    fn headers(&self, _: &WorkerId, _: Scope) -> Result<HeaderMap, NoCredential> {
        Ok(HeaderMap::new())
    }
}
