//! The store as a node reaches it: over a way that takes time, and sometimes loses what it carries.

mod rest;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stacyvm_admission::Policy;
use stacyvm_store::{
    Durability, Error, EventFilter, ExecLog, Include, NewEvent, NewSandbox, Result, Sandbox, Store,
    Template, TemplateChange, memory::MemoryStore,
};
use stacyvm_types::{Event, Generation, Lease, Phase, SandboxId, Timestamp, Transition, WorkerId};
use tokio::time::sleep;

use crate::{chaos, invariants, node::Life, plant::Plant, world::World};

/// How long a call to a store that is away takes to fail.
const REFUSAL: Duration = Duration::from_millis(500);

/// One node's connections to the store that all share.
pub(crate) struct SimStore {
    pub(crate) world: World,
    pub(crate) life: Life,
    pub(crate) of: WorkerId,
    /// Whether several servers share it: then leases are judged by its own clock.
    pub(crate) shared: bool,
}

impl SimStore {
    fn truth(&self) -> &Arc<MemoryStore> {
        self.world.store()
    }

    /// The time that leases are judged by.
    fn judged(&self, now: Timestamp) -> Timestamp {
        if self.shared { self.world.now() } else { now }
    }

    /// The way there. Waits out a failover; fails when the call is lost or the store is away.
    async fn there(&self, name: &'static str) -> Result<()> {
        self.life.step().await;
        let profile = &self.world.profile().store;
        self.world.delay(profile.latency).await;
        while let Some(pause) = self.world.failing_over() {
            sleep(pause).await;
        }
        let cut = self.world.is_cut(self.of.as_str(), chaos::STORE);
        let away = cut || self.world.is_store_away();
        if away || self.world.strikes("the store refuses", profile.refused) {
            self.world.note(self.life.name(), format_args!("store.{name} is refused"));
            self.world.delay(REFUSAL).await;
            self.life.step().await;
            return Err(Error::Unavailable("the simulated store is away".into()));
        }
        Ok(())
    }

    /// The way back.
    async fn back<T>(&self, name: &'static str, answer: Result<T>) -> Result<T> {
        let profile = &self.world.profile().store;
        self.world.delay(profile.latency).await;
        let lost = self.world.strikes("the store loses an answer", profile.unacknowledged);
        self.life.step().await;
        if lost {
            self.world.note(self.life.name(), format_args!("store.{name} loses its answer"));
            return Err(Error::Unavailable("the simulated store lost the answer".into()));
        }
        answer
    }

    async fn read<T>(
        &self,
        name: &'static str,
        read: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.there(name).await?;
        let answer = read.await;
        self.back(name, answer).await
    }

    async fn write<T>(
        &self,
        name: &'static str,
        change: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.there(name).await?;
        let answer = change.await;
        let how = if answer.is_ok() { "done" } else { "not done" };
        self.world.note(self.life.name(), format_args!("store.{name} {how}"));
        invariants::after_commit(&self.world);
        self.back(name, answer).await
    }

    /// A change of one row, which is looked at before anybody else can act on it.
    async fn change(
        &self,
        name: &'static str,
        id: &SandboxId,
        change: impl Future<Output = Result<Sandbox>>,
    ) -> Result<Sandbox> {
        self.there(name).await?;
        let answer = change.await;
        match &answer {
            Ok(row) => {
                let phase = row.phase.as_str();
                self.world.note(self.life.name(), format_args!("store.{name} {id} {phase}"));
                invariants::after_change(&self.world, row);
            }
            Err(error) => {
                self.world.note(self.life.name(), format_args!("store.{name} {id}: {error}"));
            }
        }
        invariants::after_commit(&self.world);
        self.back(name, answer).await
    }
}

#[async_trait]
impl Store for SimStore {
    async fn admit(
        &self,
        policy: &Policy,
        new: NewSandbox,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let id = new.id.clone();
        let none = Policy::default();
        let judged = if self.world.has(Plant::LimitIgnored) { &none } else { policy };
        let admit = async {
            let row = self.truth().admit(judged, new, durability, self.judged(now)).await?;
            invariants::after_admission(&self.world, policy, &row);
            Ok(row)
        };
        self.change("admit", &id, admit).await
    }

    async fn transition(
        &self,
        id: &SandboxId,
        generation: Generation,
        transition: Transition,
        events: Vec<NewEvent>,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let gone = transition == Transition::Gone;
        let before = self.world.row(id);
        if gone
            && self.world.has(Plant::ReservationLeaked)
            && let Some(before) = before
        {
            return Ok(before);
        }
        let change = async {
            let before = self.world.row(id);
            let change =
                self.truth().transition(id, generation, transition, events, durability, now);
            let after = change.await?;
            if matches!(after.phase, Phase::Unhealthy(_))
                && before.is_some_and(|before| before.version < after.version)
            {
                invariants::after_loss(&self.world, &after);
            }
            Ok(after)
        };
        let after = self.change("transition", id, change).await?;
        match before {
            Some(before) if gone && self.world.has(Plant::NotificationLost) => Ok(before),
            _ => Ok(after),
        }
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>> {
        self.read("sandbox", self.truth().sandbox(id)).await
    }
    async fn sandboxes(&self, include: Include) -> Result<Vec<Sandbox>> {
        self.read("sandboxes", self.truth().sandboxes(include)).await
    }
    async fn expired(&self, now: Timestamp, limit: u32) -> Result<Vec<Sandbox>> {
        self.read("expired", self.truth().expired(now, limit)).await
    }
    async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        self.read("next_expiry", self.truth().next_expiry()).await
    }
    async fn extend(
        &self,
        id: &SandboxId,
        expires_at: Timestamp,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Sandbox> {
        self.change("extend", id, self.truth().extend(id, expires_at, events, now)).await
    }
    async fn acquire_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        fence: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        let acquire =
            async { self.truth().acquire_lease(id, holder, fence, self.judged(now)).await };
        self.write("acquire_lease", acquire).await
    }
    async fn still_creating(&self, id: &SandboxId, now: Timestamp) -> Result<Sandbox> {
        self.change("still_creating", id, self.truth().still_creating(id, now)).await
    }
    async fn renew_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        term: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        let renew = async { self.truth().renew_lease(id, holder, term, self.judged(now)).await };
        self.write("renew_lease", renew).await
    }
    async fn release_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        generation: Generation,
    ) -> Result<()> {
        self.write("release_lease", self.truth().release_lease(id, holder, generation)).await
    }
    async fn lease(&self, id: &SandboxId) -> Result<Option<Lease>> {
        self.read("lease", self.truth().lease(id)).await
    }
    async fn append_events(&self, events: Vec<NewEvent>, now: Timestamp) -> Result<()> {
        self.write("append_events", self.truth().append_events(events, now)).await
    }
    async fn events(&self, after: u64, limit: u32, filter: EventFilter) -> Result<Vec<Event>> {
        self.read("events", self.truth().events(after, limit, filter)).await
    }
    async fn last_event(&self) -> Result<u64> {
        self.read("last_event", self.truth().last_event()).await
    }
    async fn log_exec(&self, log: ExecLog) -> Result<()> {
        self.write("log_exec", self.truth().log_exec(log)).await
    }
    async fn exec_logs(&self, id: &SandboxId, limit: u32) -> Result<Vec<ExecLog>> {
        self.read("exec_logs", self.truth().exec_logs(id, limit)).await
    }
    async fn template(&self, name: &str) -> Result<Option<Template>> {
        self.read("template", self.truth().template(name)).await
    }
    async fn templates(&self) -> Result<Vec<Template>> {
        self.read("templates", self.truth().templates()).await
    }
    async fn create_template(&self, template: Template) -> Result<Template> {
        self.write("create_template", self.truth().create_template(template)).await
    }
    async fn update_template(
        &self,
        name: &str,
        change: TemplateChange,
        now: Timestamp,
    ) -> Result<Template> {
        self.write("update_template", self.truth().update_template(name, change, now)).await
    }
    async fn delete_template(&self, name: &str) -> Result<()> {
        self.write("delete_template", self.truth().delete_template(name)).await
    }
    async fn sync(&self) -> Result<()> {
        self.write("sync", self.truth().sync()).await
    }
    async fn ping(&self) -> Result<()> {
        self.read("ping", self.truth().ping()).await
    }
}
