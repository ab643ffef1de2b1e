//! The registry of workers in a SQLite file. One host writes it, so its clock is the caller's.

use std::time::Duration;

use async_trait::async_trait;
use stacyvm_store::{Result, Sandbox, WorkerRow, WorkerStore};
use stacyvm_types::{Beat, Resources, SandboxId, Timestamp, WorkerId};

use super::SqliteStore;
use crate::workers;

#[async_trait]
impl WorkerStore for SqliteStore {
    async fn time(&self, now: Timestamp) -> Result<Timestamp> {
        Ok(now)
    }

    async fn beat(&self, beat: Beat, term: Option<Duration>, now: Timestamp) -> Result<WorkerRow> {
        self.writer.run(move |tx| workers::beat(tx, beat, term, now)).await
    }

    async fn worker(&self, id: &WorkerId) -> Result<Option<WorkerRow>> {
        self.readers.point(|tx| workers::one(tx, id)).await
    }

    async fn workers(&self) -> Result<Vec<(WorkerRow, Resources)>> {
        self.readers.scan(workers::list).await
    }

    async fn cordon(&self, id: &WorkerId, cordoned: bool, now: Timestamp) -> Result<WorkerRow> {
        let id = id.clone();
        self.writer.run(move |tx| workers::cordon(tx, &id, cordoned, now)).await
    }

    async fn remove_worker(&self, id: &WorkerId) -> Result<()> {
        let id = id.clone();
        self.writer.run(move |tx| workers::remove(tx, &id)).await
    }

    async fn sandboxes_of(
        &self,
        worker: &WorkerId,
        after: Option<(Timestamp, SandboxId)>,
        limit: u32,
    ) -> Result<Vec<Sandbox>> {
        let worker = worker.clone();
        self.readers.scan(move |tx| workers::sandboxes_of(tx, &worker, after, limit)).await
    }
}
