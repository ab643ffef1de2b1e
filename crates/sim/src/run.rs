//! One run: a seed from its beginning to its verdict.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use stacyvm_types::{OwnerId, WorkerId};
use tokio::{runtime::Builder, time::sleep};
use tokio_util::task::TaskTracker;

use crate::{
    chaos,
    clients::Client,
    invariants,
    link::Hosts,
    plant::Plant,
    profile::Profile,
    rng::Rng,
    server::{Host, Kind},
    varied,
    world::{Violation, World},
};

/// How long everything has to settle when faults have ended: above every retry, deadline and patience
/// that there is, one after the other.
const SETTLE: Duration = Duration::from_secs(300);
/// How long a free place may wait for whoever waits for it: some calls to the store.
const AT_ONCE: Duration = Duration::from_millis(400);
/// How long the last ends may take.
const LAST_ENDS: Duration = Duration::from_secs(60);

/// A run to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What decides everything.
    pub seed: u64,
    /// The bug to plant.
    pub plant: Option<Plant>,
    /// Whether calls come twice and nodes crash more often than a seed says.
    pub troubled: bool,
    /// Whether to print each line of the trace as it happens.
    pub print: bool,
}

/// What a run found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The bug that was planted in it.
    pub plant: Option<Plant>,
    /// Whether it had more trouble than its seed says.
    pub troubled: bool,
    /// The first promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// The whole trace as a number: equal for equal seeds.
    pub hash: u64,
    /// The lines of the trace.
    pub lines: u64,
    /// The last lines of the trace.
    pub tail: Vec<String>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Plan {
    /// An ordinary run of a seed.
    pub const fn of(seed: u64) -> Self {
        Self { seed, plant: None, troubled: false, print: false }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Violation { invariant, detail }) = &self.violation else {
            return write!(f, "seed {}: {} lines, {:016x}", self.seed, self.lines, self.hash);
        };
        writeln!(f, "seed {} breaks {invariant}: {detail}", self.seed)?;
        for line in &self.tail {
            writeln!(f, "  {line}")?;
        }
        write!(f, "again: cargo run --release -p stacyvm-sim -- --seed {} --trace", self.seed)?;
        if let Some(plant) = self.plant {
            write!(f, " --plant {plant}")?;
        }
        if self.troubled {
            f.write_str(" --troubled")?;
        }
        Ok(())
    }
}

/// Makes a run, on this thread and in simulated time.
///
/// # Panics
/// When the runtime cannot be made.
pub fn run(plan: Plan) -> Report {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing that could be missing");
    let world = runtime.block_on(simulate(plan));
    // Before it is read: tasks that are dropped must not have anything left to say.
    drop(runtime);
    let found = world.finding();
    Report {
        seed: plan.seed,
        plant: plan.plant,
        troubled: plan.troubled,
        violation: found.violation,
        hash: found.hash,
        lines: found.lines,
        tail: found.tail,
        counts: found.counts,
    }
}

async fn simulate(plan: Plan) -> World {
    let mut rng = Rng::new(plan.seed);
    let profile = Profile::draw(plan.seed, &mut rng, plan.plant, plan.troubled);
    let world = World::new(rng, profile, plan.plant, plan.print);
    world.note("world", format_args!("{:?}", world.profile()));
    tokio::select! {
        biased;
        () = world.violated() => {}
        () = story(&world) => {}
    }
    world
}

async fn story(world: &World) {
    let tasks = TaskTracker::new();
    let all = Hosts::default();
    let host = |name: &str, kind| {
        let id = WorkerId::parse(name).expect("it is a worker's id");
        Host::new(world, id, kind, all.clone())
    };
    let Profile { servers, workers, .. } = world.profile();
    let hosts: Vec<_> = match servers {
        0 => vec![host("alone", Kind::Alone)],
        _ => {
            let servers = ["one", "two", "three"].into_iter().take(*servers);
            let workers = ["four", "five"].into_iter().take(*workers);
            let servers = servers.map(|name| host(name, Kind::Server));
            servers.chain(workers.map(|name| host(name, Kind::Worker))).collect()
        }
    };
    all.get_or_init(|| hosts.clone());
    for host in &hosts {
        tasks.spawn(host.clone().supervise());
    }
    if world.profile().is_calm() && world.profile().servers == 0 {
        tasks.spawn(watch_queues(world.clone(), hosts.clone()));
    }
    let trouble = tasks.spawn(chaos::make_trouble(world.clone(), hosts.clone()));
    let (known, keyed) = (Arc::new(Mutex::default()), Arc::new(Mutex::default()));
    if world.profile().varied {
        varied::make_templates(world);
    }
    let client = |n: u64| Client {
        world: world.clone(),
        name: format!("client {n}"),
        hosts: hosts.clone(),
        owner: ["ann", "bob"]
            .get(usize::try_from(n % 3).unwrap_or(0))
            .map(|name| OwnerId::parse(name).expect("it is an owner's id")),
        known: Arc::clone(&known),
        keyed: Arc::clone(&keyed),
    };
    let clients: Vec<_> =
        (0..world.profile().clients).map(|n| tasks.spawn(client(n).work())).collect();
    sleep(world.profile().busy).await;
    world.end_faults();
    for task in clients.into_iter().chain([trouble]) {
        if let Err(error) = task.await {
            world.violate("nothing_panics", error.to_string());
        }
    }
    varied::undrain_all(world, &hosts);
    sleep(SETTLE).await;
    // A sandbox whose time is over at this very moment is being ended, as it should be: what is
    // judged is a moment at which nothing is due.
    while invariants::an_end_is_due(world) {
        sleep(invariants::TO_END).await;
    }
    invariants::at_rest(world);
    end_all(world, &client(0)).await;
    sleep(LAST_ENDS).await;
    invariants::at_the_end(world);
}

/// In a calm run a place that becomes free is given to whoever waits for one at once, and not when
/// somebody looks.
async fn watch_queues(world: World, hosts: Vec<Host>) {
    let mut since = world.elapsed();
    while world.faults() {
        sleep(Duration::from_millis(50)).await;
        let mut servers = hosts.iter().filter_map(Host::server);
        let idle = servers.any(|s| invariants::waits_for_nothing(&world, s.control.queue_counts()));
        if !idle {
            since = world.elapsed();
        } else if AT_ONCE < world.elapsed().saturating_sub(since) {
            let detail = "somebody waits for a place, and there is one".to_owned();
            world.violate("a_free_place_is_given_at_once", detail);
        }
    }
}

async fn end_all(world: &World, client: &Client) {
    let Some(server) = client.hosts.iter().find_map(Host::server) else {
        world.violate("servers_come_back", "no server takes requests at the end".to_owned());
        return;
    };
    for id in invariants::live(world) {
        if !client.end(&server, &id).await {
            world.violate("an_end_succeeds_at_rest", format!("{id} could not be ended"));
        }
    }
}
