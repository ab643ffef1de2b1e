//! Which sandboxes this process is busy with, so that no second hand does the same work.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use stacyvm_types::SandboxId;
use tokio_util::sync::CancellationToken;

/// The sandboxes that are claimed. Clones share one set.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<HashMap<SandboxId, Held>>>);

#[derive(Clone)]
struct Held {
    /// Cancelled when the claim is given back.
    released: CancellationToken,
    /// Cancelled when somebody wants the holder to stop early.
    unwanted: CancellationToken,
}

/// The claim of one sandbox, given back when dropped.
pub(crate) struct Claim {
    claims: Claims,
    id: SandboxId,
    held: Held,
}

impl Claims {
    /// Claims a sandbox, unless it is claimed.
    pub(crate) fn claim(&self, id: &SandboxId) -> Option<Claim> {
        let held = Held { released: CancellationToken::new(), unwanted: CancellationToken::new() };
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.contains_key(id) {
            return None;
        }
        claims.insert(id.clone(), held.clone());
        drop(claims);
        Some(Claim { claims: self.clone(), id: id.clone(), held })
    }

    /// Whether a sandbox is claimed.
    pub(crate) fn holds(&self, id: &SandboxId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Tells the holder that its work is not wanted any more, and waits until it has let go. At
    /// once when nobody holds it. The wait has no limit of its own: the caller sets one.
    pub(crate) async fn settle(&self, id: &SandboxId) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(held) = held {
            held.unwanted.cancel();
            held.released.cancelled().await;
        }
    }
}

impl Claim {
    /// Ends when somebody wants the holder to stop early.
    pub(crate) async fn unwanted(&self) {
        self.held.unwanted.cancelled().await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.held.released.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_claim_excludes_others_until_it_is_dropped() {
        let claims = Claims::default();
        let id = SandboxId::from_entropy([1; 10]);
        let claim = claims.claim(&id).unwrap();
        assert!(claims.holds(&id));
        assert!(claims.claim(&id).is_none());
        let waiting = claims.settle(&id);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        claim.unwanted().await;
        drop(claim);
        waiting.await;
        assert!(claims.claim(&id).is_some());
        claims.settle(&id).await;
    }
}
