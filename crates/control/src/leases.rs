//! Workers and leases one by one, as others ask for them.

use stacyvm_store as store;
use stacyvm_types::{Lease, SandboxId, WorkerId};

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
        let term = self.settings().membership.lease_term;
        let renewed = self.store().renew_lease(id, holder, term, self.now()).await;
        renewed.map_err(|error| match error {
            // Also where there is no such sandbox: a worker learns about its own only.
            store::Error::LeaseLost => {
                Error::Conflict("lease is not held by worker or has expired".to_owned())
            }
            error => Error::from_store(error),
        })
    }
}
