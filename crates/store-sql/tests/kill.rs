//! A process that writes is killed without warning: what it was answered must be there.
//!
//! SIGKILL leaves the page cache alone, so this is about the order of answer and commit and about
//! recovery from the log, for what has to reach the kernel as for what has to reach the disk. What
//! the disk has after a loss of power is tested in `power.rs`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use stacyvm_admission::Policy;
use stacyvm_store::{Durability, EventFilter, Include, Store, contract};
use stacyvm_store_sql::SqliteStore;
use stacyvm_types::{EventKind, Phase, SandboxId, Transition};
use tokio::task::JoinSet;

const PATH: &str = "STACYVM_KILL_TEST_PATH";
const ROUND: &str = "STACYVM_KILL_TEST_ROUND";
const WRITERS: u8 = 8;
const ROUNDS: u8 = 6;

fn sandbox_id(round: u8, writer: u8, number: u32) -> SandboxId {
    let mut entropy = [0; 10];
    entropy[0] = round;
    entropy[1] = writer;
    entropy[2..6].copy_from_slice(&number.to_be_bytes());
    SandboxId::from_entropy(entropy)
}

/// Not a test of its own: the process that gets killed.
#[test]
#[ignore = "run as a child process by the kill test"]
fn writes_until_it_is_killed() {
    let path = PathBuf::from(std::env::var_os(PATH).expect("the kill test sets the path"));
    let round: u8 = std::env::var(ROUND).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(path).unwrap());
        contract::register(&store).await;
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            writers.spawn(async move {
                for number in 0.. {
                    write_one(&store, sandbox_id(round, writer, number)).await;
                }
            });
        }
        writers.join_all().await;
    });
}

async fn write_one(store: &Arc<dyn Store>, id: SandboxId) {
    let now = contract::at(1);
    let mut new = contract::new_sandbox(0, contract::at(100));
    new.id = id.clone();
    store.admit(&Policy::default(), new, Durability::Kernel, now).await.unwrap();
    say(&format!("admitted {id}"));
    let mut event = contract::event(EventKind::SandboxRunning, 0);
    event.sandbox = Some(id.clone());
    let row = store
        .transition(&id, contract::FIRST, Transition::Started, vec![event], Durability::Kernel, now)
        .await
        .unwrap();
    assert_eq!(row.phase, Phase::Running);
    say(&format!("running {id}"));
}

/// One write per line, so that a kill cannot leave half of one.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Starts the child, lets it answer that many calls, kills it and returns everything it said.
fn said_by_a_killed_child(path: &std::path::Path, round: u8, answers: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(PATH, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    // The test harness prints too, once without ending its line.
    let answer = |line: String| {
        let from = line.find("admitted sb-").or_else(|| line.find("running sb-"))?;
        Some(line[from..].to_owned())
    };
    let mut said: Vec<String> = lines.by_ref().filter_map(answer).take(answers).collect();
    assert_eq!(said.len(), answers, "the child ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
    // What it was answered between the last line above and the kill is in the pipe.
    said.extend(lines.filter_map(answer));
    said
}

#[tokio::test]
async fn every_answered_write_survives_sigkill_with_its_events_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let mut said = Vec::new();
    for round in 0..ROUNDS {
        said.extend(said_by_a_killed_child(&path, round, 50 + 150 * usize::from(round)));
        check(&path, &said, round).await;
    }
}

async fn check(path: &std::path::Path, said: &[String], round: u8) {
    let store = SqliteStore::open(path).unwrap();
    let rows: BTreeMap<String, _> = store
        .sandboxes(Include::Ended)
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.spec.id.to_string(), row))
        .collect();
    for line in said {
        let (what, id) = line.split_once(' ').unwrap();
        let row = rows.get(id).unwrap_or_else(|| panic!("{line}, but it is not there"));
        assert!(what == "admitted" || row.phase == Phase::Running, "{line}, but it is {row:?}");
    }
    let events = store.events(0, u32::MAX, EventFilter::default()).await.unwrap();
    assert!(events.last().unwrap().id <= store.last_event().await.unwrap());
    let pairs = || events.iter().zip(&events[1..]);
    assert!(pairs().all(|(one, next)| one.id < next.id), "ids rise");
    let gaps = pairs().filter(|(one, next)| one.id + 1 < next.id).count();
    assert!(gaps <= usize::from(round), "numbers are left out where a killed store is opened");
    let mut kinds: BTreeMap<String, Vec<EventKind>> = BTreeMap::new();
    for event in events {
        kinds.entry(event.sandbox.unwrap().to_string()).or_default().push(event.kind);
    }
    assert_eq!(kinds.len(), rows.len());
    for (id, row) in rows {
        let expected: &[_] = match row.phase {
            Phase::Creating => &[EventKind::SandboxCreated],
            _ => &[EventKind::SandboxCreated, EventKind::SandboxRunning],
        };
        assert_eq!(kinds[&id], expected, "{id}");
        assert_eq!(row.version, expected.len() as u64);
        let lease = store.lease(&row.spec.id).await.unwrap().unwrap();
        assert_eq!(lease.generation, row.generation);
    }
}
