//! The contract suite: one case for each promise of [`Worker`], run by every transport.
//!
//! A case gets a worker that nobody else uses, with one provider that launches the image `host`.
//! What happens inside of a sandbox has cases enough in the provider's suite, which [`AsProvider`]
//! points at a worker.

mod cases;
mod provider;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use stacyvm_provider::LaunchSpec;
use stacyvm_types::{Generation, Limits, SandboxId};

use crate::Worker;

pub use cases::cases;
pub use provider::AsProvider;

/// What a case works with.
#[derive(Clone)]
pub struct Scene {
    /// The worker.
    pub worker: Arc<dyn Worker>,
    /// The name of its provider.
    pub provider: String,
}

/// One promise and how it is looked at.
pub struct Case {
    /// A sentence, with underscores.
    pub name: &'static str,
    /// Panics when the promise is not kept.
    pub run: fn(Scene) -> BoxFuture<'static, ()>,
}

impl Scene {
    /// A launch with small limits and no time to live.
    pub fn spec(&self, id: &SandboxId, generation: u64) -> LaunchSpec {
        LaunchSpec {
            id: id.clone(),
            generation: Generation(generation),
            image: "host".to_owned(),
            limits: Limits { memory_mb: 256, vcpus: 1, pids: 64, disk_mb: 64 },
            ttl: None,
        }
    }
}
