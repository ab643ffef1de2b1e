//! The other parts of the contract, each call on its way like those of [`super`].

use std::time::Duration;

use async_trait::async_trait;
use stacyvm_store::{
    Allowance, Answer, ApiKey, AuditStore, Begun, Census, Durability, ExecLog, IdempotencyStore,
    KeyStore, NewEvent, NewKey, ObserveStore, Quota, QuotaCounts, QuotaFields, QuotaStore, Result,
    RetentionStore, Sandbox, Standing, Timings, WorkerRow, WorkerStore,
    audit::{AdminFilter, AdminRecord, OperationFilter, OperationRecord, Page, Position},
    retention::{Swept, Walk},
};
use stacyvm_types::{Beat, ExecId, KeyId, OwnerId, Resources, SandboxId, Timestamp, WorkerId};

use super::SimStore;
use crate::plant::Plant;

#[async_trait]
impl WorkerStore for SimStore {
    async fn time(&self, now: Timestamp) -> Result<Timestamp> {
        // Read when the call is there.
        let time = async { self.truth().time(self.judged(now)).await };
        self.read("time", time).await
    }
    async fn beat(&self, beat: Beat, term: Option<Duration>, now: Timestamp) -> Result<WorkerRow> {
        if self.world.has(Plant::RenewalSkipped)
            && let Some(row) = self.truth().worker(&beat.id).await?
        {
            return Ok(row);
        }
        let beat = async { self.truth().beat(beat, term, self.judged(now)).await };
        self.write("beat", beat).await
    }
    async fn worker(&self, id: &WorkerId) -> Result<Option<WorkerRow>> {
        self.read("worker", self.truth().worker(id)).await
    }
    async fn workers(&self) -> Result<Vec<(WorkerRow, Resources)>> {
        self.read("workers", self.truth().workers()).await
    }
    async fn cordon(&self, id: &WorkerId, cordoned: bool, now: Timestamp) -> Result<WorkerRow> {
        self.write("cordon", self.truth().cordon(id, cordoned, now)).await
    }
    async fn remove_worker(&self, id: &WorkerId) -> Result<()> {
        self.write("remove_worker", self.truth().remove_worker(id)).await
    }
    async fn sandboxes_of(
        &self,
        worker: &WorkerId,
        after: Option<(Timestamp, SandboxId)>,
        limit: u32,
    ) -> Result<Vec<Sandbox>> {
        self.read("sandboxes_of", self.truth().sandboxes_of(worker, after, limit)).await
    }
}

#[async_trait]
impl ObserveStore for SimStore {
    async fn census(&self, now: Timestamp) -> Result<Census> {
        self.read("census", self.truth().census(now)).await
    }
    fn timings(&self) -> Option<&Timings> {
        self.truth().timings()
    }
}

#[async_trait]
impl KeyStore for SimStore {
    async fn create_key(&self, key: ApiKey) -> Result<()> {
        self.write("create_key", self.truth().create_key(key)).await
    }
    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>> {
        self.read("key", self.truth().key(id)).await
    }
    async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.read("keys", self.truth().keys()).await
    }
    async fn has_keys(&self) -> Result<bool> {
        self.read("has_keys", self.truth().has_keys()).await
    }
    async fn revoke_key(&self, id: &KeyId, now: Timestamp) -> Result<ApiKey> {
        self.write("revoke_key", self.truth().revoke_key(id, now)).await
    }
    async fn note_key_use(&self, id: &KeyId, at: Timestamp) -> Result<()> {
        self.write("note_key_use", self.truth().note_key_use(id, at)).await
    }
}

#[async_trait]
impl QuotaStore for SimStore {
    async fn quota(&self, owner: &OwnerId) -> Result<Option<Quota>> {
        self.read("quota", self.truth().quota(owner)).await
    }
    async fn quotas(&self) -> Result<Vec<Quota>> {
        self.read("quotas", self.truth().quotas()).await
    }
    async fn quota_counts(&self) -> Result<QuotaCounts> {
        self.read("quota_counts", self.truth().quota_counts()).await
    }
    async fn put_quota(
        &self,
        owner: &OwnerId,
        fields: QuotaFields,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Quota> {
        self.write("put_quota", self.truth().put_quota(owner, fields, events, now)).await
    }
    async fn delete_quota(
        &self,
        owner: &OwnerId,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<()> {
        self.write("delete_quota", self.truth().delete_quota(owner, events, now)).await
    }
    async fn standing(&self, owner: Option<&OwnerId>, worker: &WorkerId) -> Result<Standing> {
        self.read("standing", self.truth().standing(owner, worker)).await
    }
}

#[async_trait]
impl IdempotencyStore for SimStore {
    async fn begin_key(
        &self,
        new: NewKey,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Begun> {
        let change = self.truth().begin_key(new, durability, now);
        self.write("begin_key", change).await
    }
    async fn hold_key(&self, id: &str, attempt: u64, until: Timestamp) -> Result<()> {
        self.write("hold_key", self.truth().hold_key(id, attempt, until)).await
    }
    async fn renew_key(&self, id: &str, attempt: u64, resource: &str) -> Result<()> {
        self.write("renew_key", self.truth().renew_key(id, attempt, resource)).await
    }
    async fn finish_key(
        &self,
        id: &str,
        attempt: u64,
        answer: Answer,
        allowance: Option<Allowance>,
    ) -> Result<()> {
        self.write("finish_key", self.truth().finish_key(id, attempt, answer, allowance)).await
    }
    async fn release_key(&self, id: &str, attempt: u64) -> Result<()> {
        self.write("release_key", self.truth().release_key(id, attempt)).await
    }
    async fn prune_keys(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write("prune_keys", self.truth().prune_keys(before, limit)).await
    }
}

#[async_trait]
impl AuditStore for SimStore {
    async fn record_operations(&self, records: Vec<OperationRecord>) -> Result<()> {
        self.write("record_operations", self.truth().record_operations(records)).await
    }
    async fn operation_records(
        &self,
        filter: OperationFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<OperationRecord>> {
        self.read("operation_records", self.truth().operation_records(filter, before, limit)).await
    }
    async fn exec_log(&self, sandbox: &SandboxId, id: &ExecId) -> Result<Option<ExecLog>> {
        self.read("exec_log", self.truth().exec_log(sandbox, id)).await
    }
    async fn record_admin_requests(&self, records: Vec<AdminRecord>) -> Result<()> {
        self.write("record_admin_requests", self.truth().record_admin_requests(records)).await
    }
    async fn admin_records(
        &self,
        filter: AdminFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<AdminRecord>> {
        self.read("admin_records", self.truth().admin_records(filter, before, limit)).await
    }
}

#[async_trait]
impl RetentionStore for SimStore {
    async fn prune_sandboxes(&self, before: Timestamp, from: Walk, limit: u32) -> Result<Swept> {
        self.write("prune_sandboxes", self.truth().prune_sandboxes(before, from, limit)).await
    }
    async fn prune_exec_logs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write("prune_exec_logs", self.truth().prune_exec_logs(before, limit)).await
    }
    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write("prune_events", self.truth().prune_events(before, limit)).await
    }
    async fn pruned_events(&self) -> Result<u64> {
        self.read("pruned_events", self.truth().pruned_events()).await
    }
    async fn prune_operation_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write("prune_operation_records", self.truth().prune_operation_records(before, limit))
            .await
    }
    async fn prune_admin_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write("prune_admin_records", self.truth().prune_admin_records(before, limit)).await
    }
}
