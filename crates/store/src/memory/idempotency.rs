//! Idempotency keys in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use stacyvm_types::{Timestamp, WorkerId};

use super::MemoryStore;
use crate::{
    Durability, Error, Result,
    idempotency::{Answer, Begun, IdempotencyStore, NewKey, Turn},
};

/// The keys, by id.
pub(super) type Keys = BTreeMap<String, Key>;

#[derive(Debug, Clone)]
pub(super) struct Key {
    fingerprint: String,
    turn: Turn,
    /// Who has the turn, until when.
    held: Option<(WorkerId, Timestamp)>,
    answer: Option<Answer>,
}

/// The key whose last turn this is and that is not done.
fn current<'k>(keys: &'k mut Keys, id: &str, attempt: u64) -> Option<&'k mut Key> {
    keys.get_mut(id).filter(|key| key.turn.attempt == attempt && key.answer.is_none())
}

fn begin(keys: &mut Keys, new: NewKey, now: Timestamp) -> Begun {
    let hold = Some((new.holder.clone(), new.held_until));
    let Some(key) = keys.get_mut(&new.id) else {
        let turn = Turn { resource: new.resource, attempt: 1, begun_at: now };
        let fingerprint = new.fingerprint;
        let key = Key { fingerprint, turn: turn.clone(), held: hold, answer: None };
        keys.insert(new.id, key);
        return Begun::Yours(turn);
    };
    if key.fingerprint != new.fingerprint {
        return Begun::Mismatch;
    }
    if let Some(answer) = &key.answer {
        return Begun::Done(key.turn.clone(), answer.clone());
    }
    if key.held.as_ref().is_some_and(|(holder, until)| *holder != new.holder && now < *until) {
        return Begun::Held;
    }
    key.turn.attempt += 1;
    key.held = hold;
    Begun::Yours(key.turn.clone())
}

#[async_trait]
impl IdempotencyStore for MemoryStore {
    async fn begin_key(
        &self,
        new: NewKey,
        _durability: Durability,
        now: Timestamp,
    ) -> Result<Begun> {
        Ok(begin(&mut self.state().idempotency_keys, new, now))
    }

    async fn renew_key(&self, id: &str, attempt: u64, resource: &str) -> Result<()> {
        let mut state = self.state();
        let key = current(&mut state.idempotency_keys, id, attempt).ok_or(Error::LeaseLost)?;
        key.turn.resource = resource.to_owned();
        Ok(())
    }

    async fn finish_key(&self, id: &str, attempt: u64, answer: Answer) -> Result<()> {
        let mut state = self.state();
        let key = current(&mut state.idempotency_keys, id, attempt).ok_or(Error::LeaseLost)?;
        key.answer = Some(answer);
        key.held = None;
        Ok(())
    }

    async fn release_key(&self, id: &str, attempt: u64) -> Result<()> {
        if let Some(key) = current(&mut self.state().idempotency_keys, id, attempt) {
            key.held = None;
        }
        Ok(())
    }

    async fn prune_keys(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let mut state = self.state();
        let mut old: Vec<_> = state
            .idempotency_keys
            .iter()
            .map(|(id, key)| (key.turn.begun_at, id.clone()))
            .filter(|(begun_at, _)| *begun_at < before)
            .collect();
        old.sort();
        old.truncate(limit as usize);
        for (_, id) in &old {
            state.idempotency_keys.remove(id);
        }
        Ok(old.len() as u64)
    }
}
