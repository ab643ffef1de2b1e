//! How fast admissions are decided, that more rows and owners do not slow them, and how fair the
//! queue is. In this process, over SQLite and the mock provider: nothing but the control plane is
//! measured.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use stacyvm_admission::Policy;
use stacyvm_control::{Control, Overflow, Parts, Rules, Settings, SpawnRequest};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::{Provider, mock::MockProvider};
use stacyvm_store::{Durability, NewSandbox, Store, WorkerStore as _};
use stacyvm_store_sql::SqliteStore;
use stacyvm_types::{
    Beat, Limits, OwnerId, Resources, SandboxId, Timestamp, WorkerId, time::SystemClock,
};
use stacyvm_worker::LocalWorker;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::stats::{Samples, show};

/// Clients of the rate.
pub(crate) const CLIENTS: usize = 16;
/// Rows and owners that are there already in the second half of the comparison.
const ROWS: u32 = 100_000;
const OWNERS: u32 = 10_000;
/// Turns in which the two stores are measured.
const TURNS: u32 = 5;
/// Places of the fairness runs, and how long one is held.
const PLACES: u64 = 10;
const HELD: Duration = Duration::from_millis(5);

pub(crate) struct Plane {
    pub(crate) control: Control,
    pub(crate) stopping: CancellationToken,
}

fn plane(dir: &Path, rules: Rules) -> Result<Plane> {
    std::fs::create_dir_all(dir)?;
    plane_over(SqliteStore::open(dir.join("stacyvm.db"))?, dir, rules)
}

/// A control plane over a store, with the mock provider in a directory.
pub(crate) fn plane_over(store: impl Store, dir: &Path, rules: Rules) -> Result<Plane> {
    std::fs::create_dir_all(dir)?;
    let mock: Arc<dyn Provider> = Arc::new(MockProvider::open(&dir.join("mock"))?);
    let id = WorkerId::parse("local")?;
    let clock = Arc::new(SystemClock);
    let worker = LocalWorker::new(id.clone(), [mock], "mock", &dir.join("worker"), clock.clone())?;
    let stopping = CancellationToken::new();
    let control = Control::new(Parts {
        store: Arc::new(store),
        fleet: Fleet::new([Arc::new(worker) as Arc<dyn Worker>]),
        dial: None,
        clock,
        settings: Settings { rules, ..Settings::new(id, "mock") },
        tasks: TaskTracker::new(),
        stopping: stopping.clone(),
    });
    Ok(Plane { control, stopping })
}

fn owner(number: u32) -> Result<OwnerId> {
    Ok(OwnerId::parse(&format!("owner-{number}"))?)
}

/// Rows that hold places and have no runtime.
async fn fill(store: &SqliteStore) -> Result<()> {
    let now = Timestamp::from_micros(1);
    let local = Beat {
        id: WorkerId::parse("local")?,
        instance: "filling".to_owned(),
        hostname: String::new(),
        version: String::new(),
        url: None,
        draining: false,
        offers: Vec::new(),
        capacity: Resources::default(),
    };
    store.beat(local, None, now).await?;
    for number in 0..ROWS {
        // Ids of real sandboxes are random: a multiplication spreads these as far.
        let mut entropy = [0xff; 10];
        entropy[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
        let new = NewSandbox {
            id: SandboxId::from_entropy(entropy),
            owner: Some(owner(number % OWNERS)?),
            provider: "mock".to_owned(),
            worker: WorkerId::parse("local")?,
            image: "host".to_owned(),
            template: None,
            limits: Limits::DEFAULT,
            metadata: [].into(),
            env: [].into(),
            expires_at: Timestamp::from_micros(i64::MAX),
        };
        let admit = store.admit(&Policy::default(), new, Durability::Kernel, now).await;
        admit.context("a row of the filling")?;
    }
    Ok(())
}

/// Spawns of all turns, and how long they took.
#[derive(Default)]
pub(crate) struct Rate {
    spawns: Samples,
    took: Duration,
}

impl Rate {
    pub(crate) fn add(&mut self, (took, spawns): (Duration, Samples)) {
        self.took += took;
        self.spawns.extend(spawns);
    }

    fn per_second(&self) -> f64 {
        self.spawns.count() as f64 / self.took.as_secs_f64()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (show(self.spawns.p50()), show(self.spawns.p99()));
        write!(f, "{:.0} spawns a second, p50 {p50}, p99 {p99}", self.per_second())
    }
}

/// Spawns of 16 clients for that time, each answered when its row is on the disk and its runtime
/// runs.
pub(crate) async fn rate(control: &Control, seconds: f64) -> Result<(Duration, Samples)> {
    let begun = Instant::now();
    let mut set = JoinSet::new();
    for client in 0..CLIENTS {
        let control = control.clone();
        set.spawn(async move {
            let mut samples = Samples::default();
            for number in 0_u32.. {
                if seconds <= begun.elapsed().as_secs_f64() {
                    break;
                }
                let client = u32::try_from(client)?;
                let owner = Some(owner((number * 16 + client) % OWNERS)?);
                let before = Instant::now();
                control.spawn(SpawnRequest { owner, ..SpawnRequest::default() }).await?;
                samples.push(before.elapsed());
            }
            anyhow::Ok(samples)
        });
    }
    let mut all = Samples::default();
    while let Some(samples) = set.join_next().await {
        all.extend(samples??);
    }
    Ok((begun.elapsed(), all))
}

/// Ten owners, each with that many clients that spawn, hold and destroy in a loop. The waits of each,
/// from the request to the answer.
async fn share(dir: &Path, clients: [usize; 10], seconds: f64) -> Result<Vec<Samples>> {
    let overflow = Overflow::Queue { places: 10_000, patience: Duration::from_secs(60) };
    let policy = Policy { max_sandboxes: PLACES, ..Policy::default() };
    let plane = plane(dir, Rules { policy, overflow, ..Rules::default() })?;
    plane.control.start_jobs();
    let begun = Instant::now();
    let mut sets: Vec<JoinSet<Result<Samples>>> = Vec::new();
    for (number, clients) in (0..).zip(clients) {
        let mut set = JoinSet::new();
        for _ in 0..clients {
            let control = plane.control.clone();
            set.spawn(async move {
                let mut samples = Samples::default();
                while begun.elapsed().as_secs_f64() < seconds {
                    let owner = Some(owner(number)?);
                    let before = Instant::now();
                    let request = SpawnRequest { owner, ..SpawnRequest::default() };
                    let row = control.spawn(request).await?;
                    // What is admitted while nobody new asks is no share of anything.
                    if begun.elapsed().as_secs_f64() < seconds {
                        samples.push(before.elapsed());
                    }
                    tokio::time::sleep(HELD).await;
                    control.destroy(&row.spec.id).await?;
                }
                Ok(samples)
            });
        }
        sets.push(set);
    }
    let mut seen = Vec::new();
    for mut set in sets {
        let mut waits = Samples::default();
        while let Some(samples) = set.join_next().await {
            waits.extend(samples??);
        }
        seen.push(waits);
    }
    plane.stopping.cancel();
    Ok(seen)
}

/// Jain's index: 1 when all have the same, 1/n when one has everything.
fn jain(counts: &[f64]) -> f64 {
    let sum: f64 = counts.iter().sum();
    let squares: f64 = counts.iter().map(|count| count * count).sum();
    sum * sum / (counts.len() as f64 * squares)
}

/// Measures and prints.
#[expect(clippy::print_stdout, reason = "the figures are the output")]
pub(crate) fn run(seconds: f64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dir = tempfile::tempdir()?;
    runtime.block_on(async {
        let policy =
            Policy { max_sandboxes: 10_000_000, max_per_owner: 100_000, ..Policy::default() };
        let rules = Rules { policy, ..Rules::default() };
        // Opened anew, the file is at rest: the log of the filling is not measured.
        let path = dir.path().join("full");
        std::fs::create_dir_all(&path)?;
        fill(&SqliteStore::open(path.join("stacyvm.db"))?).await?;
        let empty = plane(&dir.path().join("empty"), rules.clone())?;
        let full = plane(&path, rules)?;
        // In turn, so that what the disk does meanwhile happens to both.
        let (mut few, mut many) = (Rate::default(), Rate::default());
        for _ in 0..TURNS {
            few.add(rate(&empty.control, seconds / f64::from(TURNS)).await?);
            many.add(rate(&full.control, seconds / f64::from(TURNS)).await?);
        }
        println!("{CLIENTS} clients, an empty store: {few}");
        println!(
            "{CLIENTS} clients, {ROWS} live rows of {OWNERS} owners: {many}: {:.2} x as long",
            few.per_second() / many.per_second()
        );
        for plane in [empty, full] {
            plane.stopping.cancel();
        }

        let calm = share(&dir.path().join("calm"), [4; 10], seconds).await?;
        let burst = [400, 4, 4, 4, 4, 4, 4, 4, 4, 4];
        let burst = share(&dir.path().join("burst"), burst, seconds).await?;
        let of_others = |seen: Vec<Samples>| {
            let mut waits = Samples::default();
            seen.into_iter().skip(1).for_each(|seen| waits.extend(seen));
            waits
        };
        let counts: Vec<_> = burst.iter().map(|seen| seen.count() as f64).collect();
        let (alone, beside) = (of_others(calm), of_others(burst));
        println!(
            "ten owners share {PLACES} places: the others wait p50 {}, p99 {}; beside one with 100 \
             x the load p50 {} ({:.2} x), p99 {} ({:.2} x)",
            show(alone.p50()),
            show(alone.p99()),
            show(beside.p50()),
            beside.p50() / alone.p50(),
            show(beside.p99()),
            beside.p99() / alone.p99()
        );
        println!("admitted of each owner: {counts:?}; Jain index {:.4}", jain(&counts));
        ensure!(counts.iter().all(|count| 0.0 < *count), "an owner got nothing");
        Ok(())
    })
}
