//! Workers: what they say of themselves, and what operators see of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// `POST /worker/{id}/heartbeat`: what a worker says of itself. Workers of earlier releases say
/// `hostname`, `status`, `providers`, `capabilities` and `capacity` only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HeartbeatRequest {
    /// The host that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hostname")]
    pub hostname: Option<String>,
    /// `online`, unless it is given, or `draining` when it takes nothing new.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::worker_status")]
    pub status: Option<String>,
    /// The names of its providers, all of them ready; a list, or a text that is a list in JSON.
    /// Not looked at when there are `offers`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::nested")]
    #[schemars(schema_with = "schema::provider_names")]
    pub providers: Option<Vec<String>>,
    /// What an earlier worker can do, as `providers`; nothing follows from it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::nested")]
    #[schemars(schema_with = "schema::capabilities")]
    pub capabilities: Option<Vec<String>>,
    /// What it can hold, and where it is reached; an object, or a text that is one in JSON.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::nested_object"
    )]
    pub capacity: Option<CapacityRequest>,
    /// A word that stays with its data directory; another one under the same id is another worker.
    /// It is the worker's id unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::instance")]
    pub instance: Option<String>,
    /// The version of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::version")]
    pub version: Option<String>,
    /// Its providers, in place of `providers` and `capabilities`; at most 32, each once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offers: Option<Vec<OfferRequest>>,
}

/// What a worker can hold, and where it is reached. 0 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CapacityRequest {
    /// Sandboxes.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub max_sandboxes: Option<u32>,
    /// Memory in MiB of all sandboxes together.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub memory_mb: Option<u32>,
    /// Virtual CPUs of all sandboxes together.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "crate::lenient::count")]
    #[schemars(schema_with = "schema::count")]
    pub vcpus: Option<u32>,
    /// Where it takes calls: `http://host:port` or `https://host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::rpc_url")]
    pub rpc_url: Option<String>,
}

/// One provider of a worker, as the worker says it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OfferRequest {
    /// The provider's name; it must be there.
    #[schemars(schema_with = "schema::provider_name")]
    pub provider: String,
    /// Whether it is the one used when a request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// Whether it can run there now; not, unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// What it can do there; at most 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::capabilities")]
    pub capabilities: Option<Vec<String>>,
    /// The images that are there and need not be brought; at most 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::images")]
    pub images: Option<Vec<String>>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    /// Its name.
    pub id: String,
    /// The host that it runs on.
    pub hostname: String,
    /// `online`; `draining` when it takes nothing new; `offline` when it was not heard of in time.
    pub status: String,
    /// The providers that it has.
    pub providers: Vec<String>,
    /// What any of them can do there.
    pub capabilities: Vec<String>,
    /// What it can hold, and where it is reached.
    pub capacity: WorkerCapacity,
    /// When it was heard of last.
    #[schemars(schema_with = "schema::time")]
    pub last_heartbeat: String,
    /// When it was heard of first.
    #[schemars(schema_with = "schema::time")]
    pub created_at: String,
    /// When anything of this but the heartbeat changed last.
    #[schemars(schema_with = "schema::time")]
    pub updated_at: String,
    /// Whether it was not heard of for longer than its lease holds.
    pub stale: bool,
    /// The version of its program.
    #[serde(default)]
    pub version: String,
    /// Whether the operator wants nothing new on it.
    #[serde(default)]
    pub cordoned: bool,
    /// When its lease lapses, and with it those of its sandboxes; missing where it holds without
    /// end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub lease_expires_at: Option<String>,
    /// What its sandboxes take of it; missing in the answer to a heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<WorkerLoad>,
    /// Its providers one by one.
    #[serde(default)]
    pub offers: Vec<WorkerOffer>,
}

/// What a worker can hold, and where it is reached. 0 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct WorkerCapacity {
    /// Sandboxes.
    pub max_sandboxes: u64,
    /// Memory in MiB of all sandboxes together.
    #[serde(default)]
    pub memory_mb: u64,
    /// Virtual CPUs of all sandboxes together.
    #[serde(default)]
    pub vcpus: u64,
    /// Where it takes calls; missing when only its own process reaches it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rpc_url: String,
}

/// What the sandboxes of a worker take of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct WorkerLoad {
    /// How many hold a place there.
    pub sandboxes: u64,
    /// Their memory in MiB.
    pub memory_mb: u64,
    /// Their virtual CPUs.
    pub vcpus: u64,
}

/// One provider of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerOffer {
    /// Its name.
    pub provider: String,
    /// Whether it is the one used when a request names none.
    pub default: bool,
    /// Whether it can run there now.
    pub ready: bool,
    /// What it can do there.
    pub capabilities: Vec<String>,
    /// The images that are there.
    pub images: Vec<String>,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeartbeatReply {
    /// The worker as it is remembered.
    #[serde(flatten)]
    pub worker: Worker,
    /// How long its lease holds from this heartbeat on, as a duration.
    #[schemars(schema_with = "schema::elapsed")]
    pub lease_expires_in: String,
    /// Whether the operator wants it to take nothing new.
    pub drain: bool,
    /// The time by the server's clock.
    #[schemars(schema_with = "schema::time")]
    pub server_time: String,
}

/// `POST /worker/{id}/leases/{resource}/renew`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RenewRequest {
    /// How long the worker would have it, which is looked at for sense only: all leases of a
    /// worker hold as long as its own, for a time that the server's settings say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RenewReply {
    /// The lease as it stands.
    pub lease: Lease,
}

/// The right of a worker to change one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// The sandbox.
    pub resource_id: String,
    /// Always `sandbox`.
    pub resource_type: String,
    /// The worker.
    pub holder_id: String,
    /// Rises whenever it is acquired, and is never used twice.
    pub generation: u64,
    /// When it lapses; missing where it holds without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub expires_at: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<HeartbeatRequest, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    /// Earlier workers send what their store keeps, which is text.
    #[test]
    fn a_list_may_be_text_that_is_one() {
        let names = vec!["mock".to_owned(), "docker".to_owned()];
        for json in [
            r#"{"providers":["mock","docker"],"capacity":{"max_sandboxes":4}}"#,
            r#"{"providers":"[\"mock\",\"docker\"]","capacity":"{\"max_sandboxes\":4}"}"#,
        ] {
            let read = read(json).unwrap();
            assert_eq!(read.providers.as_ref(), Some(&names), "{json}");
            assert_eq!(read.capacity.unwrap().max_sandboxes, Some(4), "{json}");
        }
        for nothing in
            [r#"{"providers":null,"capacity":null}"#, r#"{"providers":"","capacity":""}"#]
        {
            assert_eq!(read(nothing), Ok(HeartbeatRequest::default()), "{nothing}");
        }
        for wrong in [
            r#"{"providers":"mock"}"#,
            r#"{"providers":[1]}"#,
            r#"{"capacity":"[]"}"#,
            r#"{"capacity":{"vcpus":-1}}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
