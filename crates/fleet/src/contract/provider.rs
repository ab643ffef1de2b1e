//! A worker seen as one of its providers, for the provider's suite.

use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_provider::{
    Capabilities, Error, ErrorKind, Guest, Images, LaunchSpec, Probe, Provider, Result, Runtime,
};
use stacyvm_types::{Generation, SandboxId};

use crate::Worker;

/// One provider of a worker. Commands everything by the generation that the worker reports.
pub struct AsProvider {
    worker: Arc<dyn Worker>,
    name: &'static str,
    images: Option<Arc<dyn Images>>,
}

impl AsProvider {
    /// The provider `name` of a worker.
    pub fn new(worker: Arc<dyn Worker>, name: &'static str) -> Self {
        let images = worker.images(name).ok();
        Self { worker, name, images }
    }

    async fn generation(&self, id: &SandboxId) -> Generation {
        match self.worker.status(self.name, id).await {
            Ok(runtime) => runtime.generation,
            // It is not there, or comes later; then it is not wanted any more.
            Err(_) => Generation(u64::from(u32::MAX)),
        }
    }
}

#[async_trait]
impl Provider for AsProvider {
    fn name(&self) -> &'static str {
        self.name
    }

    /// A worker does not pause, and is not opened twice.
    fn capabilities(&self) -> Capabilities {
        let own = self.worker.capabilities(self.name).unwrap_or_default();
        Capabilities { pause: false, adoption: false, ..own }
    }

    async fn probe(&self) -> Probe {
        let reports = self.worker.providers().await;
        let own = reports.into_iter().find(|report| *report.name == *self.name);
        own.map_or_else(
            || Probe { usable: false, summary: "not reported".to_owned(), findings: Vec::new() },
            |report| report.probe,
        )
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Runtime> {
        self.worker.spawn(self.name, spec).await
    }

    async fn list(&self) -> Result<Vec<Runtime>> {
        let (runtimes, silent) = self.worker.runtimes().await;
        if silent.iter().any(|name| **name == *self.name) {
            return Err(Error::unknown(ErrorKind::Unavailable, "the provider is silent"));
        }
        let own = runtimes.into_iter().filter(|(name, _)| **name == *self.name);
        Ok(own.map(|(_, runtime)| runtime).collect())
    }

    async fn status(&self, id: &SandboxId) -> Result<Runtime> {
        self.worker.status(self.name, id).await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<()> {
        let generation = self.generation(id).await;
        self.worker.destroy(self.name, id, generation).await
    }

    async fn pause(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "a worker does not pause"))
    }

    async fn resume(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "a worker does not resume"))
    }

    /// Looks first, because a worker at a distance may find out later that there is no such
    /// runtime, and a provider may not.
    async fn guest(&self, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        let runtime = self.worker.status(self.name, id).await?;
        self.worker.guest(self.name, id, runtime.generation).await
    }

    fn images(&self) -> Option<&dyn Images> {
        self.images.as_deref()
    }
}
