//! Signed worker tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A worker token to make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkerTokenRequest {
    /// The worker that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::worker")]
    pub worker_id: Option<String>,
    /// How long it is good for, at most `15m`; `5m` unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
    /// What it opens, such as `worker:heartbeat`. For a control plane it is `worker:heartbeat` and
    /// `worker:lease` unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Who it is shown to: `worker:control-plane`, unless it is given, or `worker:rpc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::audience")]
    pub audience: Option<String>,
}

/// A worker token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerToken {
    /// The token itself; it is kept nowhere.
    pub token: String,
    /// Its id, by which it is revoked.
    pub token_id: String,
    /// The worker that it is about.
    pub worker_id: String,
    /// Who it is shown to.
    pub audience: String,
    /// What it opens.
    pub scopes: Vec<String>,
    /// From when on it is refused.
    #[schemars(schema_with = "schema::time")]
    pub expires_at: String,
}
