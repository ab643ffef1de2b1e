//! The audit log in Postgres.

use async_trait::async_trait;
use stacyvm_store::{
    AuditStore, ExecLog, Result,
    audit::{AdminFilter, AdminRecord, OperationFilter, OperationRecord, Page, Position},
};
use stacyvm_types::{ExecId, SandboxId};

use super::PostgresStore;
use crate::{audit, events};

#[async_trait]
impl AuditStore for PostgresStore {
    async fn record_operations(&self, records: Vec<OperationRecord>) -> Result<()> {
        self.change(move |tx| audit::record_operations(tx, &records)).await
    }

    async fn operation_records(
        &self,
        filter: OperationFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<OperationRecord>> {
        self.scan(move |tx| audit::operations(tx, &filter, before.clone(), limit)).await
    }

    async fn exec_log(&self, sandbox: &SandboxId, id: &ExecId) -> Result<Option<ExecLog>> {
        let (sandbox, id) = (sandbox.clone(), id.clone());
        self.point(move |tx| events::exec_log(tx, &sandbox, &id)).await
    }

    async fn record_admin_requests(&self, records: Vec<AdminRecord>) -> Result<()> {
        self.change(move |tx| audit::record_admin(tx, &records)).await
    }

    async fn admin_records(
        &self,
        filter: AdminFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<AdminRecord>> {
        self.scan(move |tx| audit::admin(tx, &filter, before.clone(), limit)).await
    }
}
