//! A provider that never keeps its caller waiting for longer than promised.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use stacyvm_fleet::idle::Movement;
use stacyvm_provider::{
    ByteStream, Capabilities, Error, ErrorKind, Guest, ImageRecord, Images, LaunchSpec, Outcome,
    Probe, Provider, Result, Runtime,
};
use stacyvm_types::{Limits, SandboxId};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use crate::guest::{BoundedGuest, STILL};

/// The longest launch.
pub(crate) const LAUNCH: Duration = Duration::from_secs(60);
/// The longest destruction.
pub(crate) const DESTROY: Duration = Duration::from_secs(30);
/// The longest answer to a question.
pub(crate) const ASK: Duration = Duration::from_secs(10);
/// The longest look at whether a provider can work.
pub(crate) const PROBE: Duration = Duration::from_secs(2);

/// Calls of one kind that one provider works on at once. Launches and destructions have their own,
/// so that launches that hang never keep anything from being destroyed.
const LAUNCHES: usize = 64;
const DESTRUCTIONS: usize = 64;
const IMPORTS: usize = 2;

/// Bounds every call of a provider in time and number. Waiting for a turn counts as waiting.
pub(crate) struct Bounded {
    inner: Arc<dyn Provider>,
    launches: Semaphore,
    destructions: Semaphore,
    imports: Semaphore,
    /// Told when the images are others.
    changed: Arc<Notify>,
}

impl Bounded {
    pub(crate) fn new(inner: Arc<dyn Provider>, changed: Arc<Notify>) -> Self {
        Self {
            inner,
            launches: Semaphore::new(LAUNCHES),
            destructions: Semaphore::new(DESTRUCTIONS),
            imports: Semaphore::new(IMPORTS),
            changed,
        }
    }

    /// One call, in turn. Before its turn nothing has happened; after it, who knows.
    async fn in_turn<T>(
        &self,
        turns: &Semaphore,
        limit: Duration,
        doing: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut outcome = Outcome::NotDone;
        let turn = async {
            let permit = turns.acquire().await;
            outcome = Outcome::Unknown;
            let result = work.await;
            drop(permit);
            result
        };
        match timeout(limit, turn).await {
            Ok(result) => result,
            Err(_) => Err(self.late(limit, doing, outcome)),
        }
    }

    async fn ask<T>(&self, doing: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let result = timeout(ASK, work).await;
        result.unwrap_or_else(|_| Err(self.late(ASK, doing, Outcome::Unknown)))
    }

    fn late(&self, limit: Duration, doing: &str, outcome: Outcome) -> Error {
        let name = self.inner.name();
        let message =
            format!("provider {name} did not finish {doing} within {} s", limit.as_secs());
        match outcome {
            Outcome::NotDone => Error::new(ErrorKind::Unavailable, message),
            Outcome::Unknown => Error::unknown(ErrorKind::Timeout, message),
        }
    }

    fn inner_images(&self) -> Result<&dyn Images> {
        self.inner.images().ok_or_else(|| {
            let message = format!("provider {} has no images", self.inner.name());
            Error::new(ErrorKind::Unsupported, message)
        })
    }
}

#[async_trait]
impl Provider for Bounded {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Probe {
        timeout(PROBE, self.inner.probe()).await.unwrap_or_else(|_| Probe {
            usable: false,
            summary: format!("it did not answer within {} s", PROBE.as_secs()),
            findings: Vec::new(),
        })
    }

    fn expect(&self, image: &str, limits: &Limits) {
        self.inner.expect(image, limits);
    }

    #[tracing::instrument(level = "debug", name = "provider.launch", skip_all, fields(provider = self.inner.name(), sandbox.id = %spec.id))]
    async fn launch(&self, spec: &LaunchSpec) -> Result<Runtime> {
        self.in_turn(&self.launches, LAUNCH, "a launch", self.inner.launch(spec)).await
    }

    async fn list(&self) -> Result<Vec<Runtime>> {
        self.ask("a list", self.inner.list()).await
    }

    async fn status(&self, id: &SandboxId) -> Result<Runtime> {
        self.ask("a status", self.inner.status(id)).await
    }

    #[tracing::instrument(level = "debug", name = "provider.destroy", skip_all, fields(provider = self.inner.name(), sandbox.id = %id))]
    async fn destroy(&self, id: &SandboxId) -> Result<()> {
        let work = self.inner.destroy(id);
        self.in_turn(&self.destructions, DESTROY, "a destruction", work).await
    }

    async fn pause(&self, id: &SandboxId) -> Result<()> {
        self.ask("a pause", self.inner.pause(id)).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<()> {
        self.ask("a resume", self.inner.resume(id)).await
    }

    #[tracing::instrument(level = "debug", name = "provider.guest", skip_all, fields(provider = self.inner.name(), sandbox.id = %id))]
    async fn guest(&self, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        let guest = self.ask("a connection", self.inner.guest(id)).await?;
        Ok(Arc::new(BoundedGuest::new(guest)))
    }

    fn images(&self) -> Option<&dyn Images> {
        self.inner.images().map(|_| self as &dyn Images)
    }
}

#[async_trait]
impl Images for Bounded {
    async fn list(&self) -> Result<Vec<ImageRecord>> {
        self.ask("a list of images", self.inner_images()?.list()).await
    }

    async fn import(&self, name: &str, archive: ByteStream) -> Result<ImageRecord> {
        let images = self.inner_images()?;
        let Ok(_turn) = self.imports.try_acquire() else {
            let message = format!("{IMPORTS} imports are under way; try again when one is done");
            return Err(Error::new(ErrorKind::Unavailable, message));
        };
        let movement = Movement::default();
        let archive = movement.watch(archive.boxed());
        let imported = movement.bound(STILL, images.import(name, archive)).await?;
        self.changed.notify_one();
        Ok(imported)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let images = self.inner_images()?;
        match timeout(DESTROY, images.remove(name)).await {
            Ok(Ok(())) => {
                self.changed.notify_one();
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.late(DESTROY, "removing an image", Outcome::Unknown)),
        }
    }
}
