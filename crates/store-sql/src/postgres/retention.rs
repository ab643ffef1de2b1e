//! Forgetting in Postgres.

use async_trait::async_trait;
use stacyvm_store::{
    Result, RetentionStore,
    retention::{Swept, Walk},
};
use stacyvm_types::Timestamp;

use super::PostgresStore;
use crate::{audit, retention};

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn prune_sandboxes(&self, before: Timestamp, from: Walk, limit: u32) -> Result<Swept> {
        self.change(move |tx| retention::sandboxes(tx, before, &from, limit)).await
    }

    async fn prune_exec_logs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.change(move |tx| retention::exec_logs(tx, before, limit)).await
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.change(move |tx| retention::events(tx, before, limit)).await
    }

    async fn pruned_events(&self) -> Result<u64> {
        self.point(retention::pruned_events).await
    }

    async fn prune_operation_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.change(move |tx| audit::prune_operations(tx, before, limit)).await
    }

    async fn prune_admin_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.change(move |tx| audit::prune_admin(tx, before, limit)).await
    }
}
