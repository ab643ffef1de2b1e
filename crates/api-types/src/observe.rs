//! What operators see: metrics, diagnostics, the host. Nothing here names an owner.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Provider, QuotaSummary, StoreHealth};

/// `GET /metrics`. Counts are since the server's start unless their meaning says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// The event log.
    pub events: EventStats,
    /// Always 0: nothing is collected.
    pub gc_cycles: u64,
    /// Tasks that are alive.
    pub goroutines: u64,
    /// Leases of live sandboxes.
    pub leases: LeaseStats,
    /// Resident memory in bytes.
    pub memory_alloc: u64,
    /// Resident memory in bytes that no file backs.
    pub memory_heap_alloc: u64,
    /// Address space in bytes.
    pub memory_sys: u64,
    /// What callers asked for, by operation and provider.
    pub operations: Vec<OperationStats>,
    /// The providers.
    pub providers: ProviderStats,
    /// Owners with limits of their own, counted.
    pub quotas: QuotaSummary,
    /// Requests that were held back.
    pub rate_limit: RateLimitStats,
    /// Live sandboxes.
    pub sandboxes: SandboxStats,
    /// Spawns that have to wait.
    pub scheduler: SchedulerStats,
    /// Since the start, as a duration.
    pub uptime: String,
    /// The workers.
    pub workers: WorkerStats,
}

/// `GET /diagnostics`: everything that a report about a fault needs, and no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnostics {
    /// The program.
    pub build: Build,
    /// The event log.
    pub events: EventStats,
    /// RFC 3339, to the second.
    pub generated_at: String,
    /// The background jobs.
    pub jobs: Vec<JobStats>,
    /// Leases of live sandboxes.
    pub leases: LeaseStats,
    /// The limits in force.
    pub limits: LimitStats,
    /// What callers asked for, by operation and provider.
    pub operations: Vec<OperationStats>,
    /// This process.
    pub process: Process,
    /// The providers.
    pub providers: Vec<Provider>,
    /// Owners with limits of their own, counted.
    pub quotas: QuotaSummary,
    /// Requests that were held back.
    pub rate_limit: RateLimitStats,
    /// What is never part of this.
    pub redactions: Vec<String>,
    /// Pages that say what to do about what is seen here.
    pub remediation: BTreeMap<String, String>,
    /// Live sandboxes.
    pub sandboxes: SandboxStats,
    /// Spawns that have to wait.
    pub scheduler: SchedulerStats,
    /// The store.
    pub store: StoreHealth,
    /// The workers.
    pub workers: WorkerStats,
}

/// The program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Build {
    /// Its version.
    pub version: String,
    /// The operating system it was built for.
    pub goos: String,
    /// The processor it was built for.
    pub goarch: String,
}

/// This process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Since the start, as a duration.
    pub uptime: String,
    /// Tasks that are alive.
    pub goroutines: u64,
    /// Its memory.
    pub memory: Memory,
}

/// The memory of this process, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// Resident.
    pub alloc: u64,
    /// Address space.
    pub sys: u64,
    /// Resident and backed by no file.
    pub heap_alloc: u64,
    /// Always 0: nothing is collected.
    pub gc_cycles: u64,
}

/// Live sandboxes, counted. All 0 while the store does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SandboxStats {
    /// All that have not ended.
    pub total: u64,
    /// Those whose end is not decided.
    pub active: u64,
    /// By state.
    pub by_state: BTreeMap<String, u64>,
    /// By provider.
    pub by_provider: BTreeMap<String, u64>,
    /// By worker.
    pub by_worker: BTreeMap<String, u64>,
}

/// The providers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderStats {
    /// How many there are.
    pub total: usize,
    /// How many can launch sandboxes.
    pub healthy: usize,
    /// Each of them.
    pub items: Vec<Provider>,
}

/// The workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerStats {
    /// How many there are.
    pub total: usize,
    /// How many take work.
    pub online: usize,
    /// How many take nothing new, because they or the operator say so.
    #[serde(default)]
    pub draining: usize,
    /// How many were not heard for too long.
    pub stale: usize,
    /// How many are none of these.
    pub unhealthy: usize,
    /// Each of them.
    pub items: Vec<WorkerItem>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerItem {
    /// Its id.
    pub id: String,
    /// `online`, `draining` or `offline`.
    pub status: String,
    /// Whether it was not heard for too long.
    pub stale: bool,
    /// What it can launch sandboxes with.
    pub providers: Vec<String>,
}

/// Leases of live sandboxes, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct LeaseStats {
    /// All that have a holder.
    pub total: u64,
    /// Those that hold.
    pub active: u64,
    /// Those that have lapsed.
    pub expired: u64,
    /// By the worker that holds them.
    pub by_holder: BTreeMap<String, u64>,
}

/// The event log, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventStats {
    /// Clients that follow it on this server.
    pub subscribers: usize,
    /// Events up to which it can be replayed, also from before this process.
    pub history_size: u64,
    /// Events that were ever written.
    pub events_total: u64,
}

/// What callers asked for, of one operation and provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperationStats {
    /// Such as `exec`.
    pub operation: String,
    /// The provider, or `unknown`.
    pub provider: String,
    /// Those that succeeded.
    pub success_total: u64,
    /// Those that failed.
    pub failure_total: u64,
    /// All of them.
    pub latency_count: u64,
    /// How long they took together, in milliseconds.
    pub latency_total_ms: f64,
    /// The shortest, in milliseconds.
    pub latency_min_ms: f64,
    /// The longest, in milliseconds.
    pub latency_max_ms: f64,
    /// The mean, in milliseconds.
    pub latency_avg_ms: f64,
    /// Why the last failed one failed: a word such as `resource_limit`; below `/admin` the sentence,
    /// without what could be a secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// When the last one ended, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_observed_unix: Option<i64>,
}

/// Spawns that have to wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SchedulerStats {
    /// `reject` or `queue`.
    pub spawn_overflow: String,
    /// Spawns that wait now.
    pub spawn_queue_depth: u64,
    /// How many may wait.
    pub max_spawn_queue: u64,
    /// How long one may wait.
    pub spawn_queue_timeout: String,
    /// How sandboxes are placed.
    pub admission_control: String,
    /// This server's worker.
    pub worker_id: String,
    /// The worker that the last sandbox went to, where it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selected_worker_id: String,
    /// Workers that could take a sandbox now.
    pub eligible_workers: usize,
    /// Spawns that had to wait.
    pub spawn_queued_total: u64,
    /// Of these, those that came to their turn.
    pub spawn_dequeued_total: u64,
    /// Of these, those that gave up.
    pub spawn_queue_timeouts: u64,
    /// Waits that are over.
    pub spawn_queue_wait_count: u64,
    /// How long they were together, as a duration.
    pub spawn_queue_wait_total: String,
    /// The longest, as a duration.
    pub spawn_queue_wait_max: String,
    /// The mean, as a duration.
    pub spawn_queue_wait_avg: String,
    /// How long they were together, in milliseconds.
    pub spawn_queue_wait_total_ms: f64,
    /// The longest, in milliseconds.
    pub spawn_queue_wait_max_ms: f64,
    /// The mean, in milliseconds.
    pub spawn_queue_wait_avg_ms: f64,
}

/// Requests that were held back. Zeros and empty texts when none is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RateLimitStats {
    /// Whether requests are counted.
    pub enabled: bool,
    /// Requests a minute that each key may make.
    pub requests_per_minute: u64,
    /// How many of them at once.
    pub burst: u64,
    /// What a key is.
    pub key_by: String,
    /// Keys that are remembered.
    pub active_buckets: u64,
    /// Requests that were let through.
    pub allowed_total: u64,
    /// Requests that were refused.
    pub limited_total: u64,
    /// Keys that were forgotten.
    pub evicted_total: u64,
    /// How long an idle key is remembered.
    pub bucket_ttl: String,
    /// How often idle keys are looked for.
    pub cleanup_interval: String,
}

/// The limits in force; 0 and `0s` are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitStats {
    /// Sandboxes that may live at once.
    pub max_sandboxes: u64,
    /// Sandboxes of one owner that may live at once.
    pub max_sandboxes_per_owner: u64,
    /// The deadline of a command that names none.
    pub default_exec_timeout: String,
    /// The longest deadline of a command.
    pub max_exec_timeout: String,
    /// The longest time to live.
    pub max_ttl: String,
    /// What happens to a spawn above a limit: `reject` or `queue`.
    pub spawn_overflow: String,
    /// How long a spawn may wait.
    pub spawn_queue_timeout: String,
    /// How many spawns may wait.
    pub max_spawn_queue: u64,
}

/// A background job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobStats {
    /// Its name.
    pub name: String,
    /// Its finished runs.
    pub runs: u64,
    /// The failures since the last success.
    pub failures_in_row: u64,
}

/// `GET /system/stats`: the host. Rates are over the time since the answer before, at least a
/// second; the first answer is about the time since the server's start.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SystemStats {
    /// Busy processors, of all, in percent.
    pub cpu_pct: f64,
    /// Used memory in percent.
    pub mem_pct: f64,
    /// The used part of the file system that holds the server's data, in percent.
    pub disk_pct: f64,
    /// Bytes received a second, loopback left out.
    pub net_rx_bps: f64,
    /// Bytes sent a second, loopback left out.
    pub net_tx_bps: f64,
    /// The load average over a minute.
    pub load1: f64,
}
