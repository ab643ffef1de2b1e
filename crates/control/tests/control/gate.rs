//! A process that can die at any effect: behind a gate whose budget is used up nothing answers and
//! nothing happens any more, as for a process that was killed there.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_admission::Policy;
use stacyvm_provider::{
    Capabilities, Guest, Images, LaunchSpec, Probe, Provider, Result as ProviderResult, Runtime,
};
use stacyvm_store::{
    Allowance, Answer, ApiKey, AuditStore, Begun, Census, Durability, Error, EventFilter, ExecLog,
    Hints, IdempotencyStore, Include, KeyStore, NewEvent, NewKey, NewSandbox, ObserveStore, Quota,
    QuotaCounts, QuotaFields, QuotaStore, Result, RetentionStore, Sandbox, Standing, Store,
    Template, TemplateChange, Timings, WorkerRow, WorkerStore,
    audit::{AdminFilter, AdminRecord, OperationFilter, OperationRecord, Page, Position},
    memory::MemoryStore,
    retention::{Swept, Walk},
};
use stacyvm_types::{
    Beat, Event, ExecId, Generation, KeyId, Lease, OwnerId, Resources, SandboxId, Timestamp,
    Transition, WorkerId,
};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::fake::Fake;

/// How many moments are left. Each effect has two: before it and after it.
pub(crate) struct Gate {
    left: AtomicI64,
    pub(crate) store_is_down: AtomicBool,
    /// How the next syncs go; those that are not named succeed.
    syncs: Mutex<VecDeque<oneshot::Receiver<Result<()>>>>,
    /// The next admissions are answered when these end.
    admits: Mutex<VecDeque<oneshot::Receiver<()>>>,
    /// The next refused admissions, too.
    refusals: Mutex<VecDeque<oneshot::Receiver<()>>>,
    /// The next times that the store is asked for are these, when they come.
    times: Mutex<VecDeque<oneshot::Receiver<Timestamp>>>,
    /// What other servers say.
    pub(crate) events: watch::Sender<u64>,
    pub(crate) places: watch::Sender<u64>,
    /// Cancelled when the process has died.
    pub(crate) dead: CancellationToken,
}

impl Gate {
    pub(crate) fn dying_after(moments: i64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicI64::new(moments),
            store_is_down: AtomicBool::new(false),
            syncs: Mutex::default(),
            admits: Mutex::default(),
            refusals: Mutex::default(),
            times: Mutex::default(),
            events: watch::Sender::new(0),
            places: watch::Sender::new(0),
            dead: CancellationToken::new(),
        })
    }

    pub(crate) fn open() -> Arc<Self> {
        Self::dying_after(i64::MAX)
    }

    /// The process dies now.
    pub(crate) fn kill(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    /// Lets a test say when the next sync ends, and how.
    pub(crate) fn hold_sync(&self) -> oneshot::Sender<Result<()>> {
        let (end, outcome) = oneshot::channel();
        self.syncs.lock().unwrap().push_back(outcome);
        end
    }

    /// The next admission that is not held yet is answered when the sender ends.
    pub(crate) fn hold_admit(&self) -> oneshot::Sender<()> {
        let (end, held) = oneshot::channel();
        self.admits.lock().unwrap().push_back(held);
        end
    }

    /// The next refused admission that is not held yet is answered when the sender ends.
    pub(crate) fn hold_refusal(&self) -> oneshot::Sender<()> {
        let (end, held) = oneshot::channel();
        self.refusals.lock().unwrap().push_back(held);
        end
    }

    /// The next time that the store is asked for is what is sent, when it is.
    pub(crate) fn hold_time(&self) -> oneshot::Sender<Timestamp> {
        let (end, held) = oneshot::channel();
        self.times.lock().unwrap().push_back(held);
        end
    }

    async fn disk(&self) -> Result<()> {
        let held = self.syncs.lock().unwrap().pop_front();
        match held {
            Some(outcome) => match outcome.await {
                Ok(outcome) => outcome,
                Err(_) => std::future::pending().await,
            },
            None => Ok(()),
        }
    }

    async fn moment(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.dead.cancel();
            std::future::pending::<()>().await;
        }
    }

    async fn effect<T>(&self, effect: impl Future<Output = T>) -> T {
        self.moment().await;
        let result = effect.await;
        self.moment().await;
        result
    }

    async fn store<T>(&self, effect: impl Future<Output = Result<T>>) -> Result<T> {
        if self.store_is_down.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("the store is down".into()));
        }
        self.effect(effect).await
    }
}

/// The third is what the disk has: it lags behind by what only reached the kernel.
pub(crate) struct GatedStore(
    pub(crate) Arc<MemoryStore>,
    pub(crate) Arc<Gate>,
    pub(crate) Arc<Mutex<MemoryStore>>,
);

impl GatedStore {
    /// What was just admitted passes no limit, counted on the rows.
    async fn assert_within(&self, policy: &Policy, admitted: &Sandbox) {
        let live = self.0.sandboxes(Include::Live).await.unwrap();
        let count =
            |is: &dyn Fn(&Sandbox) -> bool| live.iter().filter(|row| is(row)).count() as u64;
        let within = |max: u64, taken: u64| assert!(max == 0 || taken <= max, "{taken} of {max}");
        within(policy.max_sandboxes, count(&|_| true));
        let worker = self.0.worker(&admitted.spec.worker).await.unwrap().unwrap();
        let on_it = live.iter().filter(|row| row.spec.worker == admitted.spec.worker);
        let load = on_it.map(|row| Resources::of_one(&row.spec.limits));
        let load = load.fold(Resources::default(), Resources::plus);
        assert!(worker.beat.capacity.holds(&load), "{load:?} on {worker:?}");
        if let Some(owner) = &admitted.spec.owner {
            let quota = self.0.quota(owner).await.unwrap();
            let own = quota.and_then(|quota| quota.fields.max_sandboxes);
            let max = own.map_or(policy.max_per_owner, u64::from);
            within(max, count(&|row| row.spec.owner.as_ref() == Some(owner)));
        }
    }

    /// A change that the disk has before it is answered, with everything before it.
    async fn synced<T>(&self, change: impl Future<Output = Result<T>>) -> Result<T> {
        let change = async {
            let result = change.await;
            if result.is_ok() {
                *self.2.lock().unwrap() = MemoryStore::clone(&self.0);
            }
            result
        };
        self.1.store(change).await
    }

    async fn with<T>(
        &self,
        durability: Durability,
        change: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match durability {
            Durability::Disk => self.synced(change).await,
            Durability::Kernel => self.1.store(change).await,
        }
    }
}

#[async_trait]
impl WorkerStore for GatedStore {
    async fn time(&self, now: Timestamp) -> Result<Timestamp> {
        let held = self.1.times.lock().unwrap().pop_front();
        match held {
            Some(held) => Ok(held.await.unwrap()),
            None => self.0.time(now).await,
        }
    }
    async fn beat(&self, beat: Beat, term: Option<Duration>, now: Timestamp) -> Result<WorkerRow> {
        self.synced(self.0.beat(beat, term, now)).await
    }
    async fn worker(&self, id: &WorkerId) -> Result<Option<WorkerRow>> {
        self.1.store(self.0.worker(id)).await
    }
    async fn workers(&self) -> Result<Vec<(WorkerRow, Resources)>> {
        self.1.store(self.0.workers()).await
    }
    async fn cordon(&self, id: &WorkerId, cordoned: bool, now: Timestamp) -> Result<WorkerRow> {
        self.synced(self.0.cordon(id, cordoned, now)).await
    }
    async fn remove_worker(&self, id: &WorkerId) -> Result<()> {
        self.synced(self.0.remove_worker(id)).await
    }
    async fn sandboxes_of(
        &self,
        worker: &WorkerId,
        after: Option<(Timestamp, SandboxId)>,
        limit: u32,
    ) -> Result<Vec<Sandbox>> {
        self.1.store(self.0.sandboxes_of(worker, after, limit)).await
    }
}

#[async_trait]
impl ObserveStore for GatedStore {
    async fn census(&self, now: Timestamp) -> Result<Census> {
        self.1.store(self.0.census(now)).await
    }
    fn timings(&self) -> Option<&Timings> {
        self.0.timings()
    }
}

#[async_trait]
impl KeyStore for GatedStore {
    async fn create_key(&self, key: ApiKey) -> Result<()> {
        self.synced(self.0.create_key(key)).await
    }
    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>> {
        self.1.store(self.0.key(id)).await
    }
    async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.1.store(self.0.keys()).await
    }
    async fn has_keys(&self) -> Result<bool> {
        self.1.store(self.0.has_keys()).await
    }
    async fn revoke_key(&self, id: &KeyId, now: Timestamp) -> Result<ApiKey> {
        self.synced(self.0.revoke_key(id, now)).await
    }
    async fn note_key_use(&self, id: &KeyId, at: Timestamp) -> Result<()> {
        self.synced(self.0.note_key_use(id, at)).await
    }
}

#[async_trait]
impl QuotaStore for GatedStore {
    async fn quota(&self, owner: &OwnerId) -> Result<Option<Quota>> {
        self.1.store(self.0.quota(owner)).await
    }
    async fn quotas(&self) -> Result<Vec<Quota>> {
        self.1.store(self.0.quotas()).await
    }
    async fn quota_counts(&self) -> Result<QuotaCounts> {
        self.1.store(self.0.quota_counts()).await
    }
    async fn put_quota(
        &self,
        owner: &OwnerId,
        fields: QuotaFields,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Quota> {
        self.synced(self.0.put_quota(owner, fields, events, now)).await
    }
    async fn delete_quota(
        &self,
        owner: &OwnerId,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<()> {
        self.synced(self.0.delete_quota(owner, events, now)).await
    }
    async fn standing(&self, owner: Option<&OwnerId>, worker: &WorkerId) -> Result<Standing> {
        self.1.store(self.0.standing(owner, worker)).await
    }
}

#[async_trait]
impl Store for GatedStore {
    async fn admit(
        &self,
        policy: &Policy,
        new: NewSandbox,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let change = async {
            let answer = self.0.admit(policy, new, durability, now).await;
            let held = match &answer {
                Ok(row) => {
                    self.assert_within(policy, row).await;
                    &self.1.admits
                }
                Err(_) => &self.1.refusals,
            };
            let held = held.lock().unwrap().pop_front();
            if let Some(held) = held {
                held.await.ok();
            }
            answer
        };
        self.with(durability, change).await
    }
    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>> {
        self.1.store(self.0.sandbox(id)).await
    }
    async fn sandboxes(&self, include: Include) -> Result<Vec<Sandbox>> {
        self.1.store(self.0.sandboxes(include)).await
    }
    async fn expired(&self, now: Timestamp, limit: u32) -> Result<Vec<Sandbox>> {
        self.1.store(self.0.expired(now, limit)).await
    }
    async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        self.1.store(self.0.next_expiry()).await
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
        let change = self.0.transition(id, generation, transition, events, durability, now);
        self.with(durability, change).await
    }
    async fn extend(
        &self,
        id: &SandboxId,
        expires_at: Timestamp,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Sandbox> {
        self.synced(self.0.extend(id, expires_at, events, now)).await
    }
    async fn acquire_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        fence: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        self.synced(self.0.acquire_lease(id, holder, fence, now)).await
    }
    async fn still_creating(&self, id: &SandboxId, now: Timestamp) -> Result<Sandbox> {
        let change = self.0.still_creating(id, now);
        self.with(Durability::Kernel, change).await
    }
    async fn renew_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        term: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        self.synced(self.0.renew_lease(id, holder, term, now)).await
    }
    async fn release_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        generation: Generation,
    ) -> Result<()> {
        self.synced(self.0.release_lease(id, holder, generation)).await
    }
    async fn lease(&self, id: &SandboxId) -> Result<Option<Lease>> {
        self.1.store(self.0.lease(id)).await
    }
    async fn append_events(&self, events: Vec<NewEvent>, now: Timestamp) -> Result<()> {
        self.synced(self.0.append_events(events, now)).await
    }
    async fn events(&self, after: u64, limit: u32, filter: EventFilter) -> Result<Vec<Event>> {
        self.1.store(self.0.events(after, limit, filter)).await
    }
    async fn last_event(&self) -> Result<u64> {
        self.1.store(self.0.last_event()).await
    }
    async fn log_exec(&self, log: ExecLog) -> Result<()> {
        self.synced(self.0.log_exec(log)).await
    }
    async fn exec_logs(&self, id: &SandboxId, limit: u32) -> Result<Vec<ExecLog>> {
        self.1.store(self.0.exec_logs(id, limit)).await
    }
    async fn template(&self, name: &str) -> Result<Option<Template>> {
        self.1.store(self.0.template(name)).await
    }
    async fn templates(&self) -> Result<Vec<Template>> {
        self.1.store(self.0.templates()).await
    }
    async fn create_template(&self, template: Template) -> Result<Template> {
        self.synced(self.0.create_template(template)).await
    }
    async fn update_template(
        &self,
        name: &str,
        change: TemplateChange,
        now: Timestamp,
    ) -> Result<Template> {
        self.synced(self.0.update_template(name, change, now)).await
    }
    async fn delete_template(&self, name: &str) -> Result<()> {
        self.synced(self.0.delete_template(name)).await
    }
    async fn sync(&self) -> Result<()> {
        self.1.disk().await?;
        self.synced(async { Ok(()) }).await
    }
    async fn ping(&self) -> Result<()> {
        self.1.store(self.0.ping()).await
    }
    fn hints(&self) -> Option<Hints> {
        Some(Hints { events: self.1.events.subscribe(), places: self.1.places.subscribe() })
    }
}

#[async_trait]
impl IdempotencyStore for GatedStore {
    async fn begin_key(
        &self,
        new: NewKey,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Begun> {
        let change = self.0.begin_key(new, durability, now);
        self.with(durability, change).await
    }
    async fn hold_key(&self, id: &str, attempt: u64, until: Timestamp) -> Result<()> {
        self.1.store(self.0.hold_key(id, attempt, until)).await
    }
    async fn renew_key(&self, id: &str, attempt: u64, resource: &str) -> Result<()> {
        self.1.store(self.0.renew_key(id, attempt, resource)).await
    }
    async fn finish_key(
        &self,
        id: &str,
        attempt: u64,
        answer: Answer,
        allowance: Option<Allowance>,
    ) -> Result<()> {
        self.synced(self.0.finish_key(id, attempt, answer, allowance)).await
    }
    async fn release_key(&self, id: &str, attempt: u64) -> Result<()> {
        self.1.store(self.0.release_key(id, attempt)).await
    }
    async fn prune_keys(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.1.store(self.0.prune_keys(before, limit)).await
    }
}

#[async_trait]
impl AuditStore for GatedStore {
    async fn record_operations(&self, records: Vec<OperationRecord>) -> Result<()> {
        self.1.store(self.0.record_operations(records)).await
    }
    async fn operation_records(
        &self,
        filter: OperationFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<OperationRecord>> {
        self.1.store(self.0.operation_records(filter, before, limit)).await
    }
    async fn exec_log(&self, sandbox: &SandboxId, id: &ExecId) -> Result<Option<ExecLog>> {
        self.1.store(self.0.exec_log(sandbox, id)).await
    }
    async fn record_admin_requests(&self, records: Vec<AdminRecord>) -> Result<()> {
        self.1.store(self.0.record_admin_requests(records)).await
    }
    async fn admin_records(
        &self,
        filter: AdminFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<AdminRecord>> {
        self.1.store(self.0.admin_records(filter, before, limit)).await
    }
}

#[async_trait]
impl RetentionStore for GatedStore {
    async fn prune_sandboxes(&self, before: Timestamp, from: Walk, limit: u32) -> Result<Swept> {
        self.synced(self.0.prune_sandboxes(before, from, limit)).await
    }
    async fn prune_exec_logs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.synced(self.0.prune_exec_logs(before, limit)).await
    }
    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.synced(self.0.prune_events(before, limit)).await
    }
    async fn pruned_events(&self) -> Result<u64> {
        self.1.store(self.0.pruned_events()).await
    }
    async fn prune_operation_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.synced(self.0.prune_operation_records(before, limit)).await
    }
    async fn prune_admin_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.synced(self.0.prune_admin_records(before, limit)).await
    }
}

pub(crate) struct GatedProvider(pub(crate) Arc<Fake>, pub(crate) Arc<Gate>);

#[async_trait]
impl Provider for GatedProvider {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    async fn probe(&self) -> Probe {
        self.1.effect(self.0.probe()).await
    }
    async fn launch(&self, spec: &LaunchSpec) -> ProviderResult<Runtime> {
        self.1.effect(self.0.launch(spec)).await
    }
    async fn list(&self) -> ProviderResult<Vec<Runtime>> {
        self.1.effect(self.0.list()).await
    }
    async fn status(&self, id: &SandboxId) -> ProviderResult<Runtime> {
        self.1.effect(self.0.status(id)).await
    }
    async fn destroy(&self, id: &SandboxId) -> ProviderResult<()> {
        self.1.effect(self.0.destroy(id)).await
    }
    async fn pause(&self, id: &SandboxId) -> ProviderResult<()> {
        self.0.pause(id).await
    }
    async fn resume(&self, id: &SandboxId) -> ProviderResult<()> {
        self.0.resume(id).await
    }
    async fn guest(&self, id: &SandboxId) -> ProviderResult<Arc<dyn Guest>> {
        self.1.effect(self.0.guest(id)).await
    }
    fn images(&self) -> Option<&dyn Images> {
        None
    }
}
