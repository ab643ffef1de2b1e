//! The fleet of one process: every worker is reached by a function call.

use std::{collections::BTreeMap, sync::Arc};

use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::WorkerId;

use crate::Worker;

/// The workers that the control plane can reach, by id.
#[derive(Clone, Default)]
pub struct Fleet {
    workers: BTreeMap<WorkerId, Arc<dyn Worker>>,
}

impl Fleet {
    /// A fleet of these workers.
    pub fn new(workers: impl IntoIterator<Item = Arc<dyn Worker>>) -> Self {
        Self { workers: workers.into_iter().map(|w| (w.id().clone(), w)).collect() }
    }

    /// A worker by id.
    pub fn worker(&self, id: &WorkerId) -> Result<&Arc<dyn Worker>> {
        self.workers
            .get(id)
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, format!("worker {id} is not known")))
    }

    /// All workers, by id.
    pub fn workers(&self) -> impl Iterator<Item = &Arc<dyn Worker>> {
        self.workers.values()
    }
}
