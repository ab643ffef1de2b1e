//! Workers and leases one by one, as others ask for them.

use stacyvm_store as store;
use stacyvm_types::{Lease, SandboxId, Timestamp, WorkerId};

use crate::{Control, Error, Member, Result};

impl Control {
    /// A worker of the registry.
    pub async fn worker(&self, id: &WorkerId) -> Result<Member> {
        let found = self.workers().await?.into_iter().find(|member| member.row.beat.id == *id);
        found.ok_or_else(|| Error::NotFound(format!("not found: worker {:?}", id.as_str())))
    }

    /// Renews the lease of a sandbox for the worker that holds it, while it holds it. All leases of
    /// a worker last as long as its own, so that one is renewed, for as long as a heartbeat renews
    /// it.
    pub async fn renew_lease(&self, id: &SandboxId, holder: &WorkerId) -> Result<Lease> {
        let lease = self.held(id, holder).await?;
        if lease.expires_at == Timestamp::MAX {
            return Ok(lease);
        }
        let row = self.store().worker(holder).await.map_err(Error::from_store)?;
        let beat = row.ok_or_else(not_held)?.beat;
        let term = self.settings().membership.lease_term;
        match self.store().beat(beat, Some(term), self.now()).await {
            Ok(_) => self.held(id, holder).await,
            Err(store::Error::LeaseHeld) => Err(not_held()),
            Err(error) => Err(Error::from_store(error)),
        }
    }

    async fn held(&self, id: &SandboxId, holder: &WorkerId) -> Result<Lease> {
        let lease = self.store().lease(id).await.map_err(Error::from_store)?;
        let now = self.now();
        lease
            .filter(|lease| lease.holder == *holder && lease.holds(std::time::Duration::ZERO, now))
            .ok_or_else(not_held)
    }
}

/// Also where there is no such sandbox: a worker learns about its own only.
fn not_held() -> Error {
    Error::Conflict("lease is not held by worker or has expired".to_owned())
}
