//! The store in memory: one mutex over ordered maps.
//!
//! It keeps every promise of [`Store`] except durability, and it is written to be obviously right,
//! not fast: lists are full passes. The property tests take it for the truth about the SQL stores.

mod audit;
mod idempotency;
mod keys;
mod observe;
mod quotas;
mod retention;
mod workers;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_admission::{Full, Policy};
use stacyvm_types::{
    Event, ExecId, Generation, KeyId, Lease, OwnerId, Phase, Resources, SandboxId, Timestamp,
    Transition, Unfit, WorkerId,
};

use crate::{
    ApiKey, Durability, Error, EventFilter, ExecLog, Include, NewEvent, NewSandbox, Quota, Result,
    Sandbox, Store, Template, TemplateChange, WorkerRow,
};

/// A store that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<State>);

#[derive(Debug, Default, Clone)]
struct State {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    /// Who holds which sandbox, under the generation of its row.
    leases: BTreeMap<SandboxId, WorkerId>,
    /// The event with id `n` is at index `n - 1 - pruned_events`.
    events: Vec<Event>,
    pruned_events: u64,
    execs: BTreeMap<(SandboxId, ExecId), ExecLog>,
    templates: BTreeMap<String, Template>,
    audit: audit::Records,
    idempotency_keys: idempotency::Keys,
    keys: BTreeMap<KeyId, ApiKey>,
    quotas: BTreeMap<OwnerId, Quota>,
    workers: BTreeMap<WorkerId, WorkerRow>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A method that panicked has not changed anything yet: all of them check first and then
    /// write without a step that can fail.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store of its own with the same content: what an instant leaves to another server.
impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.state().clone()))
    }
}

impl State {
    const fn last_event(&self) -> u64 {
        self.pruned_events + self.events.len() as u64
    }

    fn append(&mut self, events: Vec<NewEvent>, at: Timestamp) {
        for NewEvent { kind, sandbox, owner, data } in events {
            let id = self.last_event() + 1;
            self.events.push(Event { id, kind, sandbox, owner, at, data });
        }
    }

    fn admit(&mut self, policy: &Policy, new: NewSandbox, now: Timestamp) -> Result<Sandbox> {
        if self.sandboxes.contains_key(&new.id) {
            return Err(Error::Conflict);
        }
        self.decide(policy, &new, now)?;
        let Entry::Vacant(place) = self.sandboxes.entry(new.id.clone()) else {
            return Err(Error::Conflict);
        };
        let event = NewEvent::created(&new);
        let generation = Generation(1);
        self.leases.insert(new.id.clone(), new.worker.clone());
        let row = place.insert(Sandbox {
            latest_end: new.expires_at,
            spec: new,
            phase: Phase::Creating,
            generation,
            version: 1,
            created_at: now,
            updated_at: now,
        });
        let row = row.clone();
        self.append(vec![event], now);
        Ok(row)
    }

    /// Live sandboxes that the deadline concerns.
    fn with_deadline(&self) -> impl Iterator<Item = &Sandbox> {
        self.sandboxes.values().filter(|s| !matches!(s.phase, Phase::Stopping(_) | Phase::Ended(_)))
    }

    fn transition(
        &mut self,
        id: &SandboxId,
        generation: Generation,
        transition: Transition,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let row = self.sandboxes.get_mut(id).ok_or(Error::NotFound)?;
        if row.generation != generation {
            return Err(Error::Fenced);
        }
        if row.is_early(&transition, now) {
            return Err(Error::WrongPhase(Box::new(row.clone())));
        }
        let phase = row.phase.clone().step(transition).map_err(Error::Refused)?;
        if phase == row.phase {
            return Ok(row.clone());
        }
        if matches!(phase, Phase::Unhealthy(_)) && self.holds(id, now) {
            return Err(Error::LeaseHeld);
        }
        let row = self.sandboxes.get_mut(id).ok_or(Error::NotFound)?;
        row.phase = phase;
        row.version += 1;
        row.updated_at = now;
        let row = row.clone();
        if !row.phase.is_live() {
            self.leases.remove(id);
        }
        self.append(events, now);
        Ok(row)
    }

    fn extend(
        &mut self,
        id: &SandboxId,
        expires_at: Timestamp,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let row = self.sandboxes.get_mut(id).ok_or(Error::NotFound)?;
        let extendable = matches!(row.phase, Phase::Creating | Phase::Running | Phase::Paused);
        if !extendable || row.spec.expires_at <= now {
            return Err(Error::WrongPhase(Box::new(row.clone())));
        }
        row.spec.expires_at = expires_at;
        row.latest_end = row.latest_end.max(expires_at);
        row.version += 1;
        row.updated_at = now;
        let row = row.clone();
        self.append(events, now);
        Ok(row)
    }

    fn acquire_lease(
        &mut self,
        id: &SandboxId,
        holder: &WorkerId,
        fence: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        let row = self.sandboxes.get(id).ok_or(Error::NotFound)?;
        if !row.phase.is_live() {
            return Err(Error::WrongPhase(Box::new(row.clone())));
        }
        let worker = self.workers.get(holder).ok_or(Error::Unfit(Unfit::Unknown))?;
        if !worker.is_fresh(now) {
            return Err(Error::Unfit(Unfit::Stale));
        }
        if let Some(lease) = self.lease(id)
            && lease.holder != *holder
            && lease.holds(fence, now)
        {
            return Err(Error::LeaseHeld);
        }
        let row = self.sandboxes.get(id).ok_or(Error::NotFound)?;
        if row.spec.worker != *holder && row.phase.is_live() {
            let max = self.capacity(holder, now)?;
            if !max.holds(&self.load(holder).plus(Resources::of_one(&row.spec.limits))) {
                return Err(Error::Full(Full::Worker { max }));
            }
        }
        let row = self.sandboxes.get_mut(id).ok_or(Error::NotFound)?;
        row.spec.worker = holder.clone();
        row.generation.0 += 1;
        row.version += 1;
        row.updated_at = now;
        self.leases.insert(id.clone(), holder.clone());
        self.lease(id).ok_or(Error::NotFound)
    }

    fn renew_lease(
        &mut self,
        id: &SandboxId,
        holder: &WorkerId,
        term: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        if self.leases.get(id) != Some(holder) || !self.holds(id, now) {
            return Err(Error::LeaseLost);
        }
        let worker = self.workers.get_mut(holder).ok_or(Error::LeaseLost)?;
        *worker = worker.clone().renewed(term, now);
        self.lease(id).ok_or(Error::LeaseLost)
    }

    /// Whether somebody holds the lease at this instant.
    fn holds(&self, id: &SandboxId, now: Timestamp) -> bool {
        self.lease(id).is_some_and(|lease| lease.holds(Duration::ZERO, now))
    }

    fn lease(&self, id: &SandboxId) -> Option<Lease> {
        let holder = self.leases.get(id)?.clone();
        let expires_at = self.workers.get(&holder).map_or(Timestamp::EPOCH, |row| row.lease_until);
        Some(Lease { holder, generation: self.sandboxes.get(id)?.generation, expires_at })
    }
}

/// Durations are kept in microseconds, like instants.
fn whole_micros(duration: Duration) -> Duration {
    let epoch = Timestamp::from_micros(0);
    epoch.saturating_add(duration).saturating_since(epoch)
}

#[async_trait]
impl Store for MemoryStore {
    async fn admit(
        &self,
        policy: &Policy,
        new: NewSandbox,
        _durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        self.state().admit(policy, new, now)
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>> {
        Ok(self.state().sandboxes.get(id).cloned())
    }

    async fn sandboxes(&self, include: Include) -> Result<Vec<Sandbox>> {
        let wanted = |s: &&Sandbox| include == Include::Ended || s.phase.is_live();
        let mut rows: Vec<_> = self.state().sandboxes.values().filter(wanted).cloned().collect();
        rows.sort_by(|a, b| (b.created_at, &b.spec.id).cmp(&(a.created_at, &a.spec.id)));
        Ok(rows)
    }

    async fn expired(&self, now: Timestamp, limit: u32) -> Result<Vec<Sandbox>> {
        let state = self.state();
        let mut rows: Vec<_> =
            state.with_deadline().filter(|s| s.spec.expires_at <= now).cloned().collect();
        rows.sort_by(|a, b| (a.spec.expires_at, &a.spec.id).cmp(&(b.spec.expires_at, &b.spec.id)));
        rows.truncate(limit as usize);
        Ok(rows)
    }

    async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        Ok(self.state().with_deadline().map(|s| s.spec.expires_at).min())
    }

    async fn transition(
        &self,
        id: &SandboxId,
        generation: Generation,
        transition: Transition,
        events: Vec<NewEvent>,
        _durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        self.state().transition(id, generation, transition, events, now)
    }

    async fn extend(
        &self,
        id: &SandboxId,
        expires_at: Timestamp,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Sandbox> {
        self.state().extend(id, expires_at, events, now)
    }

    async fn acquire_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        fence: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        self.state().acquire_lease(id, holder, fence, now)
    }

    async fn still_creating(&self, id: &SandboxId, now: Timestamp) -> Result<Sandbox> {
        let mut state = self.state();
        let row = state.sandboxes.get_mut(id).ok_or(Error::NotFound)?;
        if row.phase != Phase::Creating {
            return Err(Error::WrongPhase(Box::new(row.clone())));
        }
        row.version += 1;
        row.updated_at = now;
        Ok(row.clone())
    }

    async fn renew_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        term: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        self.state().renew_lease(id, holder, term, now)
    }

    async fn release_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        generation: Generation,
    ) -> Result<()> {
        let mut state = self.state();
        match state.lease(id) {
            Some(lease) if lease.holder == *holder && lease.generation == generation => {
                state.leases.remove(id);
                Ok(())
            }
            _ => Err(Error::LeaseLost),
        }
    }

    async fn lease(&self, id: &SandboxId) -> Result<Option<Lease>> {
        Ok(self.state().lease(id))
    }

    async fn append_events(&self, events: Vec<NewEvent>, now: Timestamp) -> Result<()> {
        self.state().append(events, now);
        Ok(())
    }

    async fn events(&self, after: u64, limit: u32, filter: EventFilter) -> Result<Vec<Event>> {
        let state = self.state();
        let from = after.saturating_sub(state.pruned_events);
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(state.events.len());
        let matching = state.events[from..].iter().filter(|event| filter.matches(event));
        Ok(matching.take(limit as usize).cloned().collect())
    }

    async fn last_event(&self) -> Result<u64> {
        Ok(self.state().last_event())
    }

    async fn log_exec(&self, log: ExecLog) -> Result<()> {
        let mut state = self.state();
        if !state.sandboxes.contains_key(&log.sandbox) {
            return Err(Error::NotFound);
        }
        let duration = whole_micros(log.duration);
        let key = (log.sandbox.clone(), log.id.clone());
        state.execs.entry(key).or_insert(ExecLog { duration, ..log });
        Ok(())
    }

    async fn exec_logs(&self, id: &SandboxId, limit: u32) -> Result<Vec<ExecLog>> {
        let state = self.state();
        let mut logs: Vec<_> = state.execs.values().filter(|e| e.sandbox == *id).collect();
        logs.sort_by_key(|log| Reverse((log.at, &log.id)));
        Ok(logs.into_iter().take(limit as usize).cloned().collect())
    }

    async fn template(&self, name: &str) -> Result<Option<Template>> {
        Ok(self.state().templates.get(name).cloned())
    }

    async fn templates(&self) -> Result<Vec<Template>> {
        Ok(self.state().templates.values().cloned().collect())
    }

    async fn create_template(&self, mut template: Template) -> Result<Template> {
        template.version = 1;
        template.fields.ttl = whole_micros(template.fields.ttl);
        match self.state().templates.entry(template.name.clone()) {
            Entry::Occupied(_) => Err(Error::Conflict),
            Entry::Vacant(place) => Ok(place.insert(template).clone()),
        }
    }

    async fn update_template(
        &self,
        name: &str,
        change: TemplateChange,
        now: Timestamp,
    ) -> Result<Template> {
        let mut state = self.state();
        let row = state.templates.get_mut(name).ok_or(Error::NotFound)?;
        row.fields.apply(change);
        row.fields.ttl = whole_micros(row.fields.ttl);
        row.version += 1;
        row.updated_at = now;
        Ok(row.clone())
    }

    async fn delete_template(&self, name: &str) -> Result<()> {
        self.state().templates.remove(name).map(|_| ()).ok_or(Error::NotFound)
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::MemoryStore;
    use crate::Store;

    async fn fresh() -> (Arc<dyn Store>, ()) {
        (Arc::new(MemoryStore::new()), ())
    }

    crate::store_contract!(fresh);
}
