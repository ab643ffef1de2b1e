//! API keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeyRequest {
    /// What people and records call it; a name is never used twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::key_name")]
    pub name: Option<String>,
    /// `viewer`, `api`, `operator` or `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::role")]
    pub role: Option<String>,
    /// Whose key it is: what it makes belongs to that owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::owner")]
    pub owner_id: Option<String>,
    /// Whether it may act for owners that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speak_for: Option<bool>,
    /// How long it is valid, such as `720h`; without it, until it is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// Its id, which is no secret.
    pub id: String,
    /// What people and records call it.
    pub name: String,
    /// `viewer`, `api`, `operator` or `admin`.
    pub role: String,
    /// Whose key it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<String>,
    /// Whether it may act for owners that it names.
    pub speak_for: bool,
    /// `active`, `expired` or `revoked`.
    pub status: String,
    /// When it was made.
    #[schemars(schema_with = "schema::time")]
    pub created_at: String,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub expires_at: Option<String>,
    /// Since when it is refused because somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub revoked_at: Option<String>,
    /// When it was used last, to the minute or so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub last_used_at: Option<String>,
    /// The key itself: in the answer that made it, and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
