//! The workers that this process knows.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::WorkerId;

use crate::Worker;

/// Makes a worker out of what the registry says about one.
pub trait Dial: Send + Sync {
    /// The worker `id` that takes calls at `url`. Connects to nothing yet;
    /// [`ErrorKind::Invalid`] when the address is none.
    fn dial(&self, id: &WorkerId, url: &str) -> Result<Arc<dyn Worker>>;
}

/// The workers that the control plane can reach, by id. Clones share one registry.
#[derive(Clone, Default)]
pub struct Fleet(Arc<RwLock<BTreeMap<WorkerId, Arc<dyn Worker>>>>);

impl Fleet {
    /// A fleet of these workers.
    pub fn new(workers: impl IntoIterator<Item = Arc<dyn Worker>>) -> Self {
        let workers = workers.into_iter().map(|worker| (worker.id().clone(), worker)).collect();
        Self(Arc::new(RwLock::new(workers)))
    }

    /// Adds a worker, in place of the one that had its id, which is returned. Calls that are under
    /// way keep the one that they began with.
    pub fn insert(&self, worker: Arc<dyn Worker>) -> Option<Arc<dyn Worker>> {
        let id = worker.id().clone();
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, worker)
    }

    /// Removes a worker.
    pub fn remove(&self, id: &WorkerId) -> Option<Arc<dyn Worker>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    /// A worker by id.
    pub fn worker(&self, id: &WorkerId) -> Result<Arc<dyn Worker>> {
        let workers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        workers
            .get(id)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, format!("worker {id} is not known")))
    }

    /// All workers of this moment, by id.
    pub fn workers(&self) -> Vec<Arc<dyn Worker>> {
        let workers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        workers.values().cloned().collect()
    }
}
