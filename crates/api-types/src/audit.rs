//! The audit log: operations, and requests to the admin routes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One operation, as `GET /admin/audit/operations` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperationRecord {
    /// `au-` and 20 hex digits.
    pub id: String,
    /// Who asked for it: a credential's name.
    pub actor: String,
    /// What was asked for, such as `file.write`.
    pub action: String,
    /// The sandbox; empty where it was about none.
    pub sandbox_id: String,
    /// The sandbox's owner; empty where there is none.
    pub owner_id: String,
    /// The tenant; empty where there is none.
    pub tenant_id: String,
    /// The provider, or `unknown`.
    pub provider: String,
    /// The image, command, path or name that it was about.
    pub resource: String,
    /// `success` or `failure`.
    pub status: String,
    /// Figures of a success, or why it failed.
    pub detail: String,
    /// The request that asked for it; empty for the server's own work.
    pub request_id: String,
    /// RFC 3339.
    pub created_at: String,
}

/// One request to an admin route, as `GET /admin/audit` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdminRecord {
    /// `au-` and 20 hex digits.
    pub id: String,
    /// Who asked: a credential's name, or `anonymous`.
    pub actor: String,
    /// The HTTP method; `CLI` of a command on the store of a stopped server.
    pub method: String,
    /// The path without its query, or the command.
    pub path: String,
    /// The HTTP status of the answer; 499 when the caller left before it.
    pub status: u16,
    /// How long the answer took, in milliseconds.
    pub duration_ms: u64,
    /// The request's id.
    pub request_id: String,
    /// From where; empty where it is not known.
    pub remote_addr: String,
    /// With what.
    pub user_agent: String,
    /// The tenant; empty where there is none.
    pub tenant_id: String,
    /// RFC 3339.
    pub created_at: String,
}
