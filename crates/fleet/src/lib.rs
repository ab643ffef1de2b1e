//! The way from the control plane to the workers that hold the runtimes.
//!
//! [`Worker`] is what control sees of a worker, wherever it runs. Nothing above this crate asks
//! whether a worker is remote. Every call that changes a runtime, or reaches into one, carries the
//! sandbox's lease generation; a worker refuses one that is older than the newest it has seen.
//!
//! A worker of the same process is called; one in another process is a [`remote::RemoteWorker`],
//! whose calls are what [`wire`] describes.

#[cfg(feature = "contract")]
#[expect(clippy::unwrap_used, reason = "a case that panics is a case that fails")]
pub mod contract;
pub mod identity;
pub mod idle;
mod offers;
mod registry;
pub mod remote;
pub mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stacyvm_provider::{Capabilities, Guest, Images, LaunchSpec, Probe, Result, Runtime};
use stacyvm_types::{Generation, Limits, SandboxId, Timestamp, WorkerId};
use tokio::time::Instant;

pub use offers::{MOST_IMAGES, offers};
pub use registry::{Dial, Fleet};

/// What a worker says about one of its providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderReport {
    /// The provider's name.
    pub name: Arc<str>,
    /// Whether it is the one used when a request names none.
    pub default: bool,
    /// What it can do there.
    pub capabilities: Capabilities,
    /// Whether it can run there, and why not.
    pub probe: Probe,
    /// Its runtimes, or `None` when they cannot be counted now.
    pub runtimes: Option<usize>,
    /// How long the look took.
    pub latency: Duration,
    /// When the look was taken.
    pub checked_at: Timestamp,
}

/// A worker: it owns providers and the runtimes they launched.
///
/// Promises, each with a case in the contract suite (`contract`):
/// - `spawn` and `destroy` may be repeated; a failed `spawn` whose outcome is unknown is settled
///   by `runtimes`.
/// - A stale generation is [`stacyvm_provider::ErrorKind::Fenced`] and changes nothing; unknown
///   providers are [`stacyvm_provider::ErrorKind::Unsupported`].
/// - A worker that cannot be reached is [`stacyvm_provider::ErrorKind::Unavailable`], and its
///   outcome is unknown unless the call certainly never left.
/// - A runtime ends by itself soon after its time to live, whether or not anybody calls.
#[async_trait]
pub trait Worker: Send + Sync {
    /// Its id in the registry.
    fn id(&self) -> &WorkerId;

    /// What the named provider can do, or [`stacyvm_provider::ErrorKind::Unsupported`] when this
    /// worker does not have it. Answers from memory: admission asks on every request.
    fn capabilities(&self, provider: &str) -> Result<Capabilities>;

    /// What the registry knows of the worker's providers, in place of what was told before. One of
    /// this process knows it by itself.
    fn set_offers(&self, _offers: Vec<(Arc<str>, Capabilities)>) {}

    /// When a call to it did not come through, if none did since. One of this process is always
    /// reached.
    fn failed_at(&self) -> Option<Instant> {
        None
    }

    /// Says that a spawn like this will probably follow in a moment: see [`Provider::expect`].
    ///
    /// [`Provider::expect`]: stacyvm_provider::Provider::expect
    fn expect(&self, _provider: &str, _image: &str, _limits: &Limits) {}

    /// Starts a runtime with the named provider, whose time to live begins now.
    /// [`stacyvm_provider::ErrorKind::Unavailable`] while the worker drains.
    async fn spawn(&self, provider: &str, spec: &LaunchSpec) -> Result<Runtime>;

    /// Ends a runtime; an unknown one is already gone.
    async fn destroy(&self, provider: &str, id: &SandboxId, generation: Generation) -> Result<()>;

    /// One runtime.
    async fn status(&self, provider: &str, id: &SandboxId) -> Result<Runtime>;

    /// Every runtime of every provider, with the provider's name. Providers that cannot answer
    /// are named in the second list: absence from the first means nothing for those.
    async fn runtimes(&self) -> (Vec<(Arc<str>, Runtime)>, Vec<Arc<str>>);

    /// The inside of a runtime. A worker at a distance may find out with the guest's first call
    /// that there is no such runtime, or that the generation is stale; then that call fails as
    /// this one would have.
    async fn guest(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
    ) -> Result<Arc<dyn Guest>>;

    /// From now on the runtime may live for `remaining`, or for as long as was said before if that
    /// is longer: so the order of two calls does not matter, and what ends earlier is ended by the
    /// control plane. A runtime that is unknown is [`stacyvm_provider::ErrorKind::NoSandbox`].
    async fn set_deadline(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
        remaining: Duration,
    ) -> Result<()>;

    /// Takes no spawns from now on, until [`Worker::undrain`] or a restart. What runs goes on.
    async fn drain(&self) -> Result<()>;

    /// Takes spawns again.
    async fn undrain(&self) -> Result<()>;

    /// The state of every provider, from a short-lived cache; checks run in parallel and bounded.
    async fn providers(&self) -> Vec<ProviderReport>;

    /// The imported images of a provider.
    fn images(&self, provider: &str) -> Result<Arc<dyn Images>>;
}
