//! What other parts say about themselves to operators.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use stacyvm_types::{Histogram, Tally};

use crate::{Control, Overflow};

/// How the spawns that have to wait are doing. Totals are since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchedulerStatus {
    /// What happens to a spawn above a limit: `reject` or `queue`.
    pub overflow: &'static str,
    /// Spawns that wait now.
    pub depth: u64,
    /// How many may wait; 0 when nothing waits.
    pub capacity: u64,
    /// How long one may wait.
    pub timeout: Duration,
    /// Spawns that had to wait.
    pub queued: u64,
    /// Of these, those that came to their turn.
    pub dequeued: u64,
    /// Of these, those that waited as long as they may.
    pub timed_out: u64,
    /// Of these, those whose caller went away.
    pub cancelled: u64,
    /// How long those waited that came to their turn or waited as long as they may.
    pub waits: Tally,
    /// The longest wait.
    pub longest_wait: Duration,
    /// Workers that could take a sandbox now.
    pub eligible_workers: usize,
}

/// How long spawns waited whose wait is over.
#[derive(Default)]
pub(crate) struct Waits {
    times: Histogram,
    longest_nanos: AtomicU64,
}

impl Waits {
    /// Counts a wait that is over.
    pub(crate) fn record(&self, wait: Duration) {
        self.times.record(wait);
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.longest_nanos.fetch_max(nanos, Relaxed);
    }
}

impl Control {
    /// How the spawns that have to wait are doing.
    pub fn scheduler_status(&self) -> SchedulerStatus {
        let queue = &self.0.queue;
        let (counts, waits) = (queue.counts(), &queue.waits);
        let (overflow, capacity, timeout) = match self.rules().overflow {
            Overflow::Reject => ("reject", 0, Duration::ZERO),
            Overflow::Queue { places, patience } => ("queue", places as u64, patience),
        };
        SchedulerStatus {
            overflow,
            depth: queue.len() as u64,
            capacity,
            timeout,
            queued: counts.queued,
            dequeued: counts.admitted,
            timed_out: counts.timed_out,
            cancelled: counts.cancelled,
            waits: waits.times.tally(),
            longest_wait: Duration::from_nanos(waits.longest_nanos.load(Relaxed)),
            eligible_workers: self.eligible_workers(),
        }
    }
}
