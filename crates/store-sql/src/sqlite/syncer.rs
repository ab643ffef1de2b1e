//! The thread that takes to the disk what only reached the kernel, while the writer goes on.
//!
//! A commit that did not wait for the disk is in SQLite's log. Syncing that file takes it to the
//! disk with everything before it, and SQLite need not know, because of what it promises itself:
//!
//! - The log is one file for as long as the writer has it open: it is written over and truncated,
//!   and only the last connection to close removes it. No lock of SQLite is on it, so that another
//!   descriptor of it may be closed at any time.
//! - What is no more in the log when the sync comes is in the main file, on the disk. A checkpoint
//!   syncs the log before it copies, and the main file when it has copied all, under
//!   `synchronous = NORMAL` as under `FULL`; only a log that was copied whole is started over, and
//!   its new header is synced before anything is written behind it.
//!
//! Linux tells every descriptor of a file by itself that something of it could not be written. So a
//! sync here hides no failure from SQLite's, nor the other way around. Who hears of one first says
//! so in [`Tail`], and the writer starts the log over before it relies on it again.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use stacyvm_store::Result;
use tokio::sync::{mpsc, oneshot};

use crate::db::unavailable;

/// Calls that may wait for the thread; more wait outside, in order.
const QUEUE: usize = 256;
/// The longest that a caller waits.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a call waits for others to share its sync with, when the last one was shared: a sync
/// costs the processors as much as a small transaction.
const LINGER: Duration = Duration::from_micros(300);

/// How much of what was answered the disk has.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Commits that were answered, or are about to be. Only the writer counts them.
    committed: AtomicU64,
    /// Those of them that the disk has.
    synced: AtomicU64,
    /// Whether a sync failed that was to take a tail along. The kernel tells of what it could not
    /// write once and does not try again, so the next sync would succeed over a hole in the log.
    torn: AtomicBool,
}

impl Tail {
    /// A commit that did not wait for the disk is about to be answered.
    pub(super) fn grew(&self) {
        self.committed.fetch_add(1, Ordering::SeqCst);
    }

    /// The disk has everything that the writer has committed so far. For the writer.
    pub(super) fn all_is_synced(&self) {
        self.is_synced_to(self.committed());
    }

    fn committed(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }

    fn is_synced_to(&self, committed: u64) {
        self.synced.fetch_max(committed, Ordering::SeqCst);
    }

    /// Whether the disk has everything that was answered.
    pub(super) fn is_synced(&self) -> bool {
        self.committed() <= self.synced.load(Ordering::SeqCst)
    }

    /// No sync of the log means anything until it was started over.
    pub(super) fn tear(&self) {
        self.torn.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_torn(&self) -> bool {
        self.torn.load(Ordering::SeqCst)
    }

    /// The log was started over. For the writer: what it committed before is in the main file.
    pub(super) fn heal(&self) {
        self.all_is_synced();
        self.torn.store(false, Ordering::SeqCst);
    }
}

/// The thread and the way to it. Dropping it lets the thread finish what was queued.
#[derive(Debug)]
pub(super) struct Syncer {
    /// `None` only while dropping.
    calls: Option<mpsc::Sender<Reply>>,
    thread: Option<thread::JoinHandle<()>>,
}

type Reply = oneshot::Sender<Result<(), Arc<Failure>>>;

impl Syncer {
    /// Starts the thread on this log.
    pub(super) fn start(log: File, tail: Arc<Tail>) -> io::Result<Self> {
        Self::on(move || log.sync_data(), tail)
    }

    fn on(
        disk: impl FnMut() -> io::Result<()> + Send + 'static,
        tail: Arc<Tail>,
    ) -> io::Result<Self> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store-syncer".to_owned())
            .spawn(move || until_closed(queue, disk, &tail))?;
        Ok(Self { calls: Some(calls), thread: Some(thread) })
    }

    /// Returns when the disk has everything that was answered before the call.
    pub(super) async fn sync(&self) -> Result<()> {
        let Some(calls) = &self.calls else { return Err(unavailable(Failure::Gone)) };
        let (reply, answer) = oneshot::channel();
        let wait = async {
            calls.send(reply).await.map_err(|_| unavailable(Failure::Gone))?;
            answer.await.map_err(|_| unavailable(Failure::Gone))?.map_err(unavailable)
        };
        tokio::time::timeout(LONGEST_WAIT, wait).await.map_err(unavailable)?
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's syncing thread panicked");
        }
    }
}

/// Calls that are there when a sync begins share it: all of them came after what they wait for.
fn until_closed(
    mut queue: mpsc::Receiver<Reply>,
    mut disk: impl FnMut() -> io::Result<()>,
    tail: &Tail,
) {
    let mut company = false;
    while let Some(first) = queue.blocking_recv() {
        if company {
            thread::sleep(LINGER);
        }
        let mut waiting = vec![first];
        while waiting.len() < QUEUE
            && let Ok(reply) = queue.try_recv()
        {
            waiting.push(reply);
        }
        company = 1 < waiting.len();
        let outcome = sync(&mut disk, tail).map_err(Arc::new);
        for reply in waiting {
            // The caller may have gone away.
            drop(reply.send(outcome.clone()));
        }
    }
}

fn sync(disk: &mut impl FnMut() -> io::Result<()>, tail: &Tail) -> Result<(), Failure> {
    if tail.is_synced() {
        // The writer's own sync took it along.
        return Ok(());
    }
    if tail.is_torn() {
        return Err(Failure::Torn);
    }
    let committed = tail.committed();
    if let Err(error) = disk() {
        tail.tear();
        return Err(Failure::Disk(error));
    }
    tail.is_synced_to(committed);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the store's syncing thread has stopped")]
    Gone,
    #[error("a sync failed, and the log was not started over yet")]
    Torn,
    #[error("the log cannot be synced")]
    Disk(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        os::unix::fs::MetadataExt,
        sync::{Arc, mpsc as std_mpsc},
    };

    use super::{Syncer, Tail};
    use crate::sqlite::open;

    /// A disk of which each sync says that it began, and then waits for its outcome.
    struct Disk {
        begun: std_mpsc::Receiver<()>,
        outcomes: std_mpsc::Sender<io::Result<()>>,
    }

    fn fresh() -> (Arc<Syncer>, Arc<Tail>, Disk) {
        let (begin, begun) = std_mpsc::channel();
        let (outcomes, outcome) = std_mpsc::channel();
        let tail = Arc::<Tail>::default();
        let disk = move || {
            begin.send(()).unwrap();
            outcome.recv().unwrap()
        };
        let syncer = Syncer::on(disk, tail.clone()).unwrap();
        (Arc::new(syncer), tail, Disk { begun, outcomes })
    }

    fn call(syncer: &Arc<Syncer>) -> tokio::task::JoinHandle<bool> {
        let syncer = syncer.clone();
        tokio::task::spawn_blocking(move || {
            tokio::runtime::Handle::current().block_on(syncer.sync()).is_ok()
        })
    }

    #[tokio::test]
    async fn what_is_committed_during_a_sync_waits_for_the_next_one() {
        let (syncer, tail, disk) = fresh();
        tail.grew();
        let first = call(&syncer);
        disk.begun.recv().unwrap();
        tail.grew();
        let (second, third) = (call(&syncer), call(&syncer));
        disk.outcomes.send(Ok(())).unwrap();
        assert!(first.await.unwrap());
        disk.begun.recv().unwrap();
        assert!(!tail.is_synced());
        disk.outcomes.send(Ok(())).unwrap();
        assert!(second.await.unwrap());
        assert!(third.await.unwrap());
        assert!(tail.is_synced());
        assert!(syncer.sync().await.is_ok(), "and there is nothing left to do");
    }

    #[tokio::test]
    async fn what_the_writer_took_along_needs_no_sync() {
        let (syncer, tail, disk) = fresh();
        tail.grew();
        tail.all_is_synced();
        syncer.sync().await.unwrap();
        assert!(disk.begun.try_recv().is_err());
    }

    #[tokio::test]
    async fn after_a_failed_sync_none_succeeds_until_the_log_was_started_over() {
        let (syncer, tail, disk) = fresh();
        tail.grew();
        disk.outcomes.send(Err(io::Error::other("a bad block"))).unwrap();
        syncer.sync().await.unwrap_err();
        assert!(tail.is_torn() && !tail.is_synced());
        disk.outcomes.send(Ok(())).unwrap();
        syncer.sync().await.unwrap_err();
        tail.heal();
        syncer.sync().await.unwrap();
        tail.grew();
        syncer.sync().await.unwrap();
    }

    /// What the module's first promise rests on.
    #[test]
    fn the_log_is_the_same_file_for_as_long_as_the_writer_has_it_open() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("elsewhere")).unwrap();
        let path = directory.path().join("stacyvm.db");
        std::os::unix::fs::symlink(directory.path().join("elsewhere/stacyvm.db"), &path).unwrap();
        let writer = open::writer(&path).unwrap();
        let log = open::log(&path).unwrap();
        let at = directory.path().join("elsewhere/stacyvm.db-wal");
        for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
            writer.execute_batch("UPDATE counters SET value = value + 1").unwrap();
            let reader = open::reader(&path).unwrap();
            let pragma = format!("PRAGMA wal_checkpoint({mode})");
            writer.query_row(&pragma, [], |row| row.get::<_, i64>(0)).unwrap();
            drop(reader);
            writer.execute_batch("UPDATE counters SET value = value + 1").unwrap();
            let (mine, theirs) = (log.metadata().unwrap(), std::fs::metadata(&at).unwrap());
            assert_eq!((mine.dev(), mine.ino()), (theirs.dev(), theirs.ino()), "{mode}");
            assert!(0 < mine.len());
        }
    }

    #[tokio::test]
    async fn dropping_it_finishes_what_was_queued() {
        let (syncer, tail, disk) = fresh();
        tail.grew();
        let waiting = call(&syncer);
        disk.begun.recv().unwrap();
        disk.outcomes.send(Ok(())).unwrap();
        drop(syncer);
        assert!(waiting.await.unwrap());
    }
}
