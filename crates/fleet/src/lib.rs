//! The way from the control plane to the workers that hold the runtimes.
//!
//! [`Worker`] is what control sees of a worker, wherever it runs. Nothing above this crate asks
//! whether a worker is remote. Every call that changes a runtime, or reaches into one, carries the
//! sandbox's lease generation; a worker refuses one that is older than the newest it has seen.

pub mod identity;
mod registry;

use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_provider::{Capabilities, Guest, Images, LaunchSpec, Probe, Result, Runtime};
use stacyvm_types::{Generation, Limits, Offer, SandboxId, WorkerId};

pub use registry::{Dial, Fleet};

/// What a worker says about one of its providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderReport {
    /// The provider's name.
    pub name: &'static str,
    /// Whether it is the one used when a request names none.
    pub default: bool,
    /// What it can do there.
    pub capabilities: Capabilities,
    /// Whether it can run there, and why not.
    pub probe: Probe,
    /// Its runtimes, or `None` when they cannot be counted now.
    pub runtimes: Option<usize>,
    /// How long the look took.
    pub latency: std::time::Duration,
    /// When the look was taken.
    pub checked_at: stacyvm_types::Timestamp,
}

/// A worker: it owns providers and the runtimes they launched.
///
/// Promises: `spawn` and `destroy` may be repeated; a failed `spawn` whose outcome is unknown is
/// settled by `runtimes`; a stale generation is [`stacyvm_provider::ErrorKind::Fenced`] and changes
/// nothing; unknown providers are [`stacyvm_provider::ErrorKind::Unsupported`].
#[async_trait]
pub trait Worker: Send + Sync {
    /// Its id in the registry.
    fn id(&self) -> &WorkerId;

    /// What it said of its providers with its last heartbeat. One at a distance answers
    /// [`Worker::capabilities`] from it.
    fn learn(&self, _offers: &[Offer]) {}

    /// What the named provider can do, or [`stacyvm_provider::ErrorKind::Unsupported`] when this
    /// worker does not have it. Answers from memory: admission asks on every request.
    fn capabilities(&self, provider: &str) -> Result<Capabilities>;

    /// Says that a spawn like this will probably follow in a moment: see [`Provider::expect`].
    ///
    /// [`Provider::expect`]: stacyvm_provider::Provider::expect
    fn expect(&self, _provider: &str, _image: &str, _limits: &Limits) {}

    /// Starts a runtime with the named provider.
    async fn spawn(&self, provider: &str, spec: &LaunchSpec) -> Result<Runtime>;

    /// Ends a runtime; an unknown one is already gone.
    async fn destroy(&self, provider: &str, id: &SandboxId, generation: Generation) -> Result<()>;

    /// One runtime.
    async fn status(&self, provider: &str, id: &SandboxId) -> Result<Runtime>;

    /// Every runtime of every provider, with the provider's name. Providers that cannot answer
    /// are named in the second list: absence from the first means nothing for those.
    async fn runtimes(&self) -> (Vec<(&'static str, Runtime)>, Vec<&'static str>);

    /// The inside of a runtime.
    async fn guest(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
    ) -> Result<Arc<dyn Guest>>;

    /// The state of every provider, from a short-lived cache; checks run in parallel and bounded.
    async fn providers(&self) -> Vec<ProviderReport>;

    /// The imported images of a provider.
    fn images(&self, provider: &str) -> Result<&dyn Images>;
}
