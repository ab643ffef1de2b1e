//! Compares what should be with what is, all the time, one step per row. Recovery after a crash is
//! this same work, done once before the server takes requests.
//!
//! A pass lists the runtimes first and the rows after: a runtime is only ever started for a row
//! that was stored before, so whatever was listed has its row by then. A row without a runtime may
//! still be younger than the list; therefore each step looks at its own row and runtime again
//! before it acts, and leaves alone what a spawn of this process is working on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use stacyvm_provider::{ErrorKind, Runtime};
use stacyvm_store::{Durability, Include, Sandbox};
use stacyvm_types::{CauseKind, EventKind, SandboxId, Timestamp, Transition, WorkerId};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    Control, Error, Result,
    decide::{Pass, Seen, Step, decide},
    events,
    jobs::{Job, Progress},
    operations::Act,
};

/// How long the start of the server waits for the first pass to have its effect. What takes longer
/// goes on beside the requests.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(15);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Steps under way at once; the next pass starts what does not fit.
const STEPS: usize = 1024;

/// When failed steps are tried again, by sandbox.
#[derive(Default)]
pub(crate) struct Retries(Mutex<HashMap<SandboxId, (u32, Timestamp)>>);

impl Retries {
    fn is_due(&self, id: &SandboxId, now: Timestamp) -> bool {
        let retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retries.get(id).is_none_or(|(_, due)| *due <= now)
    }

    /// Whether it is the first failure in a row.
    fn failed(&self, id: &SandboxId, now: Timestamp) -> bool {
        let mut retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (failures, due) = retries.entry(id.clone()).or_insert((0, now));
        let pause = LAST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow(*failures));
        *failures = failures.saturating_add(1);
        *due = now.saturating_add(pause);
        *failures == 1
    }

    /// Forgets all but these.
    fn keep(&self, ids: &BTreeSet<&SandboxId>) {
        let mut retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retries.retain(|id, _| ids.contains(id));
    }

    fn succeeded(&self, id: &SandboxId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The earliest time at which something is due.
    fn next(&self) -> Option<Timestamp> {
        let retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retries.values().map(|(_, due)| *due).min()
    }
}

/// What a pass found about the runtimes of all workers.
#[derive(Default)]
struct Inventory {
    runtimes: BTreeMap<SandboxId, Found>,
    silent: BTreeSet<(WorkerId, &'static str)>,
}

/// Where a runtime was found.
#[derive(Clone)]
struct Found {
    worker: WorkerId,
    provider: &'static str,
    runtime: Runtime,
}

impl Control {
    /// Brings rows and runtimes together before the server takes requests: adopts what lives,
    /// ends what does not, finishes what was cut short. Fails only when the store does not answer;
    /// a provider that does not answer is left to the later passes.
    pub async fn recover(&self) -> Result<()> {
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        for step in self.pass(Pass::Startup).await? {
            if timeout_at(deadline, step).await.is_err() {
                tracing::warn!("recovery goes on beside the first requests");
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn wake_reconciler(&self) {
        self.0.reconcile.wake();
    }

    /// Looks at everything and starts the step that each sandbox needs. A step that takes long
    /// holds up no other, and no later pass.
    async fn pass(&self, pass: Pass) -> Result<Vec<JoinHandle<()>>> {
        let inventory = self.inventory().await;
        let rows = self.store().sandboxes(Include::Live).await.map_err(Error::from_store)?;
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.spec.id.clone(), row)).collect();
        let ids: BTreeSet<_> = rows.keys().chain(inventory.runtimes.keys()).collect();
        self.0.retries.keep(&ids);
        let mut steps = Vec::new();
        for id in ids {
            let row = rows.get(id);
            let found = inventory.runtimes.get(id);
            let seen = self.seen(row, found, &inventory);
            let in_flight = self.0.spawning.holds(id);
            if decide(row, seen, pass, in_flight, self.now()) == Step::Nothing
                || !self.0.retries.is_due(id, self.now())
                || STEPS <= steps.len()
            {
                continue;
            }
            let Some(claim) = self.0.settling.claim(id) else { continue };
            let (control, id, found) = (self.clone(), id.clone(), found.cloned());
            steps.push(self.0.parts.tasks.spawn(async move {
                match control.settle(&id, found, pass).await {
                    Ok(()) => control.0.retries.succeeded(&id),
                    Err(error) => {
                        tracing::warn!(sandbox.id = %id, %error, "a sandbox is not settled yet");
                        if control.0.retries.failed(&id, control.now())
                            && let Ok(row) = control.row(&id).await
                        {
                            control.audit_not_settled(&row, &error).await;
                        }
                    }
                }
                drop(claim);
            }));
        }
        Ok(steps)
    }

    async fn inventory(&self) -> Inventory {
        let mut inventory = Inventory::default();
        let answers = self.0.parts.fleet.workers().map(|worker| async move {
            let (runtimes, silent) = worker.runtimes().await;
            (worker.id(), runtimes, silent)
        });
        for (id, runtimes, silent) in join_all(answers).await {
            inventory.silent.extend(silent.into_iter().map(|provider| (id.clone(), provider)));
            for (provider, runtime) in runtimes {
                let key = runtime.id.clone();
                inventory.runtimes.insert(key, Found { worker: id.clone(), provider, runtime });
            }
        }
        inventory
    }

    fn seen(&self, row: Option<&Sandbox>, found: Option<&Found>, inventory: &Inventory) -> Seen {
        if let Some(found) = found {
            return Seen::Present(found.runtime.state);
        }
        let Some(row) = row else { return Seen::Absent };
        let Ok(worker) = self.0.parts.fleet.worker(&row.spec.worker) else {
            return Seen::NoWorker;
        };
        let is_silent = inventory
            .silent
            .iter()
            .any(|(id, provider)| *id == row.spec.worker && *provider == row.spec.provider);
        if is_silent || worker.capabilities(&row.spec.provider).is_err() {
            return Seen::Unknown;
        }
        Seen::Absent
    }

    /// Looks at one sandbox again, decides on what is there now, and does that one step.
    async fn settle(&self, id: &SandboxId, found: Option<Found>, pass: Pass) -> Result<()> {
        let row = self.store().sandbox(id).await.map_err(Error::from_store)?;
        let seen = match (&row, &found) {
            (Some(row), _) if row.phase.is_live() => {
                self.look(&row.spec.worker, &row.spec.provider, id).await
            }
            (_, Some(found)) => self.look(&found.worker, found.provider, id).await,
            (_, None) => Seen::Absent,
        };
        let step = decide(row.as_ref(), seen, pass, self.0.spawning.holds(id), self.now());
        match (step, row, found) {
            (Step::Nothing, _, _) => Ok(()),
            (Step::DestroyOrphan, row, Some(found)) => self.destroy_orphan(row, found).await,
            (step, Some(row), _) => self.act(step, row).await,
            (_, None, _) => Ok(()),
        }
    }

    async fn look(&self, worker: &WorkerId, provider: &str, id: &SandboxId) -> Seen {
        let Ok(worker) = self.0.parts.fleet.worker(worker) else {
            return Seen::NoWorker;
        };
        match worker.status(provider, id).await {
            Ok(runtime) => Seen::Present(runtime.state),
            Err(error) if error.kind == ErrorKind::NoSandbox => Seen::Absent,
            Err(_) => Seen::Unknown,
        }
    }

    async fn act(&self, step: Step, row: Sandbox) -> Result<()> {
        let transition = match step {
            Step::Nothing | Step::DestroyOrphan => return Ok(()),
            Step::Finish => return self.destroy_runtime(&row).await.map(|_| ()),
            Step::Stop(cause) => {
                let action = if cause.kind == CauseKind::Expired {
                    "marked_expired"
                } else {
                    "marked_destroyed"
                };
                let reason = cause.detail.clone();
                let event = action_event(&row, action, reason.clone());
                let stopping = match self.stop(&row, cause, vec![event], Durability::Disk).await {
                    // Its deadline was moved since the row was read.
                    Err(Error::WrongState { .. }) => return Ok(()),
                    stopping => stopping?,
                };
                self.audit_reconciled(&row, action, reason).await;
                return self.destroy_runtime(&stopping).await.map(|_| ());
            }
            Step::Adopt => Transition::Started,
            Step::Recover => Transition::Recovered,
            Step::Lose(cause) => Transition::Lost(cause),
        };
        let (action, reason) = match &transition {
            Transition::Lost(cause) => ("marked_unhealthy", cause.detail.clone()),
            Transition::Recovered => ("recovered_runtime", "its worker is back".to_owned()),
            _ => ("adopted_runtime", "its runtime was found alive after a restart".to_owned()),
        };
        let mut news = vec![action_event(&row, action, reason.clone())];
        if transition == Transition::Started {
            news.push(events::about(&row, EventKind::SandboxRunning, []));
        }
        self.transition(&row, transition, news, Durability::Disk)
            .await
            .map_err(Error::from_store)?;
        self.audit_reconciled(&row, action, reason).await;
        Ok(())
    }

    /// Destroys a runtime that no live row names. The generation is the row's where there is an
    /// ended one, else the newest that the worker has seen, which is what it reports.
    async fn destroy_orphan(&self, row: Option<Sandbox>, found: Found) -> Result<()> {
        let Found { worker, provider, runtime } = found;
        let generation = match &row {
            Some(row) => row.generation.max(runtime.generation),
            None => runtime.generation,
        };
        let destroyed = match self.0.parts.fleet.worker(&worker) {
            Ok(worker) => worker.destroy(provider, &runtime.id, generation).await,
            Err(error) => Err(error),
        };
        destroyed.map_err(|error| Error::from_provider(error, None))?;
        let reason = if row.is_some() { "its row had ended" } else { "no row names it" };
        tracing::info!(sandbox.id = %runtime.id, provider, reason, "a leftover runtime is destroyed");
        let data = [
            ("action", "destroyed_orphan".to_owned()),
            ("reason", reason.to_owned()),
            ("provider", provider.to_owned()),
        ];
        let mut event = events::general(EventKind::ReconcileAction, data);
        let attempt = self.attempt(Act::Change("reconcile.action"), "destroyed_orphan");
        let mut attempt = attempt.on(&runtime.id);
        attempt.provider = Some(provider.to_owned());
        attempt.owner = row.and_then(|row| row.spec.owner);
        event.owner.clone_from(&attempt.owner);
        event.sandbox = Some(runtime.id);
        self.record_event(event).await;
        attempt.succeeded(reason.to_owned()).await;
        Ok(())
    }
}

fn action_event(row: &Sandbox, action: &str, reason: String) -> stacyvm_store::NewEvent {
    let data = [
        ("action", action.to_owned()),
        ("reason", reason),
        ("provider", row.spec.provider.clone()),
    ];
    events::about(row, EventKind::ReconcileAction, data)
}

/// The job.
pub(crate) struct Reconciler(Control);

impl Reconciler {
    pub(crate) const fn new(control: Control) -> Self {
        Self(control)
    }
}

#[async_trait]
impl Job for Reconciler {
    const NAME: &'static str = "reconciler";
    const PERIOD: Duration = Duration::from_secs(10);
    const GAP: Duration = Duration::from_secs(1);

    async fn run_once(&mut self) -> Result<Progress> {
        let done = self.0.pass(Pass::Running).await?.len() as u64;
        let now = self.0.now();
        let next = self
            .0
            .0
            .retries
            .next()
            .map(|due| due.saturating_since(now).clamp(Self::GAP, Self::PERIOD));
        Ok(Progress { done, next })
    }
}
