//! One launch or destruction of a sandbox at a time.
//!
//! A destruction that overtook a launch would find nothing, answer that all is gone, and be followed
//! by the runtime. Servers do not know of each other's calls, so it is the worker that puts them in
//! order.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::SandboxId;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::timeout,
};

use crate::bounded::{DESTROY, LAUNCH};

/// How long a turn is waited for: a launch and a destruction before it, each as long as it may be.
const PATIENCE: Duration = LAUNCH.saturating_add(DESTROY);

/// The sandboxes that are being launched or destroyed, or are to be.
#[derive(Default)]
pub(crate) struct Turns(Mutex<BTreeMap<SandboxId, Arc<AsyncMutex<()>>>>);

/// The right to launch or destroy a sandbox, given back when dropped.
pub(crate) struct Turn<'t> {
    turns: &'t Turns,
    id: SandboxId,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Arc<AsyncMutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a call about this sandbox, in the order of asking.
    pub(crate) async fn take(&self, id: &SandboxId) -> Result<Turn<'_>> {
        let turn = self.lock().entry(id.clone()).or_default().clone();
        // Made before the wait, so that one who leaves takes the entry along.
        let mut taken = Turn { turns: self, id: id.clone(), held: None };
        match timeout(PATIENCE, turn.lock_owned()).await {
            Ok(held) => {
                taken.held = Some(held);
                Ok(taken)
            }
            Err(_) => {
                let message = format!("another call still works on sandbox {id}; try again");
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// Whether one is launched or destroyed now: that a list does not show it means nothing.
    pub(crate) fn are_taken(&self, id: &SandboxId) -> bool {
        self.lock().contains_key(id)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.held = None;
        let mut turns = self.turns.lock();
        // Those that wait hold it too.
        if turns.get(&self.id).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_second_waits_for_the_first_and_nothing_stays_behind() {
        let turns = Turns::default();
        let (one, other) = (SandboxId::from_entropy([1; 10]), SandboxId::from_entropy([2; 10]));
        let first = turns.take(&one).await.unwrap();
        let waiting = turns.take(&one);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(turns.take(&other).await.unwrap());
        assert!(!turns.are_taken(&other));
        drop(first);
        assert!(turns.are_taken(&one));
        drop(waiting.await.unwrap());
        assert!(!turns.are_taken(&one));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_an_end_and_one_who_leaves_takes_no_turn() {
        let turns = Turns::default();
        let id = SandboxId::from_entropy([1; 10]);
        let first = turns.take(&id).await.unwrap();
        let late = turns.take(&id).await.err().unwrap();
        assert_eq!(late.kind, ErrorKind::Unavailable);
        let mut left = Box::pin(turns.take(&id));
        assert!(futures_util::poll!(&mut left).is_pending());
        drop(left);
        drop(first);
        assert!(!turns.are_taken(&id));
    }
}
