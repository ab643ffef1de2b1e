//! The audit log in memory.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use stacyvm_types::{AuditId, ExecId, SandboxId, Timestamp};

use super::{MemoryStore, whole_micros};
use crate::{
    ExecLog, Result,
    audit::{
        AdminFilter, AdminRecord, AuditStore, Filter, OperationFilter, OperationRecord, Page,
        Pager, Position,
    },
};

/// Records by when they were made.
#[derive(Debug, Default, Clone)]
pub(super) struct Records {
    pub(super) operations: BTreeMap<(Timestamp, AuditId), OperationRecord>,
    pub(super) admin: BTreeMap<(Timestamp, AuditId), AdminRecord>,
}

fn page<F: Filter>(
    records: &BTreeMap<(Timestamp, AuditId), F::Record>,
    listed: impl Fn(&F::Record) -> bool,
    filter: &F,
    before: Option<Position>,
    limit: u32,
) -> Page<F::Record>
where
    F::Record: Clone,
{
    let (at, id) = filter.start(before);
    let older =
        |(key, _): &(&(Timestamp, AuditId), &F::Record)| (key.0, key.1.as_str()) < (at, &id);
    let mut pager = Pager::new(filter, limit);
    for (_, record) in records.iter().rev().filter(older).filter(|(_, record)| listed(record)) {
        if !pager.look(record.clone()) {
            break;
        }
    }
    pager.finish()
}

#[async_trait]
impl AuditStore for MemoryStore {
    async fn record_operations(&self, records: Vec<OperationRecord>) -> Result<()> {
        let mut state = self.state();
        for record in records {
            let key = (record.at, record.id.clone());
            state.audit.operations.entry(key).or_insert(record);
        }
        Ok(())
    }

    async fn operation_records(
        &self,
        filter: OperationFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<OperationRecord>> {
        let list = filter.list();
        let records = &self.state().audit.operations;
        Ok(page(records, |record| list.holds(record), &filter, before, limit))
    }

    async fn exec_log(&self, sandbox: &SandboxId, id: &ExecId) -> Result<Option<ExecLog>> {
        Ok(self.state().execs.get(&(sandbox.clone(), id.clone())).cloned())
    }

    async fn record_admin_requests(&self, records: Vec<AdminRecord>) -> Result<()> {
        let mut state = self.state();
        for record in records {
            let key = (record.at, record.id.clone());
            let duration: Duration = whole_micros(record.duration);
            state.audit.admin.entry(key).or_insert(AdminRecord { duration, ..record });
        }
        Ok(())
    }

    async fn admin_records(
        &self,
        filter: AdminFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<AdminRecord>> {
        let listed =
            |record: &AdminRecord| filter.actor.as_ref().is_none_or(|actor| *actor == record.actor);
        Ok(page(&self.state().audit.admin, listed, &filter, before, limit))
    }
}
