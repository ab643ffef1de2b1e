//! The audit log in the SQLite file.

use async_trait::async_trait;
use stacyvm_store::{
    AuditStore, ExecLog, Result,
    audit::{AdminFilter, AdminRecord, OperationFilter, OperationRecord, Page, Position},
};
use stacyvm_types::{ExecId, SandboxId};

use super::{SqliteStore, writer::Needs};
use crate::{audit, events};

/// Records append no events, and whoever keeps them asks for a sync.
const UNSYNCED: Needs = Needs::Kernel { events: 0 };

#[async_trait]
impl AuditStore for SqliteStore {
    async fn record_operations(&self, records: Vec<OperationRecord>) -> Result<()> {
        self.writer.run_to(UNSYNCED, move |tx| audit::record_operations(tx, &records)).await
    }

    async fn operation_records(
        &self,
        filter: OperationFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<OperationRecord>> {
        self.readers.scan(move |tx| audit::operations(tx, &filter, before, limit)).await
    }

    async fn exec_log(&self, sandbox: &SandboxId, id: &ExecId) -> Result<Option<ExecLog>> {
        self.readers.point(|tx| events::exec_log(tx, sandbox, id)).await
    }

    async fn record_admin_requests(&self, records: Vec<AdminRecord>) -> Result<()> {
        self.writer.run_to(UNSYNCED, move |tx| audit::record_admin(tx, &records)).await
    }

    async fn admin_records(
        &self,
        filter: AdminFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<AdminRecord>> {
        self.readers.scan(move |tx| audit::admin(tx, &filter, before, limit)).await
    }
}
