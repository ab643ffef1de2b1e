use std::{
    future::poll_fn,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, mpsc as std_mpsc},
    task::Poll,
};

use rusqlite::Connection;
use stacyvm_store::{Error, Result, Sandbox, contract};
use tokio::task::JoinSet;

use super::{
    About, Needs, Writer,
    work::{LONG_LOG, RESERVED_IDS},
};
use crate::{
    db::Tx,
    events, sandboxes,
    sqlite::{open, recent::Recent, syncer::Tail},
};

struct Fixture {
    writer: Writer,
    tail: Arc<Tail>,
    recent: Arc<Recent>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn fresh() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let (tail, recent) = (Arc::<Tail>::default(), Arc::<Recent>::default());
    let connection = open::writer(&path).unwrap();
    let writer = Writer::start(connection, tail.clone(), recent.clone(), Arc::default()).unwrap();
    Fixture { writer, tail, recent, path, _directory: directory }
}

impl Fixture {
    fn counter(&self) -> i64 {
        let connection = Connection::open(&self.path).unwrap();
        connection.query_row("SELECT value FROM counters", [], |row| row.get(0)).unwrap()
    }
}

fn add(tx: &mut Tx<'_>, number: u64) -> Result<u64> {
    tx.query(crate::sql::TAKE_EVENT_IDS).bind(number).first(|row| row.int())?.ok_or(Error::NotFound)
}

/// Adds to the counter and says how the connection commits meanwhile: 2 with a sync, 1 without.
fn add_and_look(tx: &mut Tx<'_>, number: u64) -> Result<u8> {
    add(tx, number)?;
    tx.query("PRAGMA synchronous").first(|row| row.int())?.ok_or(Error::NotFound)
}

const WITH_SYNC: u8 = 2;
const WITHOUT_SYNC: u8 = 1;

impl Fixture {
    /// A call that needs no disk and gives out that many ids.
    async fn observe(&self, events: usize) -> u8 {
        let body = move |tx: &mut Tx<'_>| add_and_look(tx, events as u64);
        self.writer.send(Needs::Kernel { events }, None, body).await.unwrap()
    }

    async fn decide(&self, events: u64) -> u8 {
        self.writer.run(move |tx| add_and_look(tx, events)).await.unwrap()
    }

    /// The counter and how far it is reserved.
    fn reserved(&self) -> (i64, i64) {
        let connection = Connection::open(&self.path).unwrap();
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        connection.query_row("SELECT value, reserved FROM counters", [], read).unwrap()
    }

    fn log(&self) -> u64 {
        std::fs::metadata(self.path.with_extension("db-wal")).unwrap().len()
    }
}

/// Sends the call to the writer without waiting for its answer.
async fn start<F: Future>(call: F) -> Pin<Box<F>> {
    let mut call = Box::pin(call);
    poll_fn(|context| {
        assert!(call.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    call
}

/// Keeps the writer busy until the sender is dropped, so that the calls that follow share a group.
async fn hold(writer: &Writer) -> std_mpsc::Sender<()> {
    let (release, released) = std_mpsc::channel::<()>();
    let (begun, has_begun) = std_mpsc::channel();
    let call = writer.run(move |_| {
        begun.send(()).unwrap();
        // The end of the sender lets the writer go on.
        released.recv().ok();
        Ok(())
    });
    drop(start(call).await);
    has_begun.recv().unwrap();
    release
}

#[tokio::test]
async fn a_failing_call_undoes_its_own_changes_only() {
    let fixture = fresh();
    let release = hold(&fixture.writer).await;
    let good = fixture.writer.run(|tx| add(tx, 1));
    let bad = fixture.writer.run(|tx| {
        add(tx, 100)?;
        Err::<(), _>(Error::Conflict)
    });
    let panicking = fixture.writer.run(|tx| -> Result<()> {
        add(tx, 1_000)?;
        panic!("a bug in a body")
    });
    let last = fixture.writer.run(|tx| add(tx, 10));
    let (good, bad, panicking, last, ()) =
        tokio::join!(biased; good, bad, panicking, last, async { drop(release) });
    assert_eq!(good.unwrap(), 1);
    assert!(matches!(bad, Err(Error::Conflict)), "{bad:?}");
    assert!(matches!(panicking, Err(Error::Unavailable(_))), "{panicking:?}");
    assert_eq!(last.unwrap(), 11);
    assert_eq!(fixture.counter(), 11);
}

#[tokio::test]
async fn a_call_whose_caller_went_away_still_happens() {
    let fixture = fresh();
    let release = hold(&fixture.writer).await;
    drop(start(fixture.writer.run(|tx| add(tx, 5))).await);
    drop(release);
    assert_eq!(fixture.writer.run(|tx| add(tx, 1)).await.unwrap(), 6);
    assert_eq!(fixture.counter(), 6);
}

#[tokio::test]
async fn dropping_the_writer_finishes_what_was_queued() {
    let Fixture { writer, path, _directory, .. } = fresh();
    let release = hold(&writer).await;
    drop(start(writer.run(|tx| add(tx, 7))).await);
    drop(release);
    drop(writer);
    let connection = Connection::open(&path).unwrap();
    let value: i64 =
        connection.query_row("SELECT value FROM counters", [], |row| row.get(0)).unwrap();
    assert_eq!(value, 7);
    drop(connection);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "one tidy file");
}

#[tokio::test]
async fn a_full_disk_is_named_and_what_was_answered_is_kept() {
    let fixture = fresh();
    fixture.writer.run(|tx| add(tx, 3)).await.unwrap();
    fixture
        .writer
        .run(|tx| {
            // The database's own limit stands in for the disk's.
            tx.query("PRAGMA max_page_count = 40").first(|_| Ok(())).map(drop)
        })
        .await
        .unwrap();
    let release = hold(&fixture.writer).await;
    let beside = fixture.writer.run(|tx| add(tx, 1));
    let filling = fixture.writer.run(|tx| {
        tx.query(
            "INSERT INTO templates VALUES ('x', 1, $1, '', '', 0, 0, 0, '', '', '', 0, '', '', 0, 0)",
        )
        .bind("x".repeat(1 << 20))
        .execute()
    });
    let (beside, filling, ()) = tokio::join!(biased; beside, filling, async { drop(release) });
    assert!(matches!(filling, Err(Error::DiskFull)), "{filling:?}");
    // SQLite gives up the whole transaction, so the neighbour hears it too: nothing was changed.
    assert!(matches!(beside, Err(Error::DiskFull)), "{beside:?}");
    assert_eq!(fixture.counter(), 3);
    assert_eq!(fixture.writer.run(|tx| add(tx, 1)).await.unwrap(), 4);
}

#[tokio::test]
async fn a_transaction_that_the_database_gave_up_fails_every_call_in_it() {
    let fixture = fresh();
    let release = hold(&fixture.writer).await;
    let before = fixture.writer.run(|tx| add(tx, 1));
    let failing = fixture.writer.run(|tx| {
        add(tx, 10)?;
        // What SQLite does by itself after some I/O errors.
        tx.query("ROLLBACK").execute()?;
        Err::<(), _>(Error::DiskFull)
    });
    let after = fixture.writer.run(|tx| add(tx, 100));
    let (before, failing, after, ()) =
        tokio::join!(biased; before, failing, after, async { drop(release) });
    assert!(matches!(before, Err(Error::DiskFull)), "{before:?}");
    assert!(matches!(failing, Err(Error::DiskFull)), "{failing:?}");
    assert_eq!(after.unwrap(), 100, "the next group starts afresh");
    assert_eq!(fixture.counter(), 100);
}

#[tokio::test]
async fn a_transaction_that_cannot_begin_makes_the_store_unavailable_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let connection = open::writer(&path).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    let writer = Writer::start(connection, Arc::default(), Arc::default(), Arc::default()).unwrap();
    let blocker = Connection::open(&path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = writer.run(|tx| add(tx, 1)).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    blocker.execute_batch("COMMIT").unwrap();
    assert_eq!(writer.run(|tx| add(tx, 1)).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_callers_than_the_queue_holds_are_all_answered() {
    let fixture = std::sync::Arc::new(fresh());
    let mut callers = JoinSet::new();
    for _ in 0..1_000 {
        let fixture = fixture.clone();
        callers.spawn(async move { fixture.writer.run(|tx| add(tx, 1)).await.unwrap() });
    }
    let mut given = callers.join_all().await;
    given.sort_unstable();
    assert_eq!(given, (1..=1_000).collect::<Vec<_>>());
    assert_eq!(fixture.writer.run(|tx| events::last(tx)).await.unwrap(), 1_000);
}

#[tokio::test]
async fn a_commit_waits_for_the_disk_only_when_a_call_in_it_needs_that() {
    let fixture = fresh();
    assert_eq!(fixture.observe(1).await, WITH_SYNC, "nothing is reserved yet");
    assert_eq!(fixture.observe(1).await, WITHOUT_SYNC);
    assert_eq!(fixture.decide(1).await, WITH_SYNC);
    assert_eq!(fixture.decide(1).await, WITH_SYNC);
    assert_eq!(fixture.observe(1).await, WITHOUT_SYNC);
    assert_eq!(fixture.observe(0).await, WITHOUT_SYNC);
    assert_eq!(fixture.counter(), 5);
}

#[tokio::test]
async fn what_needs_no_disk_is_answered_before_the_others_wait_for_theirs() {
    let fixture = fresh();
    fixture.decide(0).await;
    let release = hold(&fixture.writer).await;
    let (begin, begun) = std_mpsc::channel::<()>();
    let first = start(fixture.observe(1)).await;
    let waiting = fixture.writer.run(move |tx| {
        // Ends when both of the others have been answered.
        begun.recv().ok();
        add_and_look(tx, 1)
    });
    let waiting = start(waiting).await;
    let last = start(fixture.observe(1)).await;
    drop(release);
    assert_eq!(tokio::join!(first, last), (WITHOUT_SYNC, WITHOUT_SYNC));
    drop(begin);
    assert_eq!(waiting.await.unwrap(), WITH_SYNC);
}

#[tokio::test]
async fn no_id_beyond_the_reservation_is_given_out_without_the_disk() {
    let fixture = fresh();
    fixture.decide(7).await;
    let ids = i64::from(RESERVED_IDS);
    assert_eq!(fixture.reserved(), (7, 7 + ids));
    assert_eq!(fixture.observe(RESERVED_IDS as usize - 1).await, WITHOUT_SYNC);
    assert_eq!(fixture.reserved(), (6 + ids, 7 + ids));
    assert_eq!(fixture.observe(2).await, WITH_SYNC, "one is left");
    assert_eq!(fixture.reserved(), (8 + ids, 8 + 2 * ids));
    assert_eq!(fixture.observe(RESERVED_IDS as usize + 1).await, WITH_SYNC, "never enough");
    assert_eq!(fixture.observe(1).await, WITHOUT_SYNC);
    drop(fixture.writer);
    let connection = open::writer(&fixture.path).unwrap();
    let value: i64 =
        connection.query_row("SELECT value FROM counters", [], |row| row.get(0)).unwrap();
    assert_eq!(value, 10 + 2 * ids, "an orderly stop gives the rest back");
}

#[tokio::test]
async fn a_call_that_changes_nothing_writes_only_to_take_a_tail_to_the_disk() {
    let fixture = fresh();
    fixture.decide(1).await;
    let refused = || fixture.writer.run(|_| Err::<(), _>(Error::Conflict));
    let before = fixture.log();
    refused().await.unwrap_err();
    assert_eq!(fixture.log(), before);
    fixture.observe(1).await;
    let tail = fixture.log();
    refused().await.unwrap_err();
    assert!(tail < fixture.log());
}

/// A call whose commit fails, as if the disk had.
async fn fail_to_commit(fixture: &Fixture) {
    let failing = fixture.writer.run(|tx| {
        tx.query("PRAGMA defer_foreign_keys = 1").execute()?;
        tx.query("INSERT INTO exec_logs VALUES ('x', 'nobody', '', 0, '', 0, 0)").execute()
    });
    let refused = failing.await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn after_a_sync_that_failed_no_tail_is_relied_on() {
    let fixture = fresh();
    fixture.decide(1).await;
    fail_to_commit(&fixture).await;
    let before = fixture.log();
    fixture.decide(1).await;
    assert!(before < fixture.log(), "what failed is written over, and nothing else was waiting");
    fixture.observe(1).await;
    let tail = fixture.log();
    fail_to_commit(&fixture).await;
    fixture.decide(1).await;
    assert!(fixture.log() < tail, "what was in the tail is in the main file now");
    assert_eq!(fixture.counter(), 4);
}

#[tokio::test]
async fn a_sync_that_failed_elsewhere_starts_the_log_over_before_the_next_commit() {
    let fixture = fresh();
    fixture.decide(1).await;
    fixture.observe(1).await;
    assert!(!fixture.tail.is_synced());
    let tail = fixture.log();
    fixture.tail.tear();
    fixture.observe(1).await;
    assert!(fixture.log() < tail, "what was in the tail is in the main file now");
    assert!(!fixture.tail.is_torn());
    assert!(!fixture.tail.is_synced(), "the last is not in the main file");
    fixture.decide(0).await;
    assert!(fixture.tail.is_synced());
    assert_eq!(fixture.counter(), 3);
}

#[tokio::test]
async fn a_log_that_cannot_be_relied_on_takes_no_commit_while_somebody_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let connection = open::writer(&path).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    let tail = Arc::<Tail>::default();
    let writer = Writer::start(connection, tail.clone(), Arc::default(), Arc::default()).unwrap();
    let recent = Arc::default();
    let fixture = Fixture { writer, tail, recent, path, _directory: directory };
    fixture.decide(1).await;
    fixture.observe(1).await;
    let reader = Connection::open(&fixture.path).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM counters").unwrap();
    fixture.observe(1).await;
    fail_to_commit(&fixture).await;
    let refused = fixture.writer.run(|tx| add(tx, 1)).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(fixture.writer.run(|tx| add(tx, 1)).await.unwrap(), 4);
}

fn admit(tx: &mut Tx<'_>) -> Result<Sandbox> {
    let at = contract::at;
    crate::workers::beat(tx, contract::beat("w1"), None, at(0))?;
    sandboxes::admit(
        tx,
        &stacyvm_admission::Policy::default(),
        contract::new_sandbox(1, at(100)),
        at(0),
    )
}

impl Fixture {
    async fn change(&self, body: fn(&mut Tx<'_>) -> Result<Sandbox>) -> Result<Sandbox> {
        let about = About { id: contract::id(1), after: |row| Some(row) };
        self.writer.change(Needs::Disk, about, body).await
    }
}

#[tokio::test]
async fn a_row_is_known_once_it_was_committed_and_forgotten_before_it_may_change() {
    let fixture = fresh();
    let known = || fixture.recent.get(&contract::id(1));
    let row = fixture.change(admit).await.unwrap();
    assert_eq!(known(), Some(row.clone()));
    fixture.change(admit).await.unwrap_err();
    assert_eq!(known(), None, "refused: the file is read");
    let recent = fixture.recent.clone();
    recent.learn([(&contract::id(1), Some(&row))].into_iter());
    let about = About { id: contract::id(1), after: |_| None };
    let unread = fixture.writer.change(Needs::Disk, about, move |_| {
        assert_eq!(recent.get(&contract::id(1)), None, "not even while it changes");
        Ok(())
    });
    unread.await.unwrap();
    assert_eq!(known(), None);
}

#[tokio::test]
async fn no_row_of_a_commit_that_failed_is_known() {
    let fixture = fresh();
    let failed = fixture.change(|tx| {
        let row = admit(tx)?;
        tx.query("PRAGMA defer_foreign_keys = 1").execute()?;
        tx.query("INSERT INTO exec_logs VALUES ('x', 'nobody', '', 0, '', 0, 0)").execute()?;
        Ok(row)
    });
    assert!(matches!(failed.await, Err(Error::Unavailable(_))));
    assert_eq!(fixture.recent.get(&contract::id(1)), None);
    fixture.change(admit).await.unwrap();
}

#[tokio::test]
async fn a_long_log_is_written_from_its_beginning_again() {
    let fixture = fresh();
    let mut written = 0;
    while written < 3 * LONG_LOG.unsigned_abs() {
        let text = "x".repeat(1 << 20);
        written += text.len() as u64;
        let put = fixture.writer.run(move |tx| {
            tx.query(
                "INSERT OR REPLACE INTO templates VALUES \
                 ('x', 1, $1, '', '', 0, 0, 0, '', '', '', 0, '', '', 0, 0)",
            )
            .bind(text)
            .execute()
        });
        put.await.unwrap();
    }
    // Each page has a header there, and the last commit may have made it longer by what it wrote.
    let longest = (LONG_LOG.unsigned_abs() + (2 << 20)) * 41 / 40;
    assert!(fixture.log() < longest, "{} bytes", fixture.log());
}
