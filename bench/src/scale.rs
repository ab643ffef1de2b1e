//! What many workers cost one server: their heartbeats, the look at them, and a placement, beside
//! as many sandboxes as they would hold. On a Postgres of its own; the workers do nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use stacyvm_admission::{Candidate, Policy, Wanted, choose};
use stacyvm_control::{Control, Parts, Rules, Settings, SpawnRequest};
use stacyvm_fleet::{Dial, Fleet, ProviderReport, Worker};
use stacyvm_postgres_fixture::{Disk, Server};
use stacyvm_provider::{
    Capabilities, Error, ErrorKind, Guest, Images, LaunchSpec, Probe, Runtime, RuntimeState,
};
use stacyvm_store::{Durability, NewSandbox, Store, WorkerStore as _};
use stacyvm_store_sql::PostgresStore;
use stacyvm_types::{
    Beat, Generation, Limits, Offer, Resources, SandboxId, Timestamp, WorkerId,
    time::{Clock as _, SystemClock},
};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::stats::{Samples, show};

const PROVIDER: &str = "idle";
const WORKERS: u32 = 1_000;
const SANDBOXES: u32 = 100_000;
/// A worker says that it lives once in this time.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A server looks at the registry once in this time.
const LOOK: Duration = Duration::from_secs(1);
const FILLERS: u32 = 16;

/// A worker that answers at once and does nothing.
struct Idle(WorkerId);

fn nothing() -> Error {
    Error::new(ErrorKind::Unsupported, "an idle worker does nothing")
}

#[async_trait]
impl Worker for Idle {
    fn id(&self) -> &WorkerId {
        &self.0
    }
    fn capabilities(&self, _: &str) -> stacyvm_provider::Result<Capabilities> {
        Ok(Capabilities::default())
    }
    async fn spawn(&self, _: &str, spec: &LaunchSpec) -> stacyvm_provider::Result<Runtime> {
        Ok(Runtime {
            id: spec.id.clone(),
            generation: spec.generation,
            state: RuntimeState::Running,
            image: spec.image.clone(),
            created: Timestamp::EPOCH,
        })
    }
    async fn destroy(&self, _: &str, _: &SandboxId, _: Generation) -> stacyvm_provider::Result<()> {
        Ok(())
    }
    async fn status(&self, _: &str, _: &SandboxId) -> stacyvm_provider::Result<Runtime> {
        Err(nothing())
    }
    async fn runtimes(&self) -> (Vec<(Arc<str>, Runtime)>, Vec<Arc<str>>) {
        (Vec::new(), vec![PROVIDER.into()])
    }
    async fn guest(
        &self,
        _: &str,
        _: &SandboxId,
        _: Generation,
    ) -> stacyvm_provider::Result<Arc<dyn Guest>> {
        Err(nothing())
    }
    async fn set_deadline(
        &self,
        _: &str,
        _: &SandboxId,
        _: Generation,
        _: Duration,
    ) -> stacyvm_provider::Result<()> {
        Ok(())
    }
    async fn drain(&self) -> stacyvm_provider::Result<()> {
        Ok(())
    }
    async fn undrain(&self) -> stacyvm_provider::Result<()> {
        Ok(())
    }
    async fn providers(&self) -> Vec<ProviderReport> {
        vec![ProviderReport {
            name: PROVIDER.into(),
            default: true,
            capabilities: Capabilities::default(),
            probe: Probe { usable: true, summary: String::new(), findings: Vec::new() },
            runtimes: Some(0),
            latency: Duration::ZERO,
            checked_at: Timestamp::EPOCH,
        }]
    }
    fn images(&self, _: &str) -> stacyvm_provider::Result<Arc<dyn Images>> {
        Err(nothing())
    }
}

impl Dial for Idle {
    fn dial(&self, id: &WorkerId, _: &str) -> stacyvm_provider::Result<Arc<dyn Worker>> {
        Ok(Arc::new(Self(id.clone())))
    }
}

fn worker(number: u32) -> Result<WorkerId> {
    Ok(WorkerId::parse(&format!("worker-{number:04}"))?)
}

fn beat(number: u32) -> Result<Beat> {
    let offer = Offer {
        provider: PROVIDER.to_owned(),
        default: true,
        ready: true,
        capabilities: ["exec", "files", "pty"].map(str::to_owned).into(),
        images: (0..5).map(|image| format!("image-{image}")).collect(),
    };
    Ok(Beat {
        id: worker(number)?,
        instance: format!("{number:032x}"),
        hostname: format!("node-{number}.example.org"),
        version: "1.0.0".to_owned(),
        url: Some(format!("http://10.0.{}.{}:7424", number / 256, number % 256)),
        draining: false,
        offers: vec![offer],
        capacity: Resources { sandboxes: 1_000, memory_mb: 1 << 20, vcpus: 2_000 },
    })
}

/// The processor time of this process: the database has processes of its own.
fn processor() -> Result<Duration> {
    // Fields 14 and 15 of the line after the name in parentheses, in ticks of a hundredth second.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').context("a name")?;
    let ticks: Vec<u64> =
        rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
}

async fn fill(store: &Arc<PostgresStore>, count: u32, workers: u32) -> Result<()> {
    let now = SystemClock.now();
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS {
        let store = store.clone();
        fillers.spawn(async move {
            for number in (filler..count).step_by(FILLERS as usize) {
                let mut entropy = [0xff; 10];
                entropy[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
                let new = NewSandbox {
                    id: SandboxId::from_entropy(entropy),
                    owner: None,
                    provider: PROVIDER.to_owned(),
                    worker: worker(number % workers)?,
                    image: "host".to_owned(),
                    template: None,
                    limits: Limits::DEFAULT,
                    metadata: [].into(),
                    env: [].into(),
                    expires_at: Timestamp::MAX,
                };
                store.admit(&Policy::default(), new, Durability::Disk, now).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    Ok(())
}

/// What one choice among that many workers costs.
fn choice(workers: u32) -> Result<Duration> {
    let ids = (0..workers).map(worker).collect::<Result<Vec<_>>>()?;
    let candidate = |at: usize| {
        let (id, number) = (ids.get(at)?, at as u64);
        Some(Candidate {
            id,
            unfit: None,
            provider_ready: Some(true),
            has_image: Some(true),
            reachable: true,
            backed_off: false,
            refused: false,
            capacity: Resources { sandboxes: 1_000, memory_mb: 1 << 20, vcpus: 2_000 },
            load: Resources { sandboxes: number, memory_mb: 1024 * number, vcpus: number },
        })
    };
    let rounds = 20_000;
    let begun = Instant::now();
    for round in 0..rounds {
        let wanted = Wanted {
            provider: PROVIDER,
            image: "host",
            takes: Resources { sandboxes: 1, memory_mb: 1024, vcpus: 1 },
            salt: round.into(),
        };
        std::hint::black_box(choose(&wanted, ids.len(), candidate));
    }
    Ok(begun.elapsed() / rounds)
}

/// Spawns one after the other for a while.
async fn spawns(control: &Control, seconds: f64) -> Result<Samples> {
    let mut samples = Samples::default();
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        let before = Instant::now();
        control.spawn(SpawnRequest::default()).await?;
        samples.push(before.elapsed());
    }
    Ok(samples)
}

struct Plane {
    control: Control,
    store: Arc<PostgresStore>,
    stopping: CancellationToken,
}

async fn plane(dsn: &str, workers: u32) -> Result<Plane> {
    let store = Arc::new(PostgresStore::open(dsn)?);
    let own = WorkerId::parse("own")?;
    let idle: Arc<dyn Worker> = Arc::new(Idle(own.clone()));
    let stopping = CancellationToken::new();
    let mut settings = Settings::new(own.clone(), PROVIDER);
    // Nothing lapses while the rows are made.
    settings.membership.lease_term = Duration::from_secs(3600);
    settings.rules = Rules::default();
    let control = Control::new(Parts {
        store: store.clone(),
        fleet: Fleet::new([idle]),
        dial: Some(Arc::new(Idle(own))),
        clock: Arc::new(SystemClock),
        settings,
        tasks: TaskTracker::new(),
        stopping: stopping.clone(),
    });
    control.join().await?;
    for number in 0..workers {
        control.heard_of(beat(number)?).await?;
    }
    control.join().await?;
    Ok(Plane { control, store, stopping })
}

/// Measures and prints.
#[expect(clippy::print_stdout, reason = "the figures are the output")]
pub(crate) fn run(seconds: f64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = Server::start(Disk::Unsynced)?;
    runtime.block_on(async {
        let dsn = |database: &str| server.socket_dsn(database);
        let few = plane(&dsn(&server.create_database()?), 10).await?;
        let many = plane(&dsn(&server.create_database()?), WORKERS).await?;
        fill(&many.store, SANDBOXES, WORKERS).await.context("filling")?;
        many.control.join().await?;

        let (cpu, begun) = (processor()?, Instant::now());
        for number in 0..WORKERS {
            many.control.heard_of(beat(number)?).await?;
        }
        let (took, cpu) = (begun.elapsed(), processor()?.saturating_sub(cpu));
        let share = cpu.as_secs_f64() / HEARTBEAT.as_secs_f64();
        println!(
            "{WORKERS} heartbeats one after the other: {took:.2?}, {cpu:.2?} of this process's \
             processors: {:.1} % of a core at one each in {HEARTBEAT:?}; each renews the leases of \
             {} sandboxes",
            100.0 * share,
            SANDBOXES / WORKERS
        );

        let rounds = 20;
        let (cpu, begun) = (processor()?, Instant::now());
        for _ in 0..rounds {
            many.control.workers().await?;
        }
        let (took, cpu) = (begun.elapsed() / rounds, processor()?.saturating_sub(cpu) / rounds);
        println!(
            "a look at {WORKERS} workers: {took:.2?}, {cpu:.2?} of the processors: {:.1} % of a \
             core at one in {LOOK:?}",
            100.0 * cpu.as_secs_f64() / LOOK.as_secs_f64()
        );

        for workers in [10, 100, WORKERS] {
            println!("a choice among {workers} workers: {:.2?}", choice(workers)?);
        }

        let (mut beside_few, mut beside_many) = (Samples::default(), Samples::default());
        for _ in 0..5 {
            beside_few.extend(spawns(&few.control, seconds / 5.0).await?);
            beside_many.extend(spawns(&many.control, seconds / 5.0).await?);
        }
        println!(
            "a spawn, 1 client: 10 workers and no sandboxes p50 {}; {WORKERS} workers and \
             {SANDBOXES} sandboxes p50 {} ({:.2} x)",
            show(beside_few.p50()),
            show(beside_many.p50()),
            beside_many.p50() / beside_few.p50()
        );
        let lapsed = many.store.workers().await?.len();
        println!("{lapsed} workers are registered at the end");
        few.stopping.cancel();
        many.stopping.cancel();
        anyhow::Ok(())
    })
}
