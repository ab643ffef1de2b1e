//! Sandboxes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// `POST /sandboxes` and `POST /sandboxes/admission`. Empty text and zero mean "not given".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SpawnRequest {
    /// `host`, or the name of an imported image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::image")]
    pub image: Option<String>,
    /// The provider by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub memory_mb: Option<u32>,
    /// Virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub vcpus: Option<u32>,
    /// Writable space in MiB.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub disk_mb: Option<u32>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub pids: Option<u32>,
    /// Time to live.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
    /// The owner; the header `X-User-ID` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::owner")]
    pub owner_id: Option<String>,
    /// A template to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The client's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::words")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Environment of every command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::env")]
    pub env: Option<BTreeMap<String, String>>,
    /// How urgent it is among its owner's own when it has to wait: 0 to 9, 0 when it is not given.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::priority")]
    pub priority: Option<u32>,
    /// Only `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::one_of("none"))]
    pub network_mode: Option<String>,
}

/// A sandbox. The first keys are those of the published contract, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sandbox {
    /// `sb-` and 20 hex digits.
    pub id: String,
    /// `creating`, `running`, `paused`, `unhealthy`, `expired`, `stopped`, `error` or `destroyed`.
    pub state: String,
    /// The provider that runs it.
    pub provider: String,
    /// The image it started from.
    pub image: String,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// The owner.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
    /// The worker that holds it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub worker_id: String,
    /// RFC 3339.
    #[schemars(schema_with = "schema::time")]
    pub created_at: String,
    /// RFC 3339.
    #[schemars(schema_with = "schema::time")]
    pub expires_at: String,
    /// The client's own words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The domain of its previews.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preview_domain: String,
    /// Writable space in MiB.
    #[serde(default)]
    pub disk_mb: u32,
    /// Processes and threads.
    #[serde(default)]
    pub pids: u32,
    /// The template it was spawned from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// Why it is unhealthy, stopping or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<CauseView>,
}

/// Why a sandbox left the phase it was in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CauseView {
    /// For programs: `requested`, `expired`, `launch_failed`, `launch_interrupted`,
    /// `runtime_died` or `worker_lost`.
    pub kind: String,
    /// For people.
    pub detail: String,
}

/// `POST /sandboxes/{id}/extend`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = schema::required("ttl"))]
pub struct ExtendRequest {
    /// The new time to live, from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
}

/// The answer to an admission question. Published clients refuse any other key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdmissionReply {
    /// Whether a spawn would be admitted now.
    pub allowed: bool,
    /// Whether it would wait in a queue instead.
    pub queueable: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Live sandboxes.
    pub active_sandboxes: u64,
    /// The most there may be; 0 is no limit.
    pub max_sandboxes: u64,
    /// Live sandboxes of the owner.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub active_owner_sandboxes: u64,
    /// The most the owner may have; 0 is no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_owner_sandboxes: u64,
    /// The longest time to live, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub max_ttl: String,
}

/// The answer to an admission question that asks for reasons: `?explain=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdmissionExplained {
    /// The answer itself.
    #[serde(flatten)]
    pub reply: AdmissionReply,
    /// The worker that would take it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selected_worker_id: String,
    /// How many workers could take it.
    #[serde(default)]
    pub eligible_workers: u64,
    /// Why no worker would: `no_eligible_worker`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub worker_reason: String,
    /// All other workers, those included that could take it and are not the best.
    #[serde(default)]
    pub rejected_workers: Vec<RejectedWorker>,
    /// Where it would stand in the queue; 1 is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u64>,
    /// How long it would wait if places became free as they did lately; missing while nobody has
    /// waited.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub estimated_wait: String,
}

/// A worker that would not get a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RejectedWorker {
    /// The worker.
    pub worker_id: String,
    /// Why.
    pub reason: String,
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `DELETE /sandboxes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PruneReply {
    /// How many expired sandboxes were destroyed.
    pub pruned: u64,
}

/// What was done, in one word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusReply {
    /// Such as `destroyed` or `deleted`.
    pub status: String,
}

/// What a sandbox uses. Absent figures are unknown on this host.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StatsReply {
    /// Whether the provider has figures at all.
    pub supported: bool,
    /// Percent of one processor, over a short while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pct: Option<f64>,
    /// Processor time since the start, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bytes: Option<u64>,
    /// The memory limit in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_limit_bytes: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Written space in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The writable space in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_limit_bytes: Option<u64>,
    /// Bytes received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_bytes: Option<u64>,
    /// Bytes sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_bytes: Option<u64>,
}
