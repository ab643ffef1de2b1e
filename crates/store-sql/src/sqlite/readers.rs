//! Read-only connections. In WAL mode a reader never waits for the writer.
//!
//! Point reads take about ten microseconds, less than handing them to another thread and back, so
//! they run where they are called. Scans may be long and run on the blocking pool. Each kind has
//! its own few connections, so that scans cannot hold up point reads.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;
use stacyvm_store::{Result, Timings};
use tokio::sync::Semaphore;

use super::open::{self, OpenError};
use crate::db::{Tx, unavailable};

/// A point read does not wait inside, so more than there are cores would only take memory.
const POINTS: usize = 4;
/// Scans at once; more wait in order.
const SCANS: usize = 2;
/// The longest that a caller waits for its turn and its answer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The connections for both kinds of read.
#[derive(Debug)]
pub(crate) struct Readers {
    points: Pool,
    scans: Arc<Pool>,
    timings: Arc<Timings>,
}

impl Readers {
    /// Opens all connections.
    pub(crate) fn open(path: &Path, timings: Arc<Timings>) -> Result<Self, OpenError> {
        let (points, scans) = (Pool::open(path, POINTS)?, Pool::open(path, SCANS)?);
        Ok(Self { points, scans: Arc::new(scans), timings })
    }

    /// Runs a read that touches few pages, on the calling task.
    pub(crate) async fn point<T>(&self, read: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let _timed = self.timings.read();
        let wait = tokio::time::timeout(LONGEST_WAIT, self.points.turns.acquire());
        let _turn = wait.await.map_err(unavailable)?.map_err(unavailable)?;
        self.points.run(read)
    }

    /// Runs a read of any size, on a thread that may block. A caller that goes away leaves it
    /// running, and it keeps its turn until it is done.
    pub(crate) async fn scan<T, F>(&self, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let _timed = self.timings.scan();
        let wait = tokio::time::timeout(LONGEST_WAIT, self.scans.turns.clone().acquire_owned());
        let turn = wait.await.map_err(unavailable)?.map_err(unavailable)?;
        let pool = self.scans.clone();
        let scan = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            pool.run(read)
        });
        tokio::time::timeout(LONGEST_WAIT, scan).await.map_err(unavailable)?.map_err(unavailable)?
    }
}

#[derive(Debug)]
struct Pool {
    /// As many as there are connections: whoever has a turn finds one.
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    fn open(path: &Path, size: usize) -> Result<Self, OpenError> {
        let idle = (0..size).map(|_| open::reader(path)).collect::<Result<_, _>>()?;
        Ok(Self { turns: Arc::new(Semaphore::new(size)), idle: Mutex::new(idle) })
    }

    fn run<T>(&self, read: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let lent = Lent { pool: self, connection: self.idle().pop() };
        let Some(connection) = &lent.connection else { return Err(unavailable(NoConnection)) };
        read(&Tx::sqlite(connection))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the connection back, also when the read panics.
struct Lent<'p> {
    pool: &'p Pool,
    connection: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pool.idle().extend(self.connection.take());
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no connection is left to read with")]
struct NoConnection;

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::{Arc, mpsc as std_mpsc},
        task::Poll,
    };

    use super::{POINTS, Readers, SCANS};
    use crate::{events, sqlite::open};

    struct Fixture {
        readers: Readers,
        writer: rusqlite::Connection,
        _directory: tempfile::TempDir,
    }

    fn fresh() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("stacyvm.db");
        let writer = open::writer(&path).unwrap();
        Fixture {
            readers: Readers::open(&path, Arc::default()).unwrap(),
            writer,
            _directory: directory,
        }
    }

    #[tokio::test]
    async fn reads_do_not_wait_for_an_open_write_and_see_it_once_committed() {
        let fixture = fresh();
        fixture.writer.execute_batch("BEGIN IMMEDIATE; UPDATE counters SET value = 7").unwrap();
        assert_eq!(fixture.readers.point(events::last).await.unwrap(), 0);
        assert_eq!(fixture.readers.scan(events::last).await.unwrap(), 0);
        fixture.writer.execute_batch("COMMIT").unwrap();
        assert_eq!(fixture.readers.point(events::last).await.unwrap(), 7);
        assert_eq!(fixture.readers.scan(events::last).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn point_reads_do_not_wait_for_scans_and_scans_take_turns() {
        let fixture = fresh();
        let mut releases = Vec::new();
        let mut scans: Vec<_> = (0..=SCANS)
            .map(|_| {
                let (release, released) = std_mpsc::channel::<()>();
                releases.push(release);
                Box::pin(fixture.readers.scan(move |tx| {
                    // The end of the sender lets the scan go on.
                    released.recv().ok();
                    events::last(tx)
                }))
            })
            .collect();
        std::future::poll_fn(|context| {
            for scan in &mut scans {
                assert!(scan.as_mut().poll(context).is_pending());
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(fixture.readers.scans.turns.available_permits(), 0);
        assert_eq!(fixture.readers.point(events::last).await.unwrap(), 0);
        // A scan whose caller went away keeps its turn until it is done.
        drop(scans.remove(0));
        assert_eq!(fixture.readers.scans.turns.available_permits(), 0);
        releases.clear();
        for scan in scans {
            assert_eq!(scan.await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_read_that_panics_gives_its_connection_back() {
        let fixture = fresh();
        for _ in 0..POINTS + 1 {
            let read = std::panic::AssertUnwindSafe(|| {
                fixture.readers.points.run(|_| -> stacyvm_store::Result<()> { panic!("a bug") })
            });
            assert!(std::panic::catch_unwind(read).is_err());
        }
        assert_eq!(fixture.readers.point(events::last).await.unwrap(), 0);
    }
}
