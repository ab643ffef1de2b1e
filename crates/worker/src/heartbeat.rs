//! How a worker's control plane learns that it lives, and what it has.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stacyvm_fleet::{
    Worker,
    remote::{ControlPlane, NotHeard},
    wire::{Heartbeat, HeartbeatReply},
};
use stacyvm_types::{Beat, Resources};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::LocalWorker;

/// The way to the control plane.
#[async_trait]
pub trait ControlLink: Send + Sync {
    /// Says that a worker lives.
    async fn beat(&self, beat: Beat) -> Result<HeartbeatReply, NotHeard>;
}

#[async_trait]
impl ControlLink for ControlPlane {
    async fn beat(&self, beat: Beat) -> Result<HeartbeatReply, NotHeard> {
        Self::beat(self, &Heartbeat::of(&beat)).await
    }
}

/// What a worker says of itself that does not change.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The random word of its data directory.
    pub instance: String,
    /// The host that it runs on.
    pub hostname: String,
    /// The version of its program.
    pub version: String,
    /// Where it takes calls.
    pub url: Option<String>,
    /// What it can hold.
    pub capacity: Resources,
}

/// Says that a worker lives, again and again.
pub struct Heart {
    worker: Arc<LocalWorker>,
    facts: Facts,
    link: Arc<dyn ControlLink>,
}

impl Heart {
    /// The heart of this worker.
    pub fn new(worker: Arc<LocalWorker>, facts: Facts, link: Arc<dyn ControlLink>) -> Self {
        Self { worker, facts, link }
    }

    /// Beats once.
    pub async fn beat(&self) -> Result<HeartbeatReply, NotHeard> {
        self.link.beat(self.says().await).await
    }

    /// Beats at this interval until `stopping`, whatever the control plane answers. What it refuses
    /// and when it is away is logged when that begins and when it ends.
    pub async fn beat_until(&self, stopping: CancellationToken, interval: Duration) {
        let mut trouble: Option<String> = None;
        let mut drains = None;
        loop {
            let next = Instant::now() + interval;
            match self.beat().await {
                Ok(reply) => {
                    if trouble.take().is_some() {
                        tracing::info!("the control plane hears this worker again");
                    }
                    if drains.replace(reply.drain) != Some(reply.drain) && reply.drain {
                        tracing::info!("the operator wants nothing new on this worker");
                    }
                }
                Err(error) => {
                    let told = error.to_string();
                    if trouble.as_ref() != Some(&told) {
                        tracing::warn!(%error, "a heartbeat was not taken; this is tried again");
                    }
                    trouble = Some(told);
                }
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                // What is imported here is wanted soon.
                () = self.worker.images_changed() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn says(&self) -> Beat {
        let offers = stacyvm_fleet::offers(&*self.worker).await;
        let Facts { instance, hostname, version, url, capacity } = self.facts.clone();
        let (id, draining) = (self.worker.id().clone(), self.worker.is_draining());
        Beat { id, instance, hostname, version, url, draining, offers, capacity }
    }
}
