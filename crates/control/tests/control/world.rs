//! What outlives a server, and servers over it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use stacyvm_control::{Control, Error, Parts, Settings, SpawnRequest};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::RuntimeState;
use stacyvm_store::{EventFilter, Include, Sandbox, Store, memory::MemoryStore};
use stacyvm_types::{
    CauseKind, EventKind, Phase, Timestamp, WorkerId,
    time::{Clock, ManualClock},
};
use stacyvm_worker::LocalWorker;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    fake::Fake,
    gate::{Gate, GatedProvider, GatedStore},
};

/// The store, the runtimes and the time.
pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    /// What of the store a loss of power leaves.
    disk: Arc<Mutex<MemoryStore>>,
    pub(crate) fake: Arc<Fake>,
    pub(crate) clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
}

/// One life of a server.
pub(crate) struct Server {
    pub(crate) control: Control,
    pub(crate) worker: Arc<LocalWorker>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            store: Arc::default(),
            disk: Arc::default(),
            fake: Arc::default(),
            clock: Arc::new(ManualClock::new(Timestamp::from_micros(1_000_000_000_000_000))),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A server that has not recovered yet and runs no jobs.
    pub(crate) fn server(&self, gate: &Arc<Gate>) -> Server {
        self.server_with(gate, |_| {})
    }

    /// As [`World::server`], with other settings.
    pub(crate) fn server_with(
        &self,
        gate: &Arc<Gate>,
        change: impl FnOnce(&mut Settings),
    ) -> Server {
        self.server_of("local", gate, change)
    }

    /// As [`World::server_with`], with a worker of this name, over the same runtimes.
    pub(crate) fn server_of(
        &self,
        name: &str,
        gate: &Arc<Gate>,
        change: impl FnOnce(&mut Settings),
    ) -> Server {
        self.server_over(self.fake.clone(), name, gate, change)
    }

    /// As [`World::server_of`], on a host of its own.
    pub(crate) fn server_elsewhere(
        &self,
        name: &str,
        gate: &Arc<Gate>,
        change: impl FnOnce(&mut Settings),
    ) -> Server {
        self.server_over(Arc::default(), name, gate, change)
    }

    fn server_over(
        &self,
        fake: Arc<Fake>,
        name: &str,
        gate: &Arc<Gate>,
        change: impl FnOnce(&mut Settings),
    ) -> Server {
        let id = WorkerId::parse(name).unwrap();
        let provider = Arc::new(GatedProvider(fake, gate.clone()));
        let clock: Arc<dyn Clock> = self.clock.clone();
        let dir = self.dir.path();
        let dir = &dir.join(name);
        let worker =
            LocalWorker::new(id.clone(), [provider as _], "fake", dir, clock.clone()).unwrap();
        let worker = Arc::new(worker);
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let mut settings = Settings::new(id, "fake");
        change(&mut settings);
        assert_eq!(settings.problems(), Vec::<String>::new());
        let control = Control::new(Parts {
            store: Arc::new(GatedStore(self.store.clone(), gate.clone(), self.disk.clone())),
            fleet: Fleet::new([worker.clone() as Arc<dyn Worker>]),
            dial: None,
            clock,
            settings,
            tasks: tasks.clone(),
            stopping: stopping.clone(),
        });
        Server { control, worker, tasks, stopping }
    }

    /// A healthy server that has recovered and runs its jobs.
    pub(crate) async fn start(&self) -> Server {
        let server = self.server(&Gate::open());
        server.control.recover().await.unwrap();
        server.control.start_jobs();
        server
    }

    /// The host dies with every runtime, and is back with what its disk had. A server from before
    /// reaches nothing of it any more.
    pub(crate) fn lose_power(&mut self) {
        let disk = self.disk.lock().unwrap().clone();
        self.store = Arc::new(disk.clone());
        self.disk = Arc::new(Mutex::new(disk));
        self.fake = Arc::default();
    }

    /// Moves both clocks, in steps small enough for every job to run.
    pub(crate) async fn pass_time(&self, time: Duration) {
        let step = Duration::from_millis(100);
        let mut left = time;
        while !left.is_zero() {
            let step = step.min(left);
            self.clock.advance(step);
            tokio::time::sleep(step).await;
            left -= step;
        }
    }

    pub(crate) async fn rows(&self) -> Vec<Sandbox> {
        self.store.sandboxes(Include::Ended).await.unwrap()
    }

    pub(crate) async fn kinds(&self) -> Vec<EventKind> {
        let events = self.store.events(0, 10_000, EventFilter::default()).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    pub(crate) async fn assert_no_ended_row_has_a_runtime(&self) {
        let runtimes = self.fake.runtimes.lock().unwrap().clone();
        for row in self.rows().await {
            let has_runtime = runtimes.contains_key(&row.spec.id);
            assert!(row.phase.is_live() || !has_runtime, "ended too early: {row:?}");
        }
    }

    /// Rows and runtimes agree one to one, and what ended says why.
    pub(crate) async fn assert_agrees(&self) {
        let rows = self.rows().await;
        let runtimes = self.fake.runtimes.lock().unwrap().clone();
        for row in &rows {
            let runtime = runtimes.get(&row.spec.id);
            match &row.phase {
                Phase::Running => {
                    let state = runtime.map(|runtime| runtime.state);
                    assert_eq!(state, Some(RuntimeState::Running), "{row:?}");
                }
                Phase::Ended(cause) => {
                    assert!(runtime.is_none(), "leaked: {row:?}");
                    assert!(!cause.detail.is_empty());
                }
                phase => panic!("not settled: {phase:?}"),
            }
        }
        for id in runtimes.keys() {
            assert!(rows.iter().any(|row| row.spec.id == *id), "a runtime without a row: {id}");
        }
    }
}

/// Runs a history in a time that passes only while everything waits.
pub(crate) fn in_paused_time(history: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(history);
}

pub(crate) fn request() -> SpawnRequest {
    SpawnRequest::default()
}

pub(crate) fn image(name: &str) -> SpawnRequest {
    SpawnRequest { image: Some(name.to_owned()), ..SpawnRequest::default() }
}

pub(crate) fn ttl(seconds: u64) -> SpawnRequest {
    SpawnRequest { ttl: Some(Duration::from_secs(seconds)), ..SpawnRequest::default() }
}

/// Why a row ended.
pub(crate) fn end_of(row: &Sandbox) -> CauseKind {
    match &row.phase {
        Phase::Ended(cause) => cause.kind,
        phase => panic!("it has not ended: {phase:?}"),
    }
}

/// The kind of end that an error tells of.
pub(crate) fn ended<T>(result: Result<T, Error>) -> CauseKind {
    match result {
        Err(Error::Ended { cause, .. }) => cause.kind,
        Err(error) => panic!("not an end: {error:?}"),
        Ok(_) => panic!("not an error"),
    }
}
