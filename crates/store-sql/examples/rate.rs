//! How fast the store is on this disk: durable admits a second at 1 and 16 callers, and reads.
//!
//! `cargo run --release -p stacyvm-store-sql --example rate [DIRECTORY]`

use std::{
    error::Error,
    io::Write as _,
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use stacyvm_admission::Policy;
use stacyvm_store::{Durability, Include, NewEvent, NewSandbox, Store};
use stacyvm_store_sql::SqliteStore;
use stacyvm_types::{
    Beat, Cause, CauseKind, EventKind, Generation, Limits, Resources, SandboxId, Timestamp,
    Transition, WorkerId,
};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const FOR: Duration = Duration::from_secs(3);
const READS: usize = 20_000;

fn sandbox_id(round: u8, caller: u32, number: u32) -> SandboxId {
    let mut entropy = [round; 10];
    entropy[1..5].copy_from_slice(&caller.to_be_bytes());
    entropy[5..9].copy_from_slice(&number.to_be_bytes());
    SandboxId::from_entropy(entropy)
}

/// A worker that holds what the measuring admits.
fn local() -> Outcome<Beat> {
    Ok(Beat {
        id: WorkerId::parse("local")?,
        instance: "rate".to_owned(),
        hostname: String::new(),
        version: String::new(),
        url: None,
        draining: false,
        offers: Vec::new(),
        capacity: Resources::default(),
    })
}

fn new_sandbox(id: SandboxId) -> Outcome<NewSandbox> {
    Ok(NewSandbox {
        id,
        owner: None,
        provider: "native".to_owned(),
        worker: WorkerId::parse("local")?,
        image: "host".to_owned(),
        template: None,
        limits: Limits::DEFAULT,
        metadata: [("purpose".to_owned(), "rate".to_owned())].into(),
        env: [].into(),
        expires_at: Timestamp::from_micros(1),
    })
}

fn line(name: &str, mut took: Vec<Duration>, wall: Duration) -> Outcome<()> {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    let rate = took.len() as f64 / wall.as_secs_f64();
    writeln!(
        std::io::stdout(),
        "{name:<34} {rate:>9.0}/s   p50 {:>8.1} µs   p99 {:>8.1} µs",
        at(50),
        at(99),
    )?;
    Ok(())
}

async fn admits(store: &Arc<dyn Store>, round: u8, callers: u32) -> Outcome<()> {
    let start = Instant::now();
    let mut set = JoinSet::new();
    for caller in 0..callers {
        let store = store.clone();
        set.spawn(async move {
            let mut took = Vec::new();
            for number in 0.. {
                if FOR < start.elapsed() {
                    break;
                }
                let new = new_sandbox(sandbox_id(round, caller, number))?;
                let zero = Timestamp::from_micros(0);
                let before = Instant::now();
                store.admit(&Policy::default(), new, Durability::Disk, zero).await?;
                took.push(before.elapsed());
            }
            Outcome::Ok(took)
        });
    }
    let mut took = Vec::new();
    for one in set.join_all().await {
        took.extend(one?);
    }
    line(&format!("durable admits, {callers} at once"), took, start.elapsed())
}

async fn transitions(
    store: &Arc<dyn Store>,
    numbers: Range<u32>,
    durability: Durability,
) -> Outcome<()> {
    let (start, mut took) = (Instant::now(), Vec::new());
    for number in numbers {
        let id = sandbox_id(1, 0, number);
        let zero = Timestamp::from_micros(0);
        let before = Instant::now();
        store.transition(&id, Generation(1), Transition::Started, vec![], durability, zero).await?;
        took.push(before.elapsed());
    }
    line(&format!("transitions to the {durability:?}, 1 at once"), took, start.elapsed())
}

/// Whole lives of sandboxes, with the durability and the events that the control plane asks for.
async fn lives(store: &Arc<dyn Store>, round: u8, callers: u32) -> Outcome<()> {
    let start = Instant::now();
    let mut set = JoinSet::new();
    for caller in 0..callers {
        let store = store.clone();
        set.spawn(async move {
            let (mut spawns, mut destroys) = (Vec::new(), Vec::new());
            for number in 0.. {
                if FOR < start.elapsed() {
                    break;
                }
                let id = sandbox_id(round, caller, number);
                let now = Timestamp::from_micros(i64::from(number));
                let step = async |transition, kind: Option<EventKind>, durability| {
                    let event = |kind| NewEvent {
                        kind,
                        sandbox: Some(id.clone()),
                        owner: None,
                        data: [].into(),
                    };
                    let events = kind.map(event).into_iter().collect();
                    store.transition(&id, Generation(1), transition, events, durability, now).await
                };
                let cause = Cause::new(CauseKind::Requested, "destroyed by request");
                let before = Instant::now();
                store
                    .admit(&Policy::default(), new_sandbox(id.clone())?, Durability::Kernel, now)
                    .await?;
                let running = Some(EventKind::SandboxRunning);
                let started = step(Transition::Started, running, Durability::Kernel);
                let (synced, started) = tokio::join!(biased; store.sync(), started);
                synced?;
                started?;
                spawns.push(before.elapsed());
                let before = Instant::now();
                step(Transition::Stop(cause), None, Durability::Kernel).await?;
                let destroyed = Some(EventKind::SandboxDestroyed);
                step(Transition::Gone, destroyed, Durability::Disk).await?;
                destroys.push(before.elapsed());
            }
            Outcome::Ok((spawns, destroys))
        });
    }
    let (mut spawns, mut destroys) = (Vec::new(), Vec::new());
    for one in set.join_all().await {
        let (some_spawns, some_destroys) = one?;
        spawns.extend(some_spawns);
        destroys.extend(some_destroys);
    }
    line(&format!("spawns of whole lives, {callers} at once"), spawns, start.elapsed())?;
    line(&format!("destroys of whole lives, {callers} at once"), destroys, start.elapsed())
}

async fn reads(store: &Arc<dyn Store>) -> Outcome<()> {
    let (start, mut took) = (Instant::now(), Vec::new());
    for number in 0..READS {
        let id = sandbox_id(1, 0, u32::try_from(number % 1_000)?);
        let before = Instant::now();
        store.sandbox(&id).await?.ok_or("an admitted sandbox is missing")?;
        took.push(before.elapsed());
    }
    line("point reads, 1 at once", took, start.elapsed())?;
    let (start, mut took) = (Instant::now(), Vec::new());
    for _ in 0..10 {
        let before = Instant::now();
        store.sandboxes(Include::Live).await?;
        took.push(before.elapsed());
    }
    line("lists of everything, 1 at once", took, start.elapsed())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(base)?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(directory.path().join("rate.db"))?);
    store.beat(local()?, None, Timestamp::EPOCH).await?;
    admits(&store, 1, 1).await?;
    transitions(&store, 0..500, Durability::Disk).await?;
    transitions(&store, 500..1_000, Durability::Kernel).await?;
    reads(&store).await?;
    admits(&store, 2, 4).await?;
    admits(&store, 3, 16).await?;
    admits(&store, 4, 64).await?;
    lives(&store, 5, 1).await?;
    lives(&store, 6, 16).await?;
    let rows = store.sandboxes(Include::Ended).await?.len();
    writeln!(std::io::stdout(), "{rows} rows at the end")?;
    Ok(())
}
