//! The server itself: health, providers, images, events, and what later issues fill.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// `GET /health` and `GET /live`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::status_alone)]
pub struct Health {
    /// `ok` or `alive`.
    pub status: String,
    /// Since the start, as a duration.
    #[serde(default)]
    #[schemars(schema_with = "schema::elapsed")]
    pub uptime: String,
    /// The server's version.
    #[serde(default)]
    pub version: String,
}

/// `GET /ready`. Without a credential only `status` is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::status_alone)]
pub struct Ready {
    /// `ready` or `not_ready`.
    pub status: String,
    /// The server's version.
    #[serde(default)]
    pub version: String,
    /// Since the start, as a duration.
    #[serde(default)]
    #[schemars(schema_with = "schema::elapsed")]
    pub uptime: String,
    /// Every provider.
    #[serde(default)]
    pub providers: Vec<Provider>,
    /// How many are usable.
    #[serde(default)]
    pub ready_providers: usize,
    /// How many there are.
    #[serde(default)]
    pub total_providers: usize,
    /// The store.
    #[serde(default)]
    pub store: StoreHealth,
}

/// Whether the store answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct StoreHealth {
    /// Whether it answers.
    pub healthy: bool,
    /// How long that took.
    pub latency_ms: f64,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A provider: the same object wherever one is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Provider {
    /// Its name.
    pub name: String,
    /// Whether it can launch sandboxes.
    pub healthy: bool,
    /// Whether it is used when a request names none.
    pub default: bool,
    /// How long the look took.
    #[serde(default)]
    pub latency_ms: f64,
    /// When the look was taken, to the second.
    #[serde(default)]
    #[schemars(schema_with = "schema::time")]
    pub last_checked: String,
    /// Why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How well it can.
    #[serde(default)]
    pub summary: String,
    /// What it can do here.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Its runtimes, where they can be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_count: Option<usize>,
}

/// `GET /providers/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderDetail {
    /// Its name.
    pub name: String,
    /// Whether it can launch sandboxes.
    pub healthy: bool,
    /// Whether it is used when a request names none.
    pub default: bool,
    /// Sandboxes of it that have not ended and exist for the caller, counted at most five seconds
    /// ago unless the store is slow.
    pub sandbox_count: usize,
    /// The provider as in the list.
    pub health: Provider,
    /// How it is set up.
    pub config: ProviderConfig,
}

/// How a provider is set up; never secrets or host paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderConfig {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An imported image, on one or more workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Bytes of its files. Each worker's was imported by itself: of several this is the newest's.
    pub size_bytes: u64,
    /// RFC 3339.
    #[schemars(schema_with = "schema::time")]
    pub created_at: String,
    /// The workers that have it, by id.
    #[serde(default)]
    pub workers: Vec<String>,
}

/// An event: the `data` of one SSE message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// `evt-<n>`.
    pub id: String,
    /// Such as `sandbox.running`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The sandbox it happened to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox_id: String,
    /// The sandbox's owner.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
    /// RFC 3339.
    #[schemars(schema_with = "schema::time")]
    pub timestamp: String,
    /// Details.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
}

/// `GET /pool/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolStatus {
    /// Whether users share runtimes.
    pub enabled: bool,
}

/// `GET /quotas/summary`. Published clients refuse any other key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct QuotaSummary {
    /// Owners with a quota.
    pub total: u64,
    /// Of these, with a limit on sandboxes.
    pub with_max_sandboxes: u64,
    /// Of these, with a limit on time to live.
    pub with_max_ttl: u64,
    /// Of these, with a limit on exec time.
    pub with_max_exec_timeout: u64,
}
