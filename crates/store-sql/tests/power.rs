//! The power fails: what is left of the log is what was synced, or anything up to what was written.
//!
//! The disk after it is a copy of the main file and of the first bytes of the log. While the log
//! grows, its length after a commit that waits for the disk is what was synced at least; that such a
//! commit syncs, and only such a one, is tested beside the writer.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use stacyvm_admission::Policy;
use stacyvm_store::{
    Durability::{self, Disk, Kernel},
    EventFilter, Sandbox, Store, WorkerStore,
    contract::{FIRST, at, beat, cause, event, id, new_sandbox},
};
use stacyvm_store_sql::SqliteStore;
use stacyvm_types::{CauseKind, Event, EventKind, Phase, Transition};

/// One state of the disk, and the store on it.
struct Host {
    store: SqliteStore,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

impl Host {
    /// Its worker is in the main file, whatever is left of the log.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stacyvm.db");
        let store = SqliteStore::open(&path).unwrap();
        store.beat(beat("w1"), None, at(0)).await.unwrap();
        drop(store);
        Self { store: SqliteStore::open(&path).unwrap(), path, _directory: directory }
    }

    /// How long the log is now.
    fn log(&self) -> u64 {
        fs::metadata(log_of(&self.path)).map_or(0, |file| file.len())
    }

    /// The host after its power failed when the disk had so much of the log. With all of it, it is
    /// the same host after the server's process was killed.
    fn with_log_of(&self, bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stacyvm.db");
        fs::copy(&self.path, &path).unwrap();
        if 0 < bytes {
            fs::copy(log_of(&self.path), log_of(&path)).unwrap();
            File::options().write(true).open(log_of(&path)).unwrap().set_len(bytes).unwrap();
        }
        Self { store: SqliteStore::open(&path).unwrap(), path, _directory: directory }
    }

    async fn admit(&self, number: u8) {
        self.admit_for(Disk, number).await;
    }

    async fn admit_for(&self, durability: Durability, number: u8) {
        self.store
            .admit(&Policy::default(), new_sandbox(number, at(100)), durability, at(0))
            .await
            .unwrap();
    }

    async fn start(&self, number: u8) {
        let events = vec![event(EventKind::SandboxRunning, number)];
        let started = Transition::Started;
        self.store.transition(&id(number), FIRST, started, events, Kernel, at(1)).await.unwrap();
    }

    async fn row(&self, number: u8) -> Option<Sandbox> {
        self.store.sandbox(&id(number)).await.unwrap()
    }

    async fn phase(&self, number: u8) -> Phase {
        self.row(number).await.unwrap().phase
    }

    async fn events(&self, after: u64) -> Vec<Event> {
        self.store.events(after, u32::MAX, EventFilter::default()).await.unwrap()
    }
}

#[tokio::test]
async fn what_reached_the_kernel_survives_the_process_and_what_reached_the_disk_the_host() {
    let host = Host::new().await;
    host.admit(1).await;
    let admitted = host.log();
    host.start(1).await;
    let started = host.log();
    assert!(admitted < started, "it is in the log, for everybody to read");
    assert_eq!(host.with_log_of(started).phase(1).await, Phase::Running);
    // Whatever part of the tail the kernel had written by itself.
    for bytes in (admitted..started).step_by(1_000) {
        let after = host.with_log_of(bytes);
        assert_eq!(after.phase(1).await, Phase::Creating, "{bytes} of {started}");
        assert_eq!(after.events(0).await, host.events(0).await[..1]);
        let lease = after.store.lease(&id(1)).await.unwrap().unwrap();
        assert_eq!(lease.generation, FIRST);
    }
}

#[tokio::test]
async fn what_reaches_the_disk_takes_everything_before_it_there() {
    let host = Host::new().await;
    host.admit(1).await;
    host.start(1).await;
    host.admit(2).await;
    let after = host.with_log_of(host.log());
    assert_eq!(after.phase(1).await, Phase::Running);
    assert_eq!(after.phase(2).await, Phase::Creating);

    let stop = || Transition::Stop(cause(CauseKind::Requested));
    host.store.transition(&id(1), FIRST, stop(), vec![], Kernel, at(2)).await.unwrap();
    let stopping = host.log();
    host.store.transition(&id(1), FIRST, Transition::Gone, vec![], Disk, at(3)).await.unwrap();
    assert_eq!(host.with_log_of(host.log()).row(1).await, host.row(1).await);
    // Not even the whole log is more than was committed: half of the end is no end.
    let torn = host.with_log_of(host.log() - 1);
    assert!(matches!(torn.phase(1).await, Phase::Stopping(_)));
    assert!(matches!(host.with_log_of(stopping).phase(1).await, Phase::Stopping(_)));
}

/// What nobody was told: the sandbox is not there, its id is free, and its neighbours are whole.
#[tokio::test]
async fn an_admission_that_was_not_synced_is_there_or_not_and_breaks_nothing() {
    let host = Host::new().await;
    host.admit(1).await;
    let known = host.log();
    host.admit_for(Kernel, 2).await;
    let admitted = host.log();
    assert!(known < admitted, "it is in the log, for everybody to read");
    assert_eq!(host.with_log_of(admitted).phase(2).await, Phase::Creating);
    for bytes in (known..admitted).step_by(1_000) {
        let after = host.with_log_of(bytes);
        assert_eq!(after.row(1).await, host.row(1).await);
        assert_eq!(after.row(2).await, None, "{bytes} of {admitted}");
        assert_eq!(after.store.lease(&id(2)).await.unwrap(), None);
        assert_eq!(after.events(0).await, host.events(0).await[..1]);
        after.admit_for(Kernel, 2).await;
        let seen = host.events(0).await.last().unwrap().id;
        assert!(seen < after.events(0).await.last().unwrap().id, "ids that were read are skipped");
        after.start(2).await;
        assert_eq!(after.phase(2).await, Phase::Running);
    }
}

/// A sync is of the log as it is: it writes nothing, and takes everything before it along.
#[tokio::test]
async fn a_synced_admission_is_there_with_all_that_came_before_it() {
    let host = Host::new().await;
    host.admit(1).await;
    host.start(1).await;
    host.admit_for(Kernel, 2).await;
    let admitted = host.log();
    let (synced, ()) = tokio::join!(biased; host.store.sync(), host.start(2));
    synced.unwrap();
    let after = host.with_log_of(admitted);
    assert_eq!(after.phase(1).await, Phase::Running);
    assert_eq!(after.phase(2).await, Phase::Creating);
    host.store.sync().await.unwrap();
    assert_eq!(host.with_log_of(host.log()).row(2).await, host.row(2).await);
}

/// Who repeats a transition to be sure of it has nothing left to change, and must be sure all the
/// same.
#[tokio::test]
async fn a_repeated_transition_is_as_durable_as_it_was_asked_to_be() {
    let host = Host::new().await;
    host.admit(1).await;
    host.start(1).await;
    let tail = host.log();
    let started = Transition::Started;
    host.store.transition(&id(1), FIRST, started, vec![], Disk, at(2)).await.unwrap();
    assert!(tail < host.log(), "SQLite syncs only where it writes");
    assert_eq!(host.with_log_of(host.log()).row(1).await, host.row(1).await);
}

/// Ids by which a client goes on reading: each must mean the same event for ever.
#[derive(Default)]
struct Seen(BTreeMap<u64, Event>);

impl Seen {
    async fn look(&mut self, host: &Host) {
        for event in host.events(0).await {
            let known = self.0.entry(event.id).or_insert_with(|| event.clone());
            assert_eq!(*known, event, "an id means two events");
        }
    }

    fn last(&self) -> u64 {
        *self.0.last_key_value().unwrap().0
    }
}

#[tokio::test]
async fn an_id_that_was_read_is_never_given_to_another_event() {
    let mut host = Host::new().await;
    let mut seen = Seen::default();
    for round in 0..6 {
        let number = |n: u8| 10 * round + n;
        host.admit(number(1)).await;
        host.admit(number(2)).await;
        let synced = host.log();
        host.start(number(1)).await;
        seen.look(&host).await;
        host.start(number(2)).await;
        seen.look(&host).await;
        let last_seen = seen.last();
        host = host.with_log_of(synced);
        assert!(host.events(0).await.last().unwrap().id < last_seen, "something was lost");
        if round % 2 == 0 {
            // And at once again, before anything else reached the disk.
            host = host.with_log_of(host.log());
        }
        // A client that reads on after what it saw last misses nothing.
        assert!(last_seen <= host.store.last_event().await.unwrap());
        assert_eq!(host.events(last_seen).await, []);
        host.start(number(1)).await;
        let [next] = &host.events(last_seen).await[..] else { panic!("not one event") };
        assert_eq!(next.sandbox, Some(id(number(1))));
        seen.look(&host).await;
    }
}

#[tokio::test]
async fn an_orderly_stop_leaves_no_number_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    for number in 1..=3 {
        let store = SqliteStore::open(&path).unwrap();
        store.beat(beat("w1"), None, at(0)).await.unwrap();
        store.admit(&Policy::default(), new_sandbox(number, at(100)), Disk, at(0)).await.unwrap();
        let started = Transition::Started;
        let events = vec![event(EventKind::SandboxRunning, number)];
        store.transition(&id(number), FIRST, started, events, Kernel, at(1)).await.unwrap();
        assert_eq!(store.last_event().await.unwrap(), 2 * u64::from(number));
    }
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.sandbox(&id(3)).await.unwrap().unwrap().phase, Phase::Running);
    assert_eq!(store.last_event().await.unwrap(), 6);
}
