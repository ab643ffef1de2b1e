//! A process that can be killed, and stopped for a while, at any of its awaits.
//!
//! A node reaches the world only through the parts that the simulation gives it, and each of those
//! asks its [`Life`] before and after every effect. Those of a dead node never return: whatever its
//! tasks still hold, nothing of it is seen any more, as after SIGKILL. Those of a node that is
//! stopped return when it goes on, and what it was about to do it then does, as after SIGSTOP.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use stacyvm_types::{Timestamp, time::Clock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// One life of a node. Clones share it.
#[derive(Clone)]
pub(crate) struct Life(Arc<Inner>);

struct Inner {
    world: World,
    name: String,
    stopped: AtomicBool,
    resumed: Notify,
    /// Steps until it dies at one; 0 is never.
    left: AtomicU64,
    dead: CancellationToken,
}

impl Life {
    pub(crate) fn new(world: &World, name: String) -> Self {
        Self(Arc::new(Inner {
            world: world.clone(),
            name,
            stopped: AtomicBool::new(false),
            resumed: Notify::new(),
            left: AtomicU64::new(0),
            dead: CancellationToken::new(),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// One step of the node: returns when it takes it, which a dead one never does.
    pub(crate) async fn step(&self) {
        let left = self.0.left.load(Ordering::Relaxed);
        if left != 0 {
            self.0.left.store(left - 1, Ordering::Relaxed);
            if left == 1 {
                self.kill("at a step");
            }
        }
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let resumed = self.0.resumed.notified();
            if !self.0.stopped.load(Ordering::Relaxed) {
                return;
            }
            resumed.await;
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.dead.is_cancelled()
    }

    /// Whether it takes steps.
    pub(crate) fn is_up(&self) -> bool {
        !self.is_dead() && !self.0.stopped.load(Ordering::Relaxed)
    }

    /// Ends when the node dies.
    pub(crate) async fn death(&self) {
        self.0.dead.cancelled().await;
    }

    pub(crate) fn kill(&self, how: &str) {
        if !self.is_dead() {
            self.0.world.note(self.name(), format_args!("dies {how}"));
            self.0.dead.cancel();
        }
    }

    /// Lets it die at one of its next steps.
    pub(crate) fn kill_after(&self, steps: u64) {
        self.0.left.store(steps, Ordering::Relaxed);
    }

    /// Stops it, or lets it go on.
    pub(crate) fn stop(&self, stopped: bool) {
        self.0.stopped.store(stopped, Ordering::Relaxed);
        if !stopped {
            self.0.resumed.notify_waiters();
        }
    }
}

/// A node's clock: the true time, wrong by a constant and by a rate.
pub(crate) struct SimClock {
    pub(crate) world: World,
    /// How far it is ahead, in microseconds.
    pub(crate) ahead: i64,
    /// Microseconds that it gains in a second.
    pub(crate) drift: i64,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let gained = i64::try_from(self.world.elapsed().as_secs()).unwrap_or(0) * self.drift;
        Timestamp::from_micros(self.world.now().as_micros() + self.ahead + gained)
    }
}
