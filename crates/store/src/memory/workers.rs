//! The registry of workers in memory.

use std::{collections::btree_map::Entry, time::Duration};

use async_trait::async_trait;
use stacyvm_types::{Beat, Resources, SandboxId, Timestamp, Unfit, WorkerId};

use super::{MemoryStore, State};
use crate::{Error, Result, Sandbox, WorkerRow, WorkerStore};

impl State {
    /// What a worker can hold, if it takes something new.
    pub(super) fn capacity(&self, id: &WorkerId, now: Timestamp) -> Result<Resources> {
        let worker = self.workers.get(id).ok_or(Error::Unfit(Unfit::Unknown))?;
        match worker.unfit(now) {
            Some(unfit) => Err(Error::Unfit(unfit)),
            None => Ok(worker.beat.capacity),
        }
    }
}

#[async_trait]
impl WorkerStore for MemoryStore {
    async fn time(&self, now: Timestamp) -> Result<Timestamp> {
        Ok(now)
    }

    async fn beat(&self, beat: Beat, term: Option<Duration>, now: Timestamp) -> Result<WorkerRow> {
        let mut state = self.state();
        let row = match state.workers.entry(beat.id.clone()) {
            Entry::Vacant(place) => place.insert(WorkerRow::first_heard(beat, term, now)),
            Entry::Occupied(place) => {
                let row = place.into_mut();
                *row = row.clone().heard(beat, term, now).ok_or(Error::LeaseHeld)?;
                row
            }
        };
        Ok(row.clone())
    }

    async fn worker(&self, id: &WorkerId) -> Result<Option<WorkerRow>> {
        Ok(self.state().workers.get(id).cloned())
    }

    async fn workers(&self) -> Result<Vec<(WorkerRow, Resources)>> {
        let state = self.state();
        let with_load = |row: &WorkerRow| (row.clone(), state.load(&row.beat.id));
        Ok(state.workers.values().map(with_load).collect())
    }

    async fn cordon(&self, id: &WorkerId, cordoned: bool, now: Timestamp) -> Result<WorkerRow> {
        let mut state = self.state();
        let row = state.workers.get_mut(id).ok_or(Error::NotFound)?;
        if row.cordoned != cordoned {
            row.cordoned = cordoned;
            row.updated_at = now;
        }
        Ok(row.clone())
    }

    async fn remove_worker(&self, id: &WorkerId) -> Result<()> {
        let mut state = self.state();
        if !state.workers.contains_key(id) {
            return Err(Error::NotFound);
        }
        if state.sandboxes.values().any(|row| row.phase.is_live() && row.spec.worker == *id) {
            return Err(Error::Conflict);
        }
        state.workers.remove(id);
        Ok(())
    }

    async fn sandboxes_of(
        &self,
        worker: &WorkerId,
        after: Option<(Timestamp, SandboxId)>,
        limit: u32,
    ) -> Result<Vec<Sandbox>> {
        let state = self.state();
        let wanted = |row: &&Sandbox| {
            row.phase.is_live()
                && row.spec.worker == *worker
                && after.as_ref().is_none_or(|(at, id)| (*at, id) < (row.created_at, &row.spec.id))
        };
        let mut rows: Vec<_> = state.sandboxes.values().filter(wanted).cloned().collect();
        rows.sort_by(|a, b| (a.created_at, &a.spec.id).cmp(&(b.created_at, &b.spec.id)));
        rows.truncate(limit as usize);
        Ok(rows)
    }
}
