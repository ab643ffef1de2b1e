//! What a worker promises about providers that hang, and about late owners.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_fleet::Worker;
use stacyvm_provider::{
    Capabilities, Error, ErrorKind, Guest, Images, LaunchSpec, Outcome, Probe, Provider, Result,
    Runtime, RuntimeState,
};
use stacyvm_types::{
    Generation, Limits, SandboxId, Timestamp, WorkerId,
    time::{Clock, ManualClock},
};
use stacyvm_worker::LocalWorker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

struct Fake {
    name: &'static str,
    hangs: AtomicBool,
    probes: AtomicUsize,
    runtimes: Mutex<BTreeMap<SandboxId, Runtime>>,
}

impl Fake {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            hangs: AtomicBool::new(false),
            probes: AtomicUsize::new(0),
            runtimes: Mutex::default(),
        })
    }

    async fn answer(&self) {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Provider for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn probe(&self) -> Probe {
        self.probes.fetch_add(1, Ordering::SeqCst);
        self.answer().await;
        Probe { usable: true, summary: "fine".to_owned(), findings: Vec::new() }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Runtime> {
        self.answer().await;
        let runtime = Runtime {
            id: spec.id.clone(),
            generation: spec.generation,
            state: RuntimeState::Running,
            image: spec.image.clone(),
            created: Timestamp::from_micros(0),
        };
        self.runtimes.lock().unwrap().insert(spec.id.clone(), runtime.clone());
        Ok(runtime)
    }

    async fn list(&self) -> Result<Vec<Runtime>> {
        self.answer().await;
        Ok(self.runtimes.lock().unwrap().values().cloned().collect())
    }

    async fn status(&self, id: &SandboxId) -> Result<Runtime> {
        self.answer().await;
        let found = self.runtimes.lock().unwrap().get(id).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NoSandbox, "no such runtime"))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<()> {
        self.answer().await;
        self.runtimes.lock().unwrap().remove(id);
        Ok(())
    }

    async fn pause(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "no pause"))
    }

    async fn resume(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "no pause"))
    }

    async fn guest(&self, _: &SandboxId) -> Result<Arc<dyn Guest>> {
        self.answer().await;
        Err(Error::new(ErrorKind::NoSandbox, "no such runtime"))
    }

    fn images(&self) -> Option<&dyn Images> {
        None
    }
}

fn worker(dir: &Path, providers: &[&Arc<Fake>]) -> LocalWorker {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_micros(0)));
    let providers = providers.iter().map(|fake| -> Arc<dyn Provider> { Arc::clone(fake) as _ });
    LocalWorker::new(WorkerId::parse("local").unwrap(), providers, "good", dir, clock).unwrap()
}

fn spec(n: u8, generation: u64) -> LaunchSpec {
    LaunchSpec {
        id: SandboxId::from_entropy([n; 10]),
        generation: Generation(generation),
        image: "host".to_owned(),
        limits: Limits::DEFAULT,
        ttl: None,
    }
}

/// A hung provider hangs no request, and its late answers are known to be unknown.
#[tokio::test(start_paused = true)]
async fn every_call_to_a_provider_that_hangs_ends_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (Fake::new("good"), Fake::new("bad"));
    let worker = worker(dir.path(), &[&good, &bad]);
    bad.hangs.store(true, Ordering::SeqCst);
    let id = spec(1, 1).id;

    let begun = Instant::now();
    let error = worker.spawn("bad", &spec(1, 1)).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Timeout, Outcome::Unknown));
    assert_eq!(begun.elapsed(), Duration::from_secs(60));
    let error = worker.destroy("bad", &id, Generation(1)).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(worker.status("bad", &id).await.unwrap_err().kind, ErrorKind::Timeout);
    let error = worker.guest("bad", &id, Generation(1)).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Timeout);

    let begun = Instant::now();
    worker.spawn("good", &spec(2, 1)).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let (runtimes, silent) = worker.runtimes().await;
    assert_eq!((runtimes.len(), silent), (1, vec!["bad".into()]));
}

#[tokio::test(start_paused = true)]
async fn launches_that_hang_do_not_keep_anything_from_being_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let good = Fake::new("good");
    let worker = Arc::new(worker(dir.path(), &[&good]));
    worker.spawn("good", &spec(255, 1)).await.unwrap();
    good.hangs.store(true, Ordering::SeqCst);
    let mut launches = tokio::task::JoinSet::new();
    for n in 0..100 {
        let worker = worker.clone();
        launches.spawn(async move { worker.spawn("good", &spec(n, 1)).await });
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    good.hangs.store(false, Ordering::SeqCst);
    let begun = Instant::now();
    worker.destroy("good", &spec(255, 1).id, Generation(1)).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let errors: Vec<_> = launches.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(
        errors
            .iter()
            .all(|error| error.kind == ErrorKind::Timeout || error.outcome == Outcome::NotDone)
    );
    assert!(!errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn checks_run_side_by_side_are_bounded_and_are_kept_for_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad, worse) = (Fake::new("good"), Fake::new("bad"), Fake::new("worse"));
    let worker = worker(dir.path(), &[&good, &bad, &worse]);
    for fake in [&bad, &worse] {
        fake.hangs.store(true, Ordering::SeqCst);
    }
    let begun = Instant::now();
    let (reports, same) = tokio::join!(worker.providers(), worker.providers());
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    assert_eq!(reports, same);
    assert_eq!(good.probes.load(Ordering::SeqCst), 1);
    let seen: Vec<_> = reports
        .iter()
        .map(|report| (&*report.name, report.default, report.probe.usable, report.runtimes))
        .collect();
    assert_eq!(
        seen,
        [("bad", false, false, None), ("good", true, true, Some(0)), ("worse", false, false, None)]
    );
    assert_eq!(reports[0].latency, Duration::from_secs(2));
}

#[tokio::test]
async fn a_stale_owner_is_refused_and_changes_nothing_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let good = Fake::new("good");
    let first = worker(dir.path(), &[&good]);
    first.spawn("good", &spec(1, 2)).await.unwrap();
    drop(first);
    let worker = worker(dir.path(), &[&good]);
    let id = spec(1, 1).id;
    for error in [
        worker.spawn("good", &spec(1, 1)).await.unwrap_err(),
        worker.destroy("good", &id, Generation(1)).await.unwrap_err(),
        worker.guest("good", &id, Generation(1)).await.err().unwrap(),
    ] {
        assert_eq!((error.kind, error.outcome), (ErrorKind::Fenced, Outcome::NotDone));
    }
    assert_eq!(worker.runtimes().await.0.len(), 1);
    worker.destroy("good", &id, Generation(3)).await.unwrap();
    assert_eq!(worker.runtimes().await.0.len(), 0);
}

#[tokio::test]
async fn a_late_launch_does_not_bring_a_destroyed_sandbox_back() {
    let dir = tempfile::tempdir().unwrap();
    let good = Fake::new("good");
    let worker = worker(dir.path(), &[&good]);
    worker.destroy("good", &spec(1, 1).id, Generation(1)).await.unwrap();
    let error = worker.spawn("good", &spec(1, 1)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fenced);
    assert!(good.runtimes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_runtime_is_reported_with_its_newest_owner() {
    let dir = tempfile::tempdir().unwrap();
    let good = Fake::new("good");
    let worker = worker(dir.path(), &[&good]);
    worker.spawn("good", &spec(1, 1)).await.unwrap();
    assert!(worker.guest("good", &spec(1, 1).id, Generation(4)).await.is_err());
    let (runtimes, _) = worker.runtimes().await;
    assert_eq!(runtimes[0].1.generation, Generation(4));
}

fn timed(n: u8, ttl: u64) -> LaunchSpec {
    LaunchSpec { ttl: Some(Duration::from_secs(ttl)), ..spec(n, 1) }
}

/// Waits in paused time until a provider has this many runtimes.
async fn until_left(fake: &Fake, left: usize) {
    while fake.runtimes.lock().unwrap().len() != left {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// R5: nobody has to be there for a sandbox to end.
#[tokio::test(start_paused = true)]
async fn a_sandbox_ends_by_itself_soon_after_its_time_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let good = Fake::new("good");
    let clock = Arc::new(ManualClock::new(Timestamp::from_micros(0)));
    let open = || {
        let providers = [Arc::clone(&good) as Arc<dyn Provider>];
        let id = WorkerId::parse("local").unwrap();
        Arc::new(LocalWorker::new(id, providers, "good", dir.path(), clock.clone()).unwrap())
    };
    let first = open();
    first.spawn("good", &timed(1, 60)).await.unwrap();
    first.spawn("good", &timed(2, 60)).await.unwrap();
    first.spawn("good", &spec(3, 1)).await.unwrap();
    let remaining = Duration::from_secs(600);
    first.set_deadline("good", &spec(2, 1).id, Generation(1), remaining).await.unwrap();
    drop(first);

    let worker = open();
    let stopping = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let (timed, until) = (worker.clone(), stopping.clone());
    tasks.spawn(async move { timed.keep_time(until).await });
    // The control plane has some seconds to do it first.
    clock.advance(Duration::from_secs(64));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(worker.runtimes().await.0.len(), 3);
    clock.advance(Duration::from_secs(1));
    until_left(&good, 2).await;
    let gone = worker.status("good", &spec(1, 1).id).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NoSandbox);
    let late = worker.spawn("good", &spec(1, 1)).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::Fenced);
    // A provider that fails is asked again.
    good.hangs.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_secs(600));
    tokio::time::sleep(Duration::from_secs(120)).await;
    good.hangs.store(false, Ordering::SeqCst);
    until_left(&good, 1).await;
    stopping.cancel();
    tasks.join_all().await;
}

#[tokio::test]
async fn a_stale_owner_cannot_give_more_time() {
    let dir = tempfile::tempdir().unwrap();
    let good = Fake::new("good");
    let worker = worker(dir.path(), &[&good]);
    worker.spawn("good", &spec(1, 2)).await.unwrap();
    let more = Duration::from_secs(1);
    let id = spec(1, 1).id;
    let error = worker.set_deadline("good", &id, Generation(1), more).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fenced);
    worker.set_deadline("good", &id, Generation(2), more).await.unwrap();
}

#[tokio::test]
async fn an_unknown_provider_is_unsupported() {
    let dir = tempfile::tempdir().unwrap();
    let worker = worker(dir.path(), &[]);
    let error = worker.spawn("none", &spec(1, 1)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert_eq!(worker.capabilities("none").unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(worker.images("none").err().unwrap().kind, ErrorKind::Unsupported);
}

/// Whoever heard of the refusal may have started it elsewhere by then.
#[tokio::test(start_paused = true)]
async fn a_launch_that_was_refused_is_not_carried_out_when_it_comes_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let good = Fake::new("good");
    let worker = worker(dir.path(), &[&good]);
    worker.drain().await.unwrap();
    let refused = worker.spawn("good", &spec(1, 1)).await.unwrap_err();
    assert_eq!((refused.kind, refused.outcome), (ErrorKind::Unavailable, Outcome::NotDone));
    worker.undrain().await.unwrap();
    let again = worker.spawn("good", &spec(1, 1)).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Fenced);
    worker.spawn("good", &spec(1, 2)).await.unwrap();
    assert_eq!(worker.runtimes().await.0.len(), 1);
}

/// Servers do not know of each other's calls.
#[tokio::test(start_paused = true)]
async fn a_destruction_does_not_overtake_a_launch() {
    let dir = tempfile::tempdir().unwrap();
    let good = Fake::new("good");
    let worker = Arc::new(worker(dir.path(), &[&good]));
    good.hangs.store(true, Ordering::SeqCst);
    let mut calls = tokio::task::JoinSet::new();
    let launching = worker.clone();
    calls.spawn(async move { launching.spawn("good", &spec(1, 1)).await.map(drop) });
    tokio::task::yield_now().await;
    good.hangs.store(false, Ordering::SeqCst);
    let begun = Instant::now();
    worker.destroy("good", &spec(1, 1).id, Generation(1)).await.unwrap();
    assert!(Duration::ZERO < begun.elapsed(), "it waited for the launch to end");
    assert!(worker.runtimes().await.0.is_empty());
}
