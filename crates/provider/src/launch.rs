//! Launching and destroying runtimes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stacyvm_types::{Generation, Limits, SandboxId, Timestamp};

use crate::{Capabilities, Guest, Images, Probe, Result};

/// What to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchSpec {
    /// The sandbox that the runtime is for; also the runtime's name.
    pub id: SandboxId,
    /// The generation that asks for it.
    pub generation: Generation,
    /// `host`, or the name of an imported image.
    pub image: String,
    /// What it may use.
    pub limits: Limits,
    /// How much longer it may live: its worker ends it by itself after that. `None` is without
    /// end. Providers need not look at it.
    pub ttl: Option<Duration>,
}

/// A runtime that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// The sandbox it belongs to.
    pub id: SandboxId,
    /// The generation that launched it.
    pub generation: Generation,
    /// Whether it lives.
    pub state: RuntimeState,
    /// The image it was launched from.
    pub image: String,
    /// When it was launched.
    pub created: Timestamp,
}

/// Whether a runtime lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimeState {
    /// It answers.
    Running,
    /// It is frozen.
    Paused,
    /// Its first process has ended; only leftovers are there, until `destroy`.
    Dead,
}

/// Launches, lists and destroys runtimes of one kind.
///
/// Promises, each with a case in the suite:
/// - `launch` is idempotent by id: a second call finds the first one's runtime. It returns only
///   when the guest is ready to answer. A failed or dropped call leaves nothing, or something that `list`
///   shows.
/// - `destroy` is idempotent: of an unknown id it succeeds. When it returns no process of the
///   runtime is left; files may be deleted later.
/// - `list` is complete, also in a new process after the old one was killed, where
///   [`Capabilities::adoption`] is declared.
/// - What is not declared fails with [`crate::ErrorKind::Unsupported`] and changes nothing.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The provider's name in requests and replies.
    fn name(&self) -> &'static str;

    /// What it can do on this host.
    fn capabilities(&self) -> Capabilities;

    /// Whether it can run here. Cheap enough to call every few seconds.
    async fn probe(&self) -> Probe;

    /// Says that a launch like this will probably follow in a moment, so that work which needs no
    /// owner may begin. Answers at once and promises nothing; what is begun for a launch that never
    /// comes goes away by itself.
    fn expect(&self, _image: &str, _limits: &Limits) {}

    /// Starts a runtime.
    async fn launch(&self, spec: &LaunchSpec) -> Result<Runtime>;

    /// All runtimes.
    async fn list(&self) -> Result<Vec<Runtime>>;

    /// One runtime; [`crate::ErrorKind::NoSandbox`] when there is none.
    async fn status(&self, id: &SandboxId) -> Result<Runtime>;

    /// Ends a runtime and everything in it.
    async fn destroy(&self, id: &SandboxId) -> Result<()>;

    /// Freezes a runtime.
    async fn pause(&self, id: &SandboxId) -> Result<()>;

    /// Thaws a runtime.
    async fn resume(&self, id: &SandboxId) -> Result<()>;

    /// The inside of a runtime.
    async fn guest(&self, id: &SandboxId) -> Result<Arc<dyn Guest>>;

    /// Its imported images, where it has them.
    fn images(&self) -> Option<&dyn Images>;
}
