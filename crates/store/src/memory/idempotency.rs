//! Idempotency keys in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use stacyvm_types::{Timestamp, WorkerId};

use super::MemoryStore;
use crate::{
    Durability, Error, Result,
    idempotency::{Allowance, Answer, Begun, IdempotencyStore, NewKey, Turn},
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
    /// Whose allowance the answer's body counts against.
    counted_for: Option<String>,
}

/// What the bodies take that count against a caller's allowance.
fn kept_for(keys: &Keys, caller: &str) -> u64 {
    keys.values()
        .filter(|key| key.counted_for.as_deref() == Some(caller))
        .filter_map(|key| key.answer.as_ref()?.body.as_ref())
        .map(|body| body.len() as u64)
        .sum()
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
        let turn_now = turn.clone();
        let key = Key { fingerprint, turn: turn_now, held: hold, answer: None, counted_for: None };
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

    async fn hold_key(&self, id: &str, attempt: u64, until: Timestamp) -> Result<()> {
        let mut state = self.state();
        let key = current(&mut state.idempotency_keys, id, attempt).ok_or(Error::LeaseLost)?;
        // What was released has nobody who could hold it.
        let (_, held_until) = key.held.as_mut().ok_or(Error::LeaseLost)?;
        *held_until = until;
        Ok(())
    }

    async fn renew_key(&self, id: &str, attempt: u64, resource: &str) -> Result<()> {
        let mut state = self.state();
        let key = current(&mut state.idempotency_keys, id, attempt).ok_or(Error::LeaseLost)?;
        key.turn.resource = resource.to_owned();
        Ok(())
    }

    async fn finish_key(
        &self,
        id: &str,
        attempt: u64,
        mut answer: Answer,
        allowance: Option<Allowance>,
    ) -> Result<()> {
        let mut state = self.state();
        let keys = &mut state.idempotency_keys;
        let mut counted_for = None;
        if let Some(Allowance { caller, bytes }) = allowance {
            let kept = kept_for(keys, &caller);
            answer.body = answer.body.filter(|body| kept + body.len() as u64 <= bytes);
            counted_for = answer.body.is_some().then_some(caller);
        }
        let key = current(keys, id, attempt).ok_or(Error::LeaseLost)?;
        key.answer = Some(answer);
        key.counted_for = counted_for;
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
