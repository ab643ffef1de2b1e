//! Quotas of owners.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// `PUT /quotas/{owner_id}`: all of an owner's quota. What is missing, empty or zero is what
/// everybody has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QuotaRequest {
    /// Sandboxes at the same time.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub max_sandboxes: Option<u32>,
    /// The longest time to live, in whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub max_ttl: Option<String>,
    /// The longest deadline of a command, in whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub max_exec_timeout: Option<String>,
    /// The share of places that become free, against other owners that wait: 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(range(max = 100))]
    pub weight: Option<u32>,
}

/// An owner's quota. Zero is what everybody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerQuota {
    /// The owner.
    pub owner_id: String,
    /// Sandboxes at the same time.
    pub max_sandboxes: u32,
    /// The longest time to live.
    #[schemars(schema_with = "schema::elapsed")]
    pub max_ttl: String,
    /// The longest deadline of a command.
    #[schemars(schema_with = "schema::elapsed")]
    pub max_exec_timeout: String,
    /// The share of places that become free, against other owners that wait.
    pub weight: u32,
    /// RFC 3339.
    #[schemars(schema_with = "schema::time")]
    pub created_at: String,
    /// RFC 3339.
    #[schemars(schema_with = "schema::time")]
    pub updated_at: String,
}

/// What an owner has and may have: `GET /quotas/{owner_id}/usage`. Zero is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerUsage {
    /// The owner.
    pub owner_id: String,
    /// Its sandboxes that hold a place.
    pub active_sandboxes: u64,
    /// How many it may have.
    pub max_sandboxes: u64,
    /// The longest time to live.
    #[schemars(schema_with = "schema::elapsed")]
    pub max_ttl: String,
    /// The longest deadline of a command.
    #[schemars(schema_with = "schema::elapsed")]
    pub max_exec_timeout: String,
    /// Whether the owner has limits of its own.
    pub quota_configured: bool,
}
