//! Hosts and what runs on them: a server with its own worker, or a worker alone; one life after the
//! other over what the host keeps.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_admission::Policy;
use stacyvm_control::{Control, Membership, Overflow, Parts, Rules, Settings};
use stacyvm_fleet::{Fleet, Worker, remote::NotHeard, wire::HeartbeatReply};
use stacyvm_provider::Provider;
use stacyvm_types::{Beat, Resources, WorkerId, time::Clock};
use stacyvm_worker::{
    Ledgers, LocalWorker,
    heartbeat::{ControlLink, Facts, Heart},
};
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ledger::{Page, SimLedger},
    link::{Hosts, SimDial},
    node::{Life, SimClock},
    plant::Plant,
    provider::{self, SimProvider},
    store::SimStore,
    world::{Chance, World},
};

/// How long a supervisor waits before it starts a node again.
const RESTART: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long an orderly stop waits for what is under way.
const STOPPING: Duration = Duration::from_secs(10);
/// How far a clock runs ahead where that is planted.
const AHEAD: i64 = 5_000_000;
/// How long a heartbeat may take.
const BEAT: Duration = Duration::from_secs(5);

/// A host and the node on it.
#[derive(Clone)]
pub(crate) struct Host(Arc<Inner>);

struct Inner {
    world: World,
    id: WorkerId,
    kind: Kind,
    hosts: Hosts,
    generations: Page,
    deadlines: Page,
    clock: (i64, i64),
    state: Mutex<State>,
}

/// What runs on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A server that has its store for itself.
    Alone,
    /// One of several servers.
    Server,
    /// A worker without a server.
    Worker,
}

#[derive(Default)]
struct State {
    lives: u64,
    daemon: Option<Daemon>,
}

/// One life of a node.
#[derive(Clone)]
pub(crate) struct Daemon {
    pub(crate) life: Life,
    pub(crate) worker: Arc<LocalWorker>,
    pub(crate) tasks: TaskTracker,
    control: Option<Control>,
    stopping: CancellationToken,
    ready: bool,
}

/// A server that takes requests.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) control: Control,
    pub(crate) life: Life,
}

/// The way from a worker to one server or another, as through a proxy in front of all.
struct HeartLink {
    host: Host,
    life: Life,
}

#[async_trait]
impl ControlLink for HeartLink {
    async fn beat(&self, beat: Beat) -> Result<HeartbeatReply, NotHeard> {
        let Inner { world, id, hosts, .. } = &*self.host.0;
        self.life.step().await;
        let reachable = |host: &&Host| !world.is_cut(id.as_str(), host.id().as_str());
        let servers: Vec<_> =
            hosts.get().into_iter().flatten().filter(reachable).filter_map(Host::server).collect();
        let away = |why: &str| NotHeard::Away(why.to_owned());
        let server = world.roll(|rng| rng.pick(&servers).cloned());
        let server = server.ok_or_else(|| away("no server is reached"))?;
        world.delay(world.profile().net.latency).await;
        let heard = timeout(BEAT, server.control.heard_of(beat)).await;
        self.life.step().await;
        match heard {
            Ok(Ok(row)) => Ok(HeartbeatReply { drain: row.cordoned, lease_expires_in: None }),
            Ok(Err(stacyvm_control::Error::Conflict(why))) => Err(NotHeard::Refused(why)),
            Ok(Err(error)) => Err(away(&error.to_string())),
            Err(_) => Err(away("it took too long")),
        }
    }
}

impl Host {
    pub(crate) fn new(world: &World, id: WorkerId, kind: Kind, hosts: Hosts) -> Self {
        let skew = world.profile().skew;
        let wrong = |most: i64| {
            let most = u64::try_from(most).unwrap_or(0);
            let wrong = world.roll(|rng| rng.below(2 * most + 1));
            i64::try_from(wrong).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
        };
        let clock = (wrong(skew.ahead), wrong(skew.drift));
        Self(Arc::new(Inner {
            world: world.clone(),
            id,
            kind,
            hosts,
            generations: Page::default(),
            deadlines: Page::default(),
            clock,
            state: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> &WorkerId {
        &self.0.id
    }

    /// The server, when it takes requests.
    pub(crate) fn server(&self) -> Option<Server> {
        let daemon = self.state().daemon.clone()?;
        let Daemon { life, control, ready, .. } = daemon;
        let control = control.filter(|_| ready && life.is_up())?;
        Some(Server { control, life })
    }

    /// What takes calls to the worker here, if anything does.
    pub(crate) fn daemon(&self) -> Option<Daemon> {
        self.state().daemon.clone().filter(|daemon| !daemon.life.is_dead())
    }

    /// The life that is lived now, ready or not.
    pub(crate) fn life(&self) -> Option<Life> {
        self.state().daemon.as_ref().map(|daemon| daemon.life.clone())
    }

    /// Keeps a node running for ever, as a supervisor does.
    pub(crate) async fn supervise(self) {
        loop {
            let daemon = self.begin();
            let (worker, stopping) = (daemon.worker.clone(), daemon.stopping.clone());
            daemon.tasks.spawn(async move { worker.keep_time(stopping).await });
            tokio::select! {
                biased;
                () = daemon.life.death() => {}
                () = self.run(&daemon) => {}
            }
            let pause = self.0.world.roll(|rng| rng.time(RESTART.0, RESTART.1));
            sleep(pause).await;
        }
    }

    async fn run(&self, daemon: &Daemon) {
        let Some(control) = &daemon.control else {
            let interval = Membership::default().heartbeat;
            self.heart(daemon).beat_until(daemon.stopping.clone(), interval).await;
            return std::future::pending().await;
        };
        while let Err(error) = control.recover().await {
            self.0.world.note(daemon.life.name(), format_args!("cannot recover: {error}"));
            sleep(Duration::from_secs(1)).await;
        }
        control.start_jobs();
        self.0.world.note(daemon.life.name(), format_args!("takes requests"));
        if let Some(daemon) = &mut self.state().daemon {
            daemon.ready = true;
        }
        std::future::pending().await
    }

    fn heart(&self, daemon: &Daemon) -> Heart {
        let name = self.0.id.to_string();
        let facts = Facts {
            instance: format!("disk of {name}"),
            hostname: name.clone(),
            version: "1".to_owned(),
            url: Some(name),
            capacity: self.capacity(),
        };
        let link = HeartLink { host: self.clone(), life: daemon.life.clone() };
        Heart::new(daemon.worker.clone(), facts, Arc::new(link))
    }

    fn capacity(&self) -> Resources {
        let sandboxes = self.0.world.profile().limits.per_worker;
        Resources { sandboxes, ..Resources::default() }
    }

    /// Stops a node in order; its supervisor starts it again.
    pub(crate) async fn restart(&self) {
        let Some(daemon) = self.daemon().filter(|daemon| daemon.life.is_up()) else { return };
        self.0.world.note(daemon.life.name(), format_args!("stops in order"));
        if let Some(daemon) = &mut self.state().daemon {
            daemon.ready = false;
        }
        daemon.stopping.cancel();
        daemon.tasks.close();
        let done = timeout(STOPPING, daemon.tasks.wait()).await;
        daemon.life.kill(if done.is_ok() { "in order" } else { "while it stopped" });
    }

    fn begin(&self) -> Daemon {
        let world = &self.0.world;
        let life = {
            let mut state = self.state();
            state.lives += 1;
            Life::new(world, format!("{}/{}", self.0.id, state.lives))
        };
        world.note(life.name(), format_args!("begins"));
        let (ahead, drift) = self.0.clock;
        let planted = if world.has(Plant::ExpiryByLocalClock) { AHEAD } else { 0 };
        let clock = SimClock { world: world.clone(), ahead: ahead + planted, drift };
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let worker = Arc::new(self.worker(&life, clock.clone()));
        let control = (self.0.kind != Kind::Worker).then(|| {
            let dial = SimDial {
                world: world.clone(),
                caller: life.clone(),
                from: self.0.id.clone(),
                hosts: self.0.hosts.clone(),
            };
            let shared = self.0.kind == Kind::Server;
            let parts = Parts {
                store: Arc::new(SimStore {
                    world: world.clone(),
                    life: life.clone(),
                    of: self.0.id.clone(),
                    shared,
                }),
                fleet: Fleet::new([Arc::clone(&worker) as Arc<dyn Worker>]),
                dial: Some(Arc::new(dial)),
                clock,
                settings: self.settings(),
                tasks: tasks.clone(),
                stopping: stopping.clone(),
            };
            let chance = Chance::new(world.roll(|rng| rng.fork()));
            Control::with_entropy(parts, Arc::new(chance))
        });
        let daemon = Daemon { life, worker, tasks, control, stopping, ready: false };
        self.state().daemon = Some(daemon.clone());
        daemon
    }

    fn worker(&self, life: &Life, clock: Arc<dyn Clock>) -> LocalWorker {
        let Inner { world, id, generations, deadlines, .. } = &*self.0;
        let provider = SimProvider { world: world.clone(), life: life.clone(), host: id.clone() };
        let ledger = |page: &Page, is_fencing| {
            let (world, life, page) = (world.clone(), life.clone(), page.clone());
            Box::new(SimLedger { world, life, page, is_fencing })
        };
        let ledgers =
            Ledgers { generations: ledger(generations, true), deadlines: ledger(deadlines, false) };
        let providers = [Arc::new(provider) as Arc<dyn Provider>];
        LocalWorker::with_ledgers(id.clone(), providers, provider::NAME, ledgers, clock)
            .expect("ledgers in memory open while their node lives")
    }

    fn settings(&self) -> Settings {
        let limits = &self.0.world.profile().limits;
        let mut settings = Settings::new(self.0.id.clone(), provider::NAME);
        if self.0.kind == Kind::Server {
            let name = self.0.id.to_string();
            settings.membership = Membership {
                instance: format!("disk of {name}"),
                hostname: name.clone(),
                url: Some(name),
                term: Some(settings.membership.lease_term),
                ..settings.membership
            };
        }
        settings.rules = Rules {
            policy: Policy {
                max_sandboxes: limits.total,
                max_per_owner: limits.per_owner,
                ..settings.rules.policy
            },
            capacity: self.capacity(),
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
