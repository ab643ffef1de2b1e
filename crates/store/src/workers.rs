//! The registry of workers, and their leases.

use std::time::Duration;

use async_trait::async_trait;
use stacyvm_types::{Beat, Resources, SandboxId, Timestamp, Unfit, WorkerId};

use crate::{Result, Sandbox};

/// A worker as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// What it said last.
    pub beat: Beat,
    /// Whether the operator wants nothing new on it.
    pub cordoned: bool,
    /// When its lease, and with it the leases of its sandboxes, lapses: it holds before, not at,
    /// this instant. [`Timestamp::MAX`] is never.
    pub lease_until: Timestamp,
    /// When it was heard of last.
    pub heartbeat_at: Timestamp,
    /// When it was heard of first.
    pub created_at: Timestamp,
    /// When anything of this but the lease changed last.
    pub updated_at: Timestamp,
}

impl WorkerRow {
    /// Whether it may hold sandboxes at this instant of the store's clock.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now < self.lease_until || self.lease_until == Timestamp::MAX
    }

    /// Why it takes no new sandbox at this instant, if it does not.
    pub fn unfit(&self, now: Timestamp) -> Option<Unfit> {
        if !self.is_fresh(now) {
            Some(Unfit::Stale)
        } else if self.cordoned || self.beat.draining {
            Some(Unfit::Draining)
        } else {
            None
        }
    }

    /// What it does at this instant, in one word.
    pub fn status(&self, now: Timestamp) -> &'static str {
        match self.unfit(now) {
            None => "online",
            Some(Unfit::Draining) => "draining",
            Some(Unfit::Stale | Unfit::Unknown) => "offline",
        }
    }

    /// The row after another heartbeat, or `None` when somebody else has the name.
    #[must_use]
    pub fn heard(self, beat: Beat, term: Option<Duration>, now: Timestamp) -> Option<Self> {
        if self.beat.instance != beat.instance && self.is_fresh(now) {
            return None;
        }
        let updated_at = if self.beat == beat { self.updated_at } else { now };
        Some(Self { lease_until: until(term, now), heartbeat_at: now, updated_at, beat, ..self })
    }

    /// The row after a renewal of its lease that says nothing else.
    #[must_use]
    pub fn renewed(self, term: Duration, now: Timestamp) -> Self {
        let lease_until = self.lease_until.max(now.saturating_add(term));
        Self { lease_until, heartbeat_at: now, ..self }
    }

    /// The row of a worker that is heard of for the first time.
    pub fn first_heard(beat: Beat, term: Option<Duration>, now: Timestamp) -> Self {
        Self {
            beat,
            cordoned: false,
            lease_until: until(term, now),
            heartbeat_at: now,
            created_at: now,
            updated_at: now,
        }
    }
}

fn until(term: Option<Duration>, now: Timestamp) -> Timestamp {
    term.map_or(Timestamp::MAX, |term| now.saturating_add(term))
}

/// The part of the store about workers.
///
/// A store that several hosts share judges leases by a clock of its own: then `now` is not looked
/// at here, nor in the lease methods of [`Store`](crate::Store), nor where an admission looks at
/// its worker's lease.
#[async_trait]
pub trait WorkerStore: Send + Sync {
    /// The time by the clock that leases are judged by: `now` where the store has none.
    async fn time(&self, now: Timestamp) -> Result<Timestamp>;

    /// A worker is alive: remembers what it says and renews its lease for `term`, or without end.
    /// Also a lease that has lapsed is renewed: whoever took sandboxes over meanwhile has raised
    /// their generations. While the lease of another instance of that name holds,
    /// [`Error::LeaseHeld`](crate::Error::LeaseHeld).
    async fn beat(&self, beat: Beat, term: Option<Duration>, now: Timestamp) -> Result<WorkerRow>;

    /// A worker.
    async fn worker(&self, id: &WorkerId) -> Result<Option<WorkerRow>>;

    /// All workers, by id, each with what its sandboxes take.
    async fn workers(&self) -> Result<Vec<(WorkerRow, Resources)>>;

    /// Says whether the operator wants nothing new on a worker; an unknown one is
    /// [`Error::NotFound`](crate::Error::NotFound).
    async fn cordon(&self, id: &WorkerId, cordoned: bool, now: Timestamp) -> Result<WorkerRow>;

    /// Forgets a worker; an unknown one is [`Error::NotFound`](crate::Error::NotFound), one that
    /// holds places [`Error::Conflict`](crate::Error::Conflict).
    async fn remove_worker(&self, id: &WorkerId) -> Result<()>;

    /// The sandboxes of a worker that have not ended and were admitted after the one that was
    /// admitted at this instant with this id, in that order, at most `limit`.
    async fn sandboxes_of(
        &self,
        worker: &WorkerId,
        after: Option<(Timestamp, SandboxId)>,
        limit: u32,
    ) -> Result<Vec<Sandbox>>;
}
