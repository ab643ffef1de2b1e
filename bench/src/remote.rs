//! What the distance to a worker costs: the same calls to one worker in this process, as a function
//! and over loopback HTTP, in turn.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use stacyvm_fleet::{
    Worker,
    identity::{Audience, Checked, KeyRing, Keys, Secret, Shown},
    remote::{RemoteWorker, Tcp},
};
use stacyvm_provider::{
    ExecEvent, ExecSpec, Exit, Guest, LaunchSpec, Program, Provider, Stdin, WriteOptions,
    mock::MockProvider,
};
use stacyvm_provider_native::{NativeProvider, NativeSettings, Spawner, UID_BASE};
use stacyvm_types::{ExecId, Generation, Limits, SandboxId, WorkerId, time::SystemClock};
use stacyvm_worker::{
    LocalWorker,
    rpc::{LIMITS, Rpc},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::stats::{Samples, show};

const ROUNDS: usize = 2_000;
const WARM: usize = 100;
const CYCLES: usize = 200;
/// A file that is moved, and how often.
const FILE: usize = 64 << 20;
const MOVES: usize = 5;

/// Prints the table. `spawner` was started before this process had threads.
pub(crate) fn run(spawner: Spawner, program: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(table(spawner, program))
}

#[expect(clippy::print_stdout, reason = "the table is the output")]
async fn table(spawner: Spawner, program: &str) -> Result<()> {
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let dir = tempfile::tempdir()?;
    let mock: Arc<dyn Provider> = Arc::new(MockProvider::open(&dir.path().join("mock"))?);
    let native = NativeProvider::new(NativeSettings {
        data_dir: dir.path().join("native"),
        pool_size: 8,
        pool_limits: Limits::DEFAULT,
        uid_base: UID_BASE,
        spawner,
        tasks: tasks.clone(),
        stopping: stopping.clone(),
        clock: Arc::new(SystemClock),
    })?;
    println!("| figure | at hand, p50 | p99 | over HTTP, p50 | p99 | p50 more | ratio |");
    println!("|---|---|---|---|---|---|---|");
    let native: Arc<dyn Provider> = native;
    for provider in [mock, native] {
        let name = provider.name();
        let place = dir.path().join("worker").join(name);
        let pair = Pair::open(&place, provider, &tasks, &stopping).await?;
        let row = |figure: &str, [near, far]: [Samples; 2]| {
            println!(
                "| {name}: {figure} | {} | {} | {} | {} | {} | {:.2} × |",
                show(near.p50()),
                show(near.percentile(0.99)),
                show(far.p50()),
                show(far.percentile(0.99)),
                show(far.p50() - near.p50()),
                far.p50() / near.p50()
            );
        };
        row("exec of a static program", pair.execs(program).await?);
        row("stat of a file", pair.stats().await?);
        row("spawn", pair.spawns().await?);
        let [near, far] = pair.moves().await?;
        println!(
            "| {name}: write and read of {} MiB | {near:.0} MiB/s | | {far:.0} MiB/s | | | |",
            FILE >> 20
        );
    }
    stopping.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// One worker, near and far.
struct Pair {
    ways: [Arc<dyn Worker>; 2],
    provider: &'static str,
}

impl Pair {
    async fn open(
        dir: &Path,
        provider: Arc<dyn Provider>,
        tasks: &TaskTracker,
        stopping: &CancellationToken,
    ) -> Result<Self> {
        let (id, clock) = (WorkerId::parse("bench")?, Arc::new(SystemClock));
        let name = provider.name();
        let near: Arc<dyn Worker> =
            Arc::new(LocalWorker::new(id.clone(), [provider], name, dir, clock.clone())?);
        let secret = Secret::new("a token of the bench that is long enough");
        let ring = Arc::new(KeyRing::of(Keys { shared: vec![secret], ..Keys::default() }));
        let access = Checked::at(Audience::Rpc, ring.clone(), clock.clone());
        let rpc = Rpc::new(near.clone(), Arc::new(access), tasks.clone(), stopping.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (router, until) = (rpc.router(), stopping.clone());
        tasks.spawn(async move {
            stacyvm_listen::serve_with(listener, router, until, Duration::from_secs(1), LIMITS)
                .await;
        });
        let shown = Shown::to(Audience::Rpc, ring, clock);
        let far = RemoteWorker::new(id, &url, Arc::new(Tcp), Arc::new(shown))?;
        Ok(Self { ways: [near, Arc::new(far)], provider: name })
    }

    async fn sandbox(&self, way: &Arc<dyn Worker>) -> Result<SandboxId> {
        let id = SandboxId::from_entropy(rand::random());
        let (generation, image) = (Generation(1), "host".to_owned());
        let spec =
            LaunchSpec { id: id.clone(), generation, image, limits: Limits::DEFAULT, ttl: None };
        way.spawn(self.provider, &spec).await?;
        Ok(id)
    }

    async fn guest(&self, way: &Arc<dyn Worker>, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        Ok(way.guest(self.provider, id, Generation(1)).await?)
    }

    /// Commands by turns near and far, each from the request to its end.
    async fn execs(&self, program: &str) -> Result<[Samples; 2]> {
        let id = self.sandbox(&self.ways[0]).await?;
        let mut samples = [Samples::default(), Samples::default()];
        for round in 0..WARM + ROUNDS {
            for (way, samples) in self.ways.iter().zip(&mut samples) {
                let begun = Instant::now();
                let guest = self.guest(way, &id).await?;
                exec(&*guest, program).await?;
                if WARM <= round {
                    samples.push(begun.elapsed());
                }
            }
        }
        self.ways[0].destroy(self.provider, &id, Generation(1)).await?;
        Ok(samples)
    }

    async fn stats(&self) -> Result<[Samples; 2]> {
        let id = self.sandbox(&self.ways[0]).await?;
        let mut samples = [Samples::default(), Samples::default()];
        for round in 0..WARM + ROUNDS {
            for (way, samples) in self.ways.iter().zip(&mut samples) {
                let begun = Instant::now();
                self.guest(way, &id).await?.stat("/workspace").await?;
                if WARM <= round {
                    samples.push(begun.elapsed());
                }
            }
        }
        self.ways[0].destroy(self.provider, &id, Generation(1)).await?;
        Ok(samples)
    }

    async fn spawns(&self) -> Result<[Samples; 2]> {
        let mut samples = [Samples::default(), Samples::default()];
        for _ in 0..CYCLES {
            for (way, samples) in self.ways.iter().zip(&mut samples) {
                tokio::time::sleep(crate::stats::PAUSE).await;
                let begun = Instant::now();
                let id = self.sandbox(way).await?;
                samples.push(begun.elapsed());
                way.destroy(self.provider, &id, Generation(1)).await?;
            }
        }
        Ok(samples)
    }

    /// MiB a second of a file's way in and out, the best of some.
    async fn moves(&self) -> Result<[f64; 2]> {
        let id = self.sandbox(&self.ways[0]).await?;
        let piece = bytes::Bytes::from(vec![7; 256 << 10]);
        let mut best = [0.0_f64; 2];
        for _ in 0..MOVES {
            for (way, best) in self.ways.iter().zip(&mut best) {
                let guest = self.guest(way, &id).await?;
                let begun = Instant::now();
                let pieces = std::iter::repeat_n(piece.clone(), FILE / piece.len());
                let body = futures_util::stream::iter(pieces.map(Ok)).boxed();
                guest.write("/workspace/file", WriteOptions::default(), body).await?;
                let mut read = guest.read("/workspace/file", None).await?;
                let mut size = 0;
                while let Some(piece) = read.body.next().await {
                    size += piece?.len();
                }
                ensure!(size == FILE, "{size} bytes came back");
                let rate = 2.0 * (FILE >> 20) as f64 / begun.elapsed().as_secs_f64();
                *best = best.max(rate);
            }
        }
        self.ways[0].destroy(self.provider, &id, Generation(1)).await?;
        Ok(best)
    }
}

async fn exec(guest: &dyn Guest, program: &str) -> Result<()> {
    let spec = ExecSpec {
        id: ExecId::from_entropy(rand::random()),
        program: Program::Argv(vec![program.to_owned()]),
        env: Default::default(),
        workdir: None,
        user: None,
        stdin: Stdin::Null,
        terminal: None,
        deadline: Some(Duration::from_secs(10)),
    };
    let mut exec = guest.exec(spec).await?;
    while let Some(event) = exec.events.next().await {
        if let ExecEvent::Exit(exit) = event? {
            ensure!(exit == Exit::Code(0), "the command ended with {exit:?}");
            return Ok(());
        }
    }
    None.context("the command has no end")
}
