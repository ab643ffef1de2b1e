//! What operators ask of the store in memory.

use async_trait::async_trait;
use stacyvm_types::Timestamp;

use super::MemoryStore;
use crate::{Census, ObserveStore, Result, Timings};

#[async_trait]
impl ObserveStore for MemoryStore {
    async fn census(&self, now: Timestamp) -> Result<Census> {
        let state = self.state();
        let mut census = Census::default();
        for (id, row) in state.sandboxes.iter().filter(|(_, row)| row.phase.is_live()) {
            let lease = state.lease(id);
            let lease = lease.as_ref().map(|lease| (lease.holder.as_str(), lease.expires_at));
            let spec = &row.spec;
            census.add(&row.phase, &spec.provider, spec.worker.as_str(), lease, now);
        }
        Ok(census)
    }

    fn timings(&self) -> Option<&Timings> {
        None
    }
}
