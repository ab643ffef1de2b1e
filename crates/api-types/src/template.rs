//! Templates, in both vocabularies.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Template {
    /// Its name and key.
    pub name: String,
    /// Rises with every change.
    #[serde(default)]
    pub version: u64,
    /// The image.
    pub image: String,
    /// Words for people.
    #[serde(default)]
    pub description: String,
    /// The provider; empty is the default one.
    #[serde(default)]
    pub provider: String,
    /// Memory in MiB.
    #[serde(default)]
    pub memory_mb: u32,
    /// Virtual CPUs.
    #[serde(default)]
    pub vcpus: u32,
    /// The same under its other name.
    #[serde(default)]
    pub cpu_cores: u32,
    /// Time to live.
    #[serde(default)]
    #[schemars(schema_with = "schema::elapsed")]
    pub ttl: String,
    /// The same in whole seconds.
    #[serde(default)]
    pub ttl_seconds: u64,
    /// Shell lines that run before a sandbox is handed out.
    #[serde(default)]
    pub setup: Vec<String>,
    /// Environment of every command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Copied to each sandbox.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Sandboxes to keep ready.
    #[serde(default)]
    pub pool_size: u32,
    /// Hosts that the network may reach.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// Secrets and where they go.
    #[serde(default)]
    pub secrets: Vec<TemplateSecret>,
    /// RFC 3339.
    #[serde(default)]
    #[schemars(schema_with = "schema::time")]
    pub created_at: String,
    /// RFC 3339.
    #[serde(default)]
    #[schemars(schema_with = "schema::time")]
    pub updated_at: String,
}

/// A secret of a template, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct TemplateSecret {
    /// Its name.
    pub name: String,
    /// Where it goes.
    #[serde(default)]
    pub inject_at: String,
}

/// `POST /templates` and `PUT /templates/{name}`; the latter changes what is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TemplateRequest {
    /// Its name; on `PUT` optional.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::template_name")]
    pub name: Option<String>,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::image")]
    pub image: Option<String>,
    /// Words for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The provider; empty is the default one.
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
    /// The same under its other name.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub cpu_cores: Option<u32>,
    /// Time to live.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
    /// The same in whole seconds.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub ttl_seconds: Option<u32>,
    /// Shell lines that run before a sandbox is handed out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::lines", length(max = 64))]
    pub setup: Option<Vec<String>>,
    /// Environment of every command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::env")]
    pub env: Option<BTreeMap<String, String>>,
    /// Copied to each sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::words")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Sandboxes to keep ready.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub pool_size: Option<u32>,
    /// Hosts that the network may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Secrets and where they go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<TemplateSecret>>,
}

/// `POST /templates/{name}/spawn`; the body is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TemplateSpawnRequest {
    /// Another provider than the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Another time to live than the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
    /// The owner; the header `X-User-ID` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::owner")]
    pub owner_id: Option<String>,
    /// Added to the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::words")]
    pub metadata: Option<BTreeMap<String, String>>,
}
