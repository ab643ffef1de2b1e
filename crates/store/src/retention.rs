//! Forgetting: what is older than its retention is removed, a little at a time.

use async_trait::async_trait;
use stacyvm_types::Timestamp;

use crate::Result;

/// Where a walk through the sandboxes by age stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// When the sandbox there was admitted.
    pub created_at: Timestamp,
    /// Its id; empty before the first one.
    pub id: String,
}

impl Walk {
    /// Before the oldest sandbox.
    pub const START: Self =
        Self { created_at: Timestamp::from_micros(i64::MIN), id: String::new() };
}

/// What one step of a walk did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Rows that it removed: sandboxes and records of their commands.
    pub removed: u64,
    /// Where the next step begins; `None` at the end of the walk.
    pub next: Option<Walk>,
}

/// How the store forgets.
///
/// Promises, each with a case in the suite:
/// - A call is one transaction and removes `limit` rows at most ([`RetentionStore::prune_sandboxes`]
///   twice that); what it returns below `limit` is all there was.
/// - Nothing of a sandbox that has not ended is removed but records of its commands and events.
#[async_trait]
pub trait RetentionStore: Send + Sync + 'static {
    /// Looks at the next `limit` sandboxes by age that were admitted before `before`, and removes
    /// those that have ended, were last changed before it, and have no lease. The records of a
    /// sandbox's commands go first, `limit` of them at most in one call, so one with many commands
    /// takes several.
    async fn prune_sandboxes(&self, before: Timestamp, from: Walk, limit: u32) -> Result<Swept>;

    /// Removes the oldest records of commands that ended before `before`.
    async fn prune_exec_logs(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Removes the oldest events, up to the last of the next `limit` that happened before `before`.
    /// The log is in commit order, so what is below such an event is at least as old, whatever a
    /// clock that was wrong wrote on it.
    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// The id up to which events were removed; 0 when none was.
    async fn pruned_events(&self) -> Result<u64>;

    /// Removes the oldest records of operations that were made before `before`.
    async fn prune_operation_records(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Removes the oldest records of admin requests that were made before `before`.
    async fn prune_admin_records(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
