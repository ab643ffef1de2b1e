//! The registry of workers in Postgres, which judges by its own clock.

use std::time::Duration;

use async_trait::async_trait;
use stacyvm_store::{Result, Sandbox, WorkerRow, WorkerStore};
use stacyvm_types::{Beat, Resources, SandboxId, Timestamp, WorkerId};

use super::PostgresStore;
use crate::workers;

#[async_trait]
impl WorkerStore for PostgresStore {
    async fn time(&self, now: Timestamp) -> Result<Timestamp> {
        self.point(move |tx| tx.time(now)).await
    }

    async fn beat(&self, beat: Beat, term: Option<Duration>, now: Timestamp) -> Result<WorkerRow> {
        self.change(move |tx| workers::beat(tx, beat.clone(), term, now)).await
    }

    async fn worker(&self, id: &WorkerId) -> Result<Option<WorkerRow>> {
        let id = id.clone();
        self.point(move |tx| workers::one(tx, &id)).await
    }

    async fn workers(&self) -> Result<Vec<(WorkerRow, Resources)>> {
        self.scan(workers::list).await
    }

    async fn cordon(&self, id: &WorkerId, cordoned: bool, now: Timestamp) -> Result<WorkerRow> {
        let id = id.clone();
        self.change(move |tx| workers::cordon(tx, &id, cordoned, now)).await
    }

    async fn remove_worker(&self, id: &WorkerId) -> Result<()> {
        let id = id.clone();
        self.change(move |tx| workers::remove(tx, &id)).await
    }

    async fn sandboxes_of(
        &self,
        worker: &WorkerId,
        after: Option<(Timestamp, SandboxId)>,
        limit: u32,
    ) -> Result<Vec<Sandbox>> {
        let worker = worker.clone();
        self.scan(move |tx| workers::sandboxes_of(tx, &worker, after.clone(), limit)).await
    }
}
