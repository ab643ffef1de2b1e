//! What being watched costs: a recorded operation, a count of what lives, a scrape, and what a
//! request notices of one.

use std::{
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use axum::{Router, body::Body};
use http::Request;
use http_body_util::BodyExt as _;
use stacyvm_api::{ApiConfig, router};
use stacyvm_control::{Control, Parts, Rules, Settings};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::{Provider, mock::MockProvider};
use stacyvm_store::{Durability, NewSandbox, Store};
use stacyvm_store_sql::SqliteStore;
use stacyvm_types::{
    Limits, Operation, SandboxId, Timestamp, Transition, WorkerId, time::SystemClock,
};
use stacyvm_worker::LocalWorker;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::stats::{Samples, show};

const RECORDS: u32 = 2_000_000;
const LIVE: [u32; 2] = [10_000, 100_000];
const SCRAPES: usize = 40;
/// Longer than a count stays good, so that each scrape wants another.
const BETWEEN: Duration = Duration::from_millis(5_100);
const ASKS: usize = 400;

/// Prints the table.
pub(crate) fn run() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(table())
}

#[expect(clippy::print_stdout, reason = "the table is the output")]
async fn table() -> Result<()> {
    println!("| figure | p50 | p99 |");
    println!("|---|---|---|");
    let row = |figure: &str, samples: &Samples| {
        println!("| {figure} | {} | {} |", show(samples.p50()), show(samples.p99()));
    };
    let dir = tempfile::tempdir()?;
    let empty = World::new(&dir.path().join("empty"))?;
    for threads in [1, 2] {
        let each = empty.record(threads);
        println!(
            "| a recorded operation, {threads} threads | {:.0} ns | |",
            each.as_secs_f64() * 1e9
        );
    }
    for live in LIVE {
        let world = World::new(&dir.path().join(live.to_string()))?;
        let idle = world.asks(false).await?;
        world.fill(live).await?;
        row(&format!("{live} live: a count of all"), &world.censuses().await?);
        row(&format!("{live} live: a scrape that finds a count"), &world.scrapes(None).await?);
        if live == LIVE[0] {
            let scrapes = world.scrapes(Some(BETWEEN)).await?;
            row(&format!("{live} live: a scrape that wants another count"), &scrapes);
        }
        row("a request, nobody scrapes", &idle);
        let watched = world.asks(true).await?;
        row(&format!("{live} live: a request, scrapes and counts without pause"), &watched);
    }
    Ok(())
}

struct World {
    control: Control,
    store: Arc<SqliteStore>,
    router: Router,
}

impl World {
    fn new(dir: &Path) -> Result<Self> {
        let clock = Arc::new(SystemClock);
        let mock: Arc<dyn Provider> = Arc::new(MockProvider::open(&dir.join("mock"))?);
        let id = WorkerId::parse("local")?;
        let worker =
            LocalWorker::new(id.clone(), [mock], "mock", &dir.join("worker"), clock.clone())?;
        let store = Arc::new(SqliteStore::open(dir.join("stacyvm.db"))?);
        let control = Control::new(Parts {
            store: store.clone(),
            fleet: Fleet::new([Arc::new(worker) as Arc<dyn Worker>]),
            dial: None,
            clock,
            settings: Settings::new(id, "mock"),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        let router = router(control.clone(), ApiConfig::default());
        Ok(Self { control, store, router })
    }

    /// How long one record takes while that many threads make them.
    fn record(&self, threads: u32) -> Duration {
        let operations = self.control.operations();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for n in 0..RECORDS {
                        let took = Duration::from_nanos(u64::from(n));
                        operations.record(Operation::Spawn, black_box("mock"), took, None);
                    }
                });
            }
        });
        begun.elapsed() / RECORDS
    }

    /// Rows of sandboxes that run; their runtimes are left out.
    async fn fill(&self, live: u32) -> Result<()> {
        let mut admits = JoinSet::new();
        for number in 0..live {
            let store = self.store.clone();
            admits.spawn(async move {
                let (id, now) = (sandbox(number), Timestamp::from_micros(i64::from(number)));
                let until = Timestamp::from_micros(i64::MAX);
                let new = NewSandbox {
                    id: id.clone(),
                    owner: None,
                    provider: ["mock", "native"][usize::from(number.is_multiple_of(2))].to_owned(),
                    worker: WorkerId::parse("local")?,
                    image: "host".to_owned(),
                    template: None,
                    limits: Limits::DEFAULT,
                    metadata: [("purpose".to_owned(), "bench".to_owned())].into(),
                    env: [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())].into(),
                    expires_at: until,
                };
                let policy = Rules::default().policy;
                let row = store.admit(&policy, new, Durability::Kernel, now).await?;
                let (generation, started) = (row.generation, Transition::Started);
                let kernel = Durability::Kernel;
                store.transition(&id, generation, started, Vec::new(), kernel, now).await?;
                anyhow::Ok(())
            });
            if 64 <= admits.len()
                && let Some(admit) = admits.join_next().await
            {
                admit??;
            }
        }
        while let Some(admit) = admits.join_next().await {
            admit??;
        }
        Ok(())
    }

    async fn censuses(&self) -> Result<Samples> {
        use stacyvm_store::ObserveStore as _;
        let mut samples = Samples::default();
        for _ in 0..SCRAPES {
            let begun = Instant::now();
            black_box(self.store.census(Timestamp::from_micros(0)).await?);
            samples.push(begun.elapsed());
        }
        Ok(samples)
    }

    async fn get(&self, path: &str) -> Result<Duration> {
        let request = Request::get(path).header("host", "localhost").body(Body::empty())?;
        let begun = Instant::now();
        let reply = self.router.clone().oneshot(request).await?;
        ensure!(reply.status().is_success(), "{path}: {}", reply.status());
        black_box(reply.into_body().collect().await?);
        Ok(begun.elapsed())
    }

    async fn scrapes(&self, pause: Option<Duration>) -> Result<Samples> {
        let mut samples = Samples::default();
        let (rounds, pause) = pause.map_or((SCRAPES, Duration::ZERO), |pause| (SCRAPES / 8, pause));
        for _ in 0..rounds {
            sleep(pause).await;
            samples.push(self.get("/api/v1/metrics/prometheus").await?);
        }
        Ok(samples)
    }

    /// Requests that read the store, while others watch without a pause or not.
    async fn asks(&self, watched: bool) -> Result<Samples> {
        use stacyvm_store::ObserveStore as _;
        let mut watchers = JoinSet::new();
        if watched {
            let (store, router) = (self.store.clone(), self.router.clone());
            watchers.spawn(async move {
                loop {
                    drop(store.census(Timestamp::from_micros(0)).await);
                    let request = Request::get("/api/v1/metrics/prometheus")
                        .header("host", "localhost")
                        .body(Body::empty());
                    if let Ok(request) = request {
                        drop(router.clone().oneshot(request).await);
                    }
                }
            });
        }
        let mut samples = Samples::default();
        for _ in 0..ASKS {
            sleep(Duration::from_millis(2)).await;
            samples.push(self.get("/api/v1/templates").await?);
        }
        Ok(samples)
    }
}

fn sandbox(number: u32) -> SandboxId {
    let mut entropy = [7; 10];
    entropy[..4].copy_from_slice(&number.to_be_bytes());
    SandboxId::from_entropy(entropy)
}
