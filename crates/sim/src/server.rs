//! A server with its own worker: one life after the other over what its host keeps.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use stacyvm_admission::Policy;
use stacyvm_control::{Control, Overflow, Parts, Rules, Settings};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::Provider;
use stacyvm_types::{Resources, WorkerId, time::Clock};
use stacyvm_worker::{Ledgers, LocalWorker};
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ledger::{Page, SimLedger},
    node::{Life, SimClock},
    plant::Plant,
    provider::{self, SimProvider},
    store::SimStore,
    world::{Chance, World},
};

/// How long a supervisor waits before it starts a server again.
const RESTART: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long an orderly stop waits for what is under way.
const STOPPING: Duration = Duration::from_secs(10);
/// How far a clock runs ahead where that is planted.
const AHEAD: i64 = 5_000_000;

/// A host and the server on it.
#[derive(Clone)]
pub(crate) struct Host(Arc<Inner>);

struct Inner {
    world: World,
    id: WorkerId,
    page: Page,
    deadlines: Page,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lives: u64,
    server: Option<Server>,
}

/// One life of a server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) control: Control,
    pub(crate) life: Life,
    tasks: TaskTracker,
    stopping: CancellationToken,
    ready: bool,
}

impl Host {
    pub(crate) fn new(world: &World, id: WorkerId) -> Self {
        let (page, deadlines) = (Page::default(), Page::default());
        Self(Arc::new(Inner { world: world.clone(), id, page, deadlines, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server, when it takes requests.
    pub(crate) fn server(&self) -> Option<Server> {
        self.state().server.clone().filter(|server| server.ready && server.life.is_up())
    }

    /// The life that is lived now, ready or not.
    pub(crate) fn life(&self) -> Option<Life> {
        self.state().server.as_ref().map(|server| server.life.clone())
    }

    /// Keeps a server running for ever, as a supervisor does.
    pub(crate) async fn supervise(self) {
        loop {
            let server = self.begin();
            let started = async {
                while let Err(error) = server.control.recover().await {
                    self.0.world.note(server.life.name(), format_args!("cannot recover: {error}"));
                    sleep(Duration::from_secs(1)).await;
                }
                server.control.start_jobs();
                self.0.world.note(server.life.name(), format_args!("takes requests"));
                if let Some(server) = &mut self.state().server {
                    server.ready = true;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = server.life.death() => {}
                () = started => {}
            }
            let pause = self.0.world.roll(|rng| rng.time(RESTART.0, RESTART.1));
            sleep(pause).await;
        }
    }

    /// Stops a server in order; its supervisor starts it again.
    pub(crate) async fn restart(&self) {
        let Some(server) = self.server() else { return };
        self.0.world.note(server.life.name(), format_args!("stops in order"));
        if let Some(server) = &mut self.state().server {
            server.ready = false;
        }
        server.stopping.cancel();
        server.tasks.close();
        let done = timeout(STOPPING, server.tasks.wait()).await;
        server.life.kill(if done.is_ok() { "in order" } else { "while it stopped" });
    }

    fn begin(&self) -> Server {
        let world = &self.0.world;
        let mut state = self.state();
        state.lives += 1;
        let life = Life::new(world, format!("{}/{}", self.0.id, state.lives));
        world.note(life.name(), format_args!("begins"));
        let ahead = if world.has(Plant::ExpiryByLocalClock) { AHEAD } else { 0 };
        let clock: Arc<dyn Clock> = Arc::new(SimClock { world: world.clone(), ahead, drift: 0 });
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let provider =
            SimProvider { world: world.clone(), life: life.clone(), host: self.0.id.clone() };
        let ledger = |page: &Page| {
            let (world, life, page) = (world.clone(), life.clone(), page.clone());
            Box::new(SimLedger { world, life, page })
        };
        let ledgers =
            Ledgers { generations: ledger(&self.0.page), deadlines: ledger(&self.0.deadlines) };
        let providers = [Arc::new(provider) as Arc<dyn Provider>];
        let worker = LocalWorker::with_ledgers(
            self.0.id.clone(),
            providers,
            provider::NAME,
            ledgers,
            clock.clone(),
        );
        let worker = worker.expect("a ledger in memory opens while its node lives");
        let parts = Parts {
            store: Arc::new(SimStore { world: world.clone(), life: life.clone() }),
            fleet: Fleet::new([Arc::new(worker) as Arc<dyn Worker>]),
            dial: None,
            clock,
            settings: self.settings(),
            tasks: tasks.clone(),
            stopping: stopping.clone(),
        };
        let chance = Chance::new(world.roll(|rng| rng.fork()));
        let control = Control::with_entropy(parts, Arc::new(chance));
        let server = Server { control, life, tasks, stopping, ready: false };
        state.server = Some(server.clone());
        server
    }

    fn settings(&self) -> Settings {
        let limits = &self.0.world.profile().limits;
        let mut settings = Settings::new(self.0.id.clone(), provider::NAME);
        settings.rules = Rules {
            policy: Policy {
                max_sandboxes: limits.total,
                max_per_owner: limits.per_owner,
                ..settings.rules.policy
            },
            capacity: Resources { sandboxes: limits.per_worker, ..Resources::default() },
            overflow: match limits.queue {
                Some((places, patience)) => Overflow::Queue {
                    places: usize::try_from(places).unwrap_or(usize::MAX),
                    patience,
                },
                None => Overflow::Reject,
            },
            ..settings.rules
        };
        settings
    }
}
