//! What other parts say about themselves to operators.

use std::time::Duration;

use stacyvm_types::Tally;

use crate::Control;

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
    /// Of these, those that gave up.
    pub timed_out: u64,
    /// How long those waited that came to their turn or gave up.
    pub waits: Tally,
    /// The longest wait.
    pub longest_wait: Duration,
    /// Workers that could take a sandbox now.
    pub eligible_workers: usize,
}

/// How many owners have limits of their own. It names none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaCounts {
    /// Owners with a quota.
    pub total: u64,
    /// Of these, with a limit on sandboxes.
    pub with_max_sandboxes: u64,
    /// Of these, with a limit on time to live.
    pub with_max_ttl: u64,
    /// Of these, with a limit on exec time.
    pub with_max_exec_timeout: u64,
}

/// How requests are held back. All zero and empty when none is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RateLimitStatus {
    /// Whether requests are counted.
    pub enabled: bool,
    /// Requests a minute that each key may make.
    pub requests_per_minute: u64,
    /// How many of them at once.
    pub burst: u64,
    /// What a key is: `owner`, `api_key` or `ip`.
    pub key_by: String,
    /// Keys that are remembered.
    pub active_buckets: u64,
    /// Requests that were let through since the start.
    pub allowed: u64,
    /// Requests that were refused since the start.
    pub limited: u64,
    /// Keys that were forgotten since the start.
    pub evicted: u64,
    /// How long a key is remembered that asks nothing.
    pub bucket_ttl: Option<Duration>,
    /// How often idle keys are looked for.
    pub cleanup_interval: Option<Duration>,
}

impl Control {
    /// How the spawns that have to wait are doing. There is no queue: none waits, and one above a
    /// limit is refused.
    pub fn scheduler_status(&self) -> SchedulerStatus {
        let eligible_workers = self.0.parts.fleet.workers().count();
        SchedulerStatus { overflow: "reject", eligible_workers, ..SchedulerStatus::default() }
    }

    /// How many owners have limits of their own: none can have.
    pub fn quota_counts(&self) -> QuotaCounts {
        QuotaCounts::default()
    }
}
