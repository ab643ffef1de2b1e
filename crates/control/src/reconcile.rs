//! Compares what should be with what is, all the time, one step per row. Recovery after a crash is
//! this same work, done once before the server takes requests.
//!
//! A pass is about some workers: this server's own each time, the others in turn, so that many
//! servers together look at many workers often enough. It lists the runtimes first and the rows
//! after: a runtime is only ever started for a row that was stored before, so whatever was listed
//! has its row by then. A row without a runtime may
//! still be younger than the list; therefore each step looks at its own row and runtime again
//! before it acts, and leaves alone what a spawn of this process is working on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use stacyvm_provider::{ErrorKind, Runtime};
use stacyvm_store::{self as store, Durability, Sandbox};
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
/// Passes after which each worker was looked at by this server.
const ROUND: usize = 6;
/// Workers that a pass looks at at least, if there are so many.
const AT_ONCE: usize = 8;
/// Rows that are read at once.
const PAGE: u32 = 1024;
/// Steps under way at once; the next pass starts what does not fit.
const STEPS: usize = 1024;

/// When failed steps are tried again, by sandbox.
#[derive(Default)]
pub(crate) struct Retries(Mutex<HashMap<SandboxId, Retry>>);

struct Retry {
    worker: WorkerId,
    failures: u32,
    due: Timestamp,
}

impl Retries {
    fn is_due(&self, id: &SandboxId, now: Timestamp) -> bool {
        let retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retries.get(id).is_none_or(|retry| retry.due <= now)
    }

    /// Whether it is the first failure in a row.
    fn failed(&self, id: &SandboxId, worker: &WorkerId, now: Timestamp) -> bool {
        let mut retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Retry { worker: worker.clone(), failures: 0, due: now };
        let retry = retries.entry(id.clone()).or_insert_with(fresh);
        let pause = LAST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow(retry.failures));
        retry.failures = retry.failures.saturating_add(1);
        retry.due = now.saturating_add(pause);
        retry.worker = worker.clone();
        retry.failures == 1
    }

    /// Forgets all but these of the workers that were looked at.
    fn keep(&self, ids: &BTreeSet<SandboxId>, looked_at: &BTreeSet<WorkerId>) {
        let mut retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retries.retain(|id, retry| ids.contains(id) || !looked_at.contains(&retry.worker));
    }

    /// The workers that something is due at.
    fn due(&self, now: Timestamp) -> BTreeSet<WorkerId> {
        let retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retries.values().filter(|r| r.due <= now).map(|r| r.worker.clone()).collect()
    }

    fn succeeded(&self, id: &SandboxId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The earliest time at which something is due.
    fn next(&self) -> Option<Timestamp> {
        let retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retries.values().map(|retry| retry.due).min()
    }
}

/// What a pass found about the runtimes of its workers.
#[derive(Default)]
struct Inventory {
    runtimes: BTreeMap<(SandboxId, WorkerId), Found>,
    silent: BTreeSet<(WorkerId, Arc<str>)>,
}

/// Where a runtime was found.
#[derive(Clone)]
struct Found {
    worker: WorkerId,
    provider: Arc<str>,
    runtime: Runtime,
}

impl Control {
    /// Brings rows and runtimes together before the server takes requests: adopts what lives,
    /// ends what does not, finishes what was cut short. Fails only when the store does not answer;
    /// a provider that does not answer is left to the later passes.
    pub async fn recover(&self) -> Result<()> {
        self.join().await?;
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        let lost = self.known_workers().into_iter().filter(|id| self.lost_since(id).is_some());
        let own = [self.settings().worker.clone()];
        let workers = own.into_iter().chain(lost).collect();
        for step in self.pass(Pass::Startup, workers).await? {
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

    /// Looks at everything that these workers have and starts the step that each sandbox needs. A
    /// step that takes long holds up no other, and no later pass.
    async fn pass(&self, pass: Pass, workers: BTreeSet<WorkerId>) -> Result<Vec<JoinHandle<()>>> {
        let inventory = self.inventory(&workers).await;
        let rows = self.rows_of(&workers).await?;
        let all: BTreeSet<_> =
            rows.keys().chain(inventory.runtimes.keys()).map(|(id, _)| id.clone()).collect();
        self.0.retries.keep(&all, &workers);
        let both: BTreeSet<_> = rows.keys().chain(inventory.runtimes.keys()).collect();
        let mut steps = Vec::new();
        for key @ (id, worker) in both {
            let row = rows.get(key);
            let found = inventory.runtimes.get(key);
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
            let worker = worker.clone();
            steps.push(self.0.parts.tasks.spawn(async move {
                match control.settle(&id, found, pass).await {
                    Ok(()) => control.0.retries.succeeded(&id),
                    Err(error) => {
                        tracing::warn!(sandbox.id = %id, %error, "a sandbox is not settled yet");
                        if control.0.retries.failed(&id, &worker, control.now())
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

    async fn inventory(&self, workers: &BTreeSet<WorkerId>) -> Inventory {
        let mut inventory = Inventory::default();
        let heard_of = workers.iter().filter(|id| self.lost_since(id).is_none());
        let answers = heard_of.filter_map(|id| {
            let worker = self.0.parts.fleet.worker(id).ok()?;
            Some(async move {
                let (runtimes, silent) = worker.runtimes().await;
                (id, runtimes, silent)
            })
        });
        for (id, runtimes, silent) in join_all(answers).await {
            inventory.silent.extend(silent.into_iter().map(|provider| (id.clone(), provider)));
            for (provider, runtime) in runtimes {
                let key = (runtime.id.clone(), id.clone());
                inventory.runtimes.insert(key, Found { worker: id.clone(), provider, runtime });
            }
        }
        inventory
    }

    async fn rows_of(
        &self,
        workers: &BTreeSet<WorkerId>,
    ) -> Result<BTreeMap<(SandboxId, WorkerId), Sandbox>> {
        let mut rows = BTreeMap::new();
        for worker in workers {
            let mut after = None;
            loop {
                let page = self.store().sandboxes_of(worker, after, PAGE).await;
                let page = page.map_err(Error::from_store)?;
                let Some(last) = page.last() else { break };
                after = Some((last.created_at, last.spec.id.clone()));
                rows.extend(
                    page.into_iter().map(|row| ((row.spec.id.clone(), worker.clone()), row)),
                );
            }
        }
        Ok(rows)
    }

    fn seen(&self, row: Option<&Sandbox>, found: Option<&Found>, inventory: &Inventory) -> Seen {
        if let Some(found) = found {
            return Seen::Present(found.runtime.state);
        }
        let Some(row) = row else { return Seen::Absent };
        if self.lost_since(&row.spec.worker).is_some() {
            return Seen::NoWorker;
        }
        let Ok(worker) = self.0.parts.fleet.worker(&row.spec.worker) else {
            return Seen::Unknown;
        };
        let is_silent = inventory
            .silent
            .iter()
            .any(|(id, provider)| *id == row.spec.worker && **provider == *row.spec.provider);
        if is_silent || worker.capabilities(&row.spec.provider).is_err() {
            return Seen::Unknown;
        }
        Seen::Absent
    }

    /// Looks at one sandbox again, decides on what is there now, and does that one step.
    async fn settle(&self, id: &SandboxId, found: Option<Found>, pass: Pass) -> Result<()> {
        let row = self.store().sandbox(id).await.map_err(Error::from_store)?;
        if let (Some(row), Some(found)) = (&row, &found)
            && row.phase.is_live()
            && row.spec.worker != found.worker
        {
            // It went to another worker; what is left here is nobody's.
            return self.destroy_orphan(Some(row.clone()), found.clone()).await;
        }
        let seen = match (&row, &found) {
            (Some(row), _) if row.phase.is_live() => {
                self.look(&row.spec.worker, &row.spec.provider, id).await
            }
            (_, Some(found)) => self.look(&found.worker, &found.provider, id).await,
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
        match self.surely_lost_since(worker).await {
            Ok(None) => {}
            Ok(Some(_)) => return Seen::NoWorker,
            Err(_) => return Seen::Unknown,
        }
        let Ok(worker) = self.0.parts.fleet.worker(worker) else {
            return Seen::Unknown;
        };
        match worker.status(provider, id).await {
            Ok(runtime) => Seen::Present(runtime.state),
            Err(error) if error.kind == ErrorKind::NoSandbox => Seen::Absent,
            Err(_) => Seen::Unknown,
        }
    }

    async fn act(&self, step: Step, mut row: Sandbox) -> Result<()> {
        let transition = match step {
            Step::Nothing | Step::DestroyOrphan => return Ok(()),
            Step::Finish => return self.destroy_runtime(&row).await.map(|_| ()),
            Step::Conclude => return self.conclude(&row).await,
            Step::Stop(cause) => {
                let action = if cause.kind == CauseKind::Expired {
                    "marked_expired"
                } else {
                    "marked_destroyed"
                };
                let reason = cause.detail.clone();
                let event = action_event(&row, action, reason.clone());
                let stopping = match self.stop(&row, cause, vec![event], Durability::Disk).await {
                    // Its deadline was moved, or it was handed out, since the row was read.
                    Err(Error::WrongState { .. }) => return Ok(()),
                    stopping => stopping?,
                };
                self.audit_reconciled(&row, action, reason).await;
                return self.destroy_runtime(&stopping).await.map(|_| ());
            }
            Step::Adopt => Transition::Started,
            Step::Recover => {
                // Whatever was under way before it was lost is over: it has a new generation.
                let (id, worker) = (&row.spec.id, &row.spec.worker);
                let lease = self.store().acquire_lease(id, worker, Duration::ZERO, self.now());
                row.generation = lease.await.map_err(Error::from_store)?.generation;
                // Its worker has to know before anybody may rely on it: from then on it refuses
                // what was sent before the loss and is still on its way. And it may have missed
                // that the deadline was moved.
                self.tell_deadline(&row, row.spec.expires_at).await?;
                Transition::Recovered
            }
            Step::Lose(why) => Transition::Lost(why),
        };
        let (action, reason) = match &transition {
            Transition::Lost(why) => ("marked_unhealthy", why.clone()),
            Transition::Recovered => ("recovered_runtime", "its worker is back".to_owned()),
            _ => ("adopted_runtime", "its runtime was found alive after a restart".to_owned()),
        };
        let mut news = vec![action_event(&row, action, reason.clone())];
        if transition == Transition::Started {
            news.push(events::about(&row, EventKind::SandboxRunning, []));
        }
        match self.transition(&row, transition, news, Durability::Disk).await {
            // The worker was heard of since this server looked.
            Err(store::Error::LeaseHeld) => return Ok(()),
            done => done.map_err(Error::from_store)?,
        };
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
            Ok(worker) => worker.destroy(&provider, &runtime.id, generation).await,
            Err(error) => Err(error),
        };
        destroyed.map_err(|error| Error::from_provider(error, None))?;
        let reason = match &row {
            Some(row) if row.phase.is_live() => "its sandbox is another worker's",
            Some(_) => "its row had ended",
            None => "no row names it",
        };
        tracing::info!(sandbox.id = %runtime.id, provider = &*provider, reason, "a leftover runtime is destroyed");
        let data = [
            ("action", "destroyed_orphan".to_owned()),
            ("reason", reason.to_owned()),
            ("provider", provider.to_string()),
        ];
        let mut event = events::general(EventKind::ReconcileAction, data);
        let attempt = self.attempt(Act::Change("reconcile.action"), "destroyed_orphan");
        let mut attempt = attempt.on(&runtime.id);
        attempt.provider = Some(provider.to_string());
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
pub(crate) struct Reconciler {
    control: Control,
    /// The worker whose turn was last.
    last: Option<WorkerId>,
}

impl Reconciler {
    pub(crate) const fn new(control: Control) -> Self {
        Self { control, last: None }
    }

    /// This server's own worker, those that something is due at, and the next few of the others.
    fn turn(&mut self) -> BTreeSet<WorkerId> {
        let control = &self.control;
        let known = control.known_workers();
        let next = match &self.last {
            Some(last) => known.partition_point(|id| id <= last),
            None => 0,
        };
        let width = known.len().div_ceil(ROUND).max(AT_ONCE).min(known.len());
        let mut turn: BTreeSet<_> = known.iter().cycle().skip(next).take(width).cloned().collect();
        self.last = known.iter().cycle().skip(next).take(width).last().cloned();
        turn.extend(control.take_returned());
        turn.extend(control.0.retries.due(control.now()));
        turn.insert(control.settings().worker.clone());
        turn
    }
}

#[async_trait]
impl Job for Reconciler {
    const NAME: &'static str = "reconciler";
    const PERIOD: Duration = Duration::from_secs(10);
    const GAP: Duration = Duration::from_secs(1);

    async fn run_once(&mut self) -> Result<Progress> {
        let turn = self.turn();
        let done = self.control.pass(Pass::Running, turn).await?.len() as u64;
        let now = self.control.now();
        let next = self
            .control
            .0
            .retries
            .next()
            .map(|due| due.saturating_since(now).clamp(Self::GAP, Self::PERIOD));
        Ok(Progress { done, next })
    }
}
