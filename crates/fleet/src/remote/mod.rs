//! A worker in another process, reached over HTTP.

mod address;
mod call;
mod connect;
mod control;
mod exec;
mod files;
mod guest;
mod images;
mod link;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use stacyvm_provider::{
    Capabilities, Error, ErrorKind, Guest, Images, LaunchSpec, Probe, Result, Runtime,
};
use stacyvm_types::{Generation, Limits, SandboxId, Timestamp, WorkerId};
use tokio::time::Instant;

pub use connect::{Connect, Stream, Tcp, Tls, tcp, who_is_there};
pub use control::{ControlPlane, NotHeard};

use crate::{
    Dial, ProviderReport, Worker,
    identity::Credentials,
    wire::{
        DeadlineParams, ExpectParams, ProviderList, RuntimeList, SpawnParams, Status, Target,
        method,
    },
};
use guest::RemoteGuest;
use images::RemoteImages;
use link::Link;

/// A worker in another process.
///
/// Which providers it has, and what they can do, is what [`Worker::set_offers`] was told
/// last; a worker of which nothing was told has none.
pub struct RemoteWorker {
    id: WorkerId,
    link: Arc<Link>,
    offers: RwLock<BTreeMap<Arc<str>, Capabilities>>,
}

impl RemoteWorker {
    /// The worker `id` at `url`, which is `http://host:port` or `https://host:port`. Connects to
    /// nothing yet.
    pub fn new(
        id: WorkerId,
        url: &str,
        connect: Arc<dyn Connect>,
        credentials: Arc<dyn Credentials>,
    ) -> Result<Self> {
        let link = Link::new(id.clone(), url, connect, credentials)?;
        Ok(Self { id, link, offers: RwLock::default() })
    }

    fn offered(&self) -> Vec<(Arc<str>, Capabilities)> {
        let offers = self.offers.read().unwrap_or_else(PoisonError::into_inner);
        offers.iter().map(|(name, capabilities)| (name.clone(), *capabilities)).collect()
    }

    async fn ask<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &'static str,
        right: Option<(&SandboxId, Generation)>,
        params: &P,
    ) -> Result<R> {
        self.link.ask(self.link.call(method, right, params)?).await
    }
}

#[derive(Serialize)]
struct Nothing {}

fn target(provider: &str, id: &SandboxId) -> Target {
    Target { sandbox_id: id.to_string(), provider: provider.to_owned() }
}

#[async_trait]
impl Worker for RemoteWorker {
    fn id(&self) -> &WorkerId {
        &self.id
    }

    fn capabilities(&self, provider: &str) -> Result<Capabilities> {
        let offers = self.offers.read().unwrap_or_else(PoisonError::into_inner);
        offers.get(provider).copied().ok_or_else(|| {
            let message = format!("worker {} has no provider {provider}", self.id);
            Error::new(ErrorKind::Unsupported, message)
        })
    }

    fn set_offers(&self, offers: Vec<(Arc<str>, Capabilities)>) {
        let offers = offers.into_iter().collect();
        *self.offers.write().unwrap_or_else(PoisonError::into_inner) = offers;
    }

    fn failed_at(&self) -> Option<Instant> {
        self.link.failed_at()
    }

    fn expect(&self, provider: &str, image: &str, limits: &Limits) {
        let params = ExpectParams::new(provider, image, limits);
        let Ok(call) = self.link.call(method::EXPECT, None, &params) else { return };
        let link = Arc::clone(&self.link);
        self.link.tell(async move {
            if let Err(error) = link.ask::<()>(call).await {
                tracing::debug!(worker.id = %link.worker(), ?error, "a hint did not arrive");
            }
        });
    }

    #[tracing::instrument(level = "debug", name = "remote.spawn", skip_all, fields(worker.id = %self.id, provider, sandbox.id = %spec.id))]
    async fn spawn(&self, provider: &str, spec: &LaunchSpec) -> Result<Runtime> {
        let params = SpawnParams::new(provider, spec);
        let right = Some((&spec.id, spec.generation));
        let status: Status = self.ask(method::SPAWN, right, &params).await?;
        status.runtime()
    }

    #[tracing::instrument(level = "debug", name = "remote.destroy", skip_all, fields(worker.id = %self.id, provider, sandbox.id = %id))]
    async fn destroy(&self, provider: &str, id: &SandboxId, generation: Generation) -> Result<()> {
        let right = Some((id, generation));
        self.ask(method::DESTROY, right, &target(provider, id)).await
    }

    #[tracing::instrument(level = "debug", name = "remote.status", skip_all, fields(worker.id = %self.id, provider, sandbox.id = %id))]
    async fn status(&self, provider: &str, id: &SandboxId) -> Result<Runtime> {
        let status: Status = self.ask(method::STATUS, None, &target(provider, id)).await?;
        status.runtime()
    }

    /// All offered providers are silent when the worker is.
    async fn runtimes(&self) -> (Vec<(Arc<str>, Runtime)>, Vec<Arc<str>>) {
        let listed = self.ask::<_, RuntimeList>(method::RUNTIMES, None, &Nothing {}).await;
        let read = listed.and_then(|list| {
            let runtimes = list.runtimes.into_iter().map(|entry| entry.runtime());
            Ok((runtimes.collect::<Result<Vec<_>>>()?, list.silent))
        });
        match read {
            Ok((runtimes, silent)) => (runtimes, silent.into_iter().map(Arc::from).collect()),
            Err(error) => {
                tracing::warn!(worker.id = %self.id, ?error, "a worker cannot list its runtimes");
                (Vec::new(), self.offered().into_iter().map(|(name, _)| name).collect())
            }
        }
    }

    async fn guest(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
    ) -> Result<Arc<dyn Guest>> {
        Ok(Arc::new(RemoteGuest {
            link: Arc::clone(&self.link),
            provider: provider.to_owned(),
            sandbox: id.clone(),
            generation,
        }))
    }

    async fn set_deadline(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
        remaining: Duration,
    ) -> Result<()> {
        let params = DeadlineParams {
            sandbox_id: id.to_string(),
            provider: provider.to_owned(),
            remaining_us: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
        };
        self.ask(method::SET_DEADLINE, Some((id, generation)), &params).await
    }

    async fn drain(&self) -> Result<()> {
        self.ask(method::SHUTDOWN, None, &Nothing {}).await
    }

    async fn undrain(&self) -> Result<()> {
        self.ask(method::UNDRAIN, None, &Nothing {}).await
    }

    /// A worker that does not answer has every provider that it offered, none of which can be used.
    async fn providers(&self) -> Vec<ProviderReport> {
        match self.ask::<_, ProviderList>(method::PROVIDERS, None, &Nothing {}).await {
            Ok(list) => list.providers.into_iter().map(|entry| entry.report()).collect(),
            Err(error) => {
                tracing::warn!(worker.id = %self.id, ?error, "a worker cannot report");
                let summary = error.message;
                self.offered()
                    .into_iter()
                    .map(|(name, capabilities)| unusable(name, capabilities, &summary))
                    .collect()
            }
        }
    }

    fn images(&self, provider: &str) -> Result<Arc<dyn Images>> {
        if !self.capabilities(provider)?.images {
            let message = format!("provider {provider} has no images");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (link, provider) = (Arc::clone(&self.link), provider.to_owned());
        Ok(Arc::new(RemoteImages { link, provider }))
    }
}

fn unusable(name: Arc<str>, capabilities: Capabilities, summary: &str) -> ProviderReport {
    ProviderReport {
        name,
        default: false,
        capabilities,
        probe: Probe { usable: false, summary: summary.to_owned(), findings: Vec::new() },
        runtimes: None,
        latency: Duration::ZERO,
        checked_at: Timestamp::from_micros(0),
    }
}

/// Makes workers out of their addresses, all reached and convinced in the same way.
#[derive(Clone)]
pub struct HttpDial {
    /// How connections are opened.
    pub connect: Arc<dyn Connect>,
    /// What proves who calls.
    pub credentials: Arc<dyn Credentials>,
}

impl Dial for HttpDial {
    fn dial(&self, id: &WorkerId, url: &str) -> Result<Arc<dyn Worker>> {
        let (connect, credentials) = (Arc::clone(&self.connect), Arc::clone(&self.credentials));
        Ok(Arc::new(RemoteWorker::new(id.clone(), url, connect, credentials)?))
    }
}
