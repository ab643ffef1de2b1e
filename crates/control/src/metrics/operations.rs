//! How often callers' operations succeeded and failed, and how long they took.

use std::{
    array,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use stacyvm_fleet::Fleet;
use stacyvm_types::{Histogram, Operation, Tally, time::Clock};

use super::redact::redacted;
use crate::Error;

/// Providers that are told apart; names beyond these, and names that no worker has, count as
/// [`UNKNOWN`], so that no caller can make the record grow.
const PROVIDERS: usize = 16;
/// The provider of operations whose provider is not known.
const UNKNOWN: &str = "unknown";
/// Each thread adds to one of this many sets of counters, so that two cores seldom share one.
const SHARDS: usize = 8;
/// The longest error that is kept, in bytes.
const MAX_ERROR: usize = 256;

/// The record of callers' operations. Adding to it takes no lock that anybody could hold.
pub struct OperationMetrics {
    fleet: Fleet,
    clock: std::sync::Arc<dyn Clock>,
    providers: [OnceLock<Box<str>>; PROVIDERS],
    /// By operation, then by provider; the last provider is the unknown one.
    cells: Box<[[OnceLock<Box<Cell>>; PROVIDERS + 1]]>,
}

#[derive(Default)]
struct Cell {
    shards: [Shard; SHARDS],
    /// Unix seconds.
    last_observed: AtomicI64,
    last_error: Mutex<Option<LastError>>,
}

/// On cache lines of its own, and those that the processor fetches together with them.
#[repr(align(128))]
struct Shard {
    succeeded: Histogram,
    failed: Histogram,
    shortest: AtomicU64,
    longest: AtomicU64,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            succeeded: Histogram::default(),
            failed: Histogram::default(),
            shortest: AtomicU64::new(u64::MAX),
            longest: AtomicU64::new(0),
        }
    }
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The word for it, as [`crate::Error::kind`] has it: for whoever may see the server.
    pub kind: &'static str,
    /// The sentence, without what could be a secret. It may name paths and what callers named, so
    /// it is for administrators.
    pub text: String,
}

/// What was recorded of one operation of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationTally {
    /// The operation.
    pub operation: Operation,
    /// The provider's name, or `unknown`.
    pub provider: String,
    /// The times of those that succeeded.
    pub succeeded: Tally,
    /// The times of those that failed.
    pub failed: Tally,
    /// The shortest of all.
    pub shortest: Duration,
    /// The longest of all.
    pub longest: Duration,
    /// Why the last failed one failed.
    pub last_error: Option<LastError>,
    /// When the last one ended, in Unix seconds.
    pub last_observed: i64,
}

impl OperationMetrics {
    /// An empty record. Providers of this fleet are told apart by name.
    pub fn new(fleet: Fleet, clock: std::sync::Arc<dyn Clock>) -> Self {
        Self {
            fleet,
            clock,
            providers: array::from_fn(|_| OnceLock::new()),
            cells: Operation::ALL.iter().map(|_| array::from_fn(|_| OnceLock::new())).collect(),
        }
    }

    /// Adds an operation that took this long and succeeded, or failed for this reason. The reason
    /// may be a client's sentence: what could be a secret in it is not kept.
    pub fn record(
        &self,
        operation: Operation,
        provider: &str,
        took: Duration,
        failure: Option<&Error>,
    ) {
        let cell = self.cells[operation as usize][self.place(provider)].get_or_init(Box::default);
        let shard = &cell.shards[shard()];
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if nanos < shard.shortest.load(Relaxed) {
            shard.shortest.fetch_min(nanos, Relaxed);
        }
        if shard.longest.load(Relaxed) < nanos {
            shard.longest.fetch_max(nanos, Relaxed);
        }
        let now = self.clock.now().as_micros().div_euclid(1_000_000);
        // A line that all threads share is written once a second, not once an operation.
        if cell.last_observed.load(Relaxed) != now {
            cell.last_observed.store(now, Relaxed);
        }
        match failure {
            None => shard.succeeded.record(took),
            Some(failure) => {
                shard.failed.record(took);
                let text = redacted(&failure.recorded(), MAX_ERROR);
                // Whoever holds the lock writes an error of this moment too.
                if let Ok(mut last) = cell.last_error.try_lock() {
                    *last = Some(LastError { kind: failure.kind(), text });
                }
            }
        }
    }

    /// What was recorded, for each operation and provider that occurred, by operation and provider.
    pub fn tallies(&self) -> Vec<OperationTally> {
        let mut tallies = Vec::new();
        for (operation, cells) in Operation::ALL.iter().zip(&self.cells) {
            let names = self.providers.iter().map(|name| name.get().map_or(UNKNOWN, |name| name));
            for (provider, cell) in names.chain([UNKNOWN]).zip(cells) {
                tallies.extend(cell.get().map(|cell| cell.tally(*operation, provider)));
            }
        }
        tallies.sort_by(|a, b| (a.operation, &a.provider).cmp(&(b.operation, &b.provider)));
        tallies
    }

    /// Where a provider's cells are.
    fn place(&self, provider: &str) -> usize {
        for (place, name) in self.providers.iter().enumerate() {
            let name = match name.get() {
                Some(name) => name,
                None if self.is_known(provider) => name.get_or_init(|| provider.into()),
                None => return PROVIDERS,
            };
            if **name == *provider {
                return place;
            }
        }
        PROVIDERS
    }

    fn is_known(&self, provider: &str) -> bool {
        self.fleet.workers().iter().any(|worker| worker.capabilities(provider).is_ok())
    }
}

impl Cell {
    fn tally(&self, operation: Operation, provider: &str) -> OperationTally {
        let (mut succeeded, mut failed) = (Tally::default(), Tally::default());
        for shard in &self.shards {
            succeeded.add(&shard.succeeded.tally());
            failed.add(&shard.failed.tally());
        }
        let shortest = self.shards.iter().map(|shard| shard.shortest.load(Relaxed)).min();
        let longest = self.shards.iter().map(|shard| shard.longest.load(Relaxed)).max();
        OperationTally {
            operation,
            provider: provider.to_owned(),
            succeeded,
            failed,
            shortest: Duration::from_nanos(shortest.filter(|n| *n != u64::MAX).unwrap_or(0)),
            longest: Duration::from_nanos(longest.unwrap_or(0)),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            last_observed: self.last_observed.load(Relaxed),
        }
    }
}

/// The shard of this thread.
fn shard() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = THREADS.fetch_add(1, Relaxed) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use stacyvm_fleet::Worker;
    use stacyvm_provider::{Provider, mock::MockProvider};
    use stacyvm_types::{SandboxId, Timestamp, WorkerId, time::ManualClock};
    use stacyvm_worker::LocalWorker;

    use super::*;

    struct Fixture {
        metrics: OperationMetrics,
        clock: Arc<ManualClock>,
        _dir: tempfile::TempDir,
    }

    fn late() -> Error {
        Error::ExecTimeout(SandboxId::from_entropy([0; 10]))
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(7_900_000)));
        let mock: Arc<dyn Provider> = Arc::new(MockProvider::open(&dir.path().join("m")).unwrap());
        let id = WorkerId::parse("local").unwrap();
        let journal = dir.path().join("w");
        let worker = LocalWorker::new(id, [mock], "mock", &journal, clock.clone()).unwrap();
        let fleet = Fleet::new([Arc::new(worker) as Arc<dyn Worker>]);
        Fixture { metrics: OperationMetrics::new(fleet, clock.clone()), clock, _dir: dir }
    }

    /// R2.2: counts, times, the last error and when.
    #[test]
    fn an_operation_is_counted_with_its_time_and_its_last_error() {
        let Fixture { metrics, clock, _dir } = fixture();
        let ms = Duration::from_millis;
        metrics.record(Operation::Exec, "mock", ms(2), None);
        metrics.record(Operation::Exec, "mock", ms(8), Some(&late()));
        clock.advance(ms(2_000));
        metrics.record(Operation::Exec, "mock", ms(5), None);
        let [tally] = &metrics.tallies()[..] else { panic!("one operation") };
        assert_eq!((tally.operation, tally.provider.as_str()), (Operation::Exec, "mock"));
        assert_eq!((tally.succeeded.count(), tally.failed.count()), (2, 1));
        assert_eq!((tally.succeeded.total(), tally.failed.total()), (ms(7), ms(8)));
        assert_eq!((tally.shortest, tally.longest), (ms(2), ms(8)));
        let last = tally.last_error.as_ref().unwrap();
        assert_eq!(last.kind, "exec_timeout");
        assert_eq!(last.text, "exec timeout: sb-00000000000000000000");
        assert_eq!(tally.last_observed, 9);
    }

    /// R2.2: nothing that a caller writes makes the record grow.
    #[test]
    fn providers_that_no_worker_has_count_as_one() {
        let Fixture { metrics, _dir, .. } = fixture();
        for n in 0..100 {
            metrics.record(Operation::Spawn, &format!("no-{n}"), Duration::ZERO, Some(&late()));
        }
        metrics.record(Operation::Spawn, "mock", Duration::ZERO, None);
        let names: Vec<_> = metrics
            .tallies()
            .into_iter()
            .map(|tally| (tally.provider, tally.succeeded.count(), tally.failed.count()))
            .collect();
        assert_eq!(names, [("mock".to_owned(), 1, 0), (UNKNOWN.to_owned(), 0, 100)]);
    }

    /// R2.2: what many threads record at once is all there.
    #[test]
    fn nothing_is_lost_between_threads_or_while_somebody_reads() {
        let Fixture { metrics, _dir, .. } = fixture();
        let late = late();
        thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    for n in 0..1_000_u64 {
                        let failure = n.is_multiple_of(10).then_some(&late);
                        metrics.record(
                            Operation::FileRead,
                            "mock",
                            Duration::from_micros(n),
                            failure,
                        );
                    }
                });
            }
            for _ in 0..10 {
                for tally in metrics.tallies() {
                    let last = tally.succeeded.cumulative().last();
                    assert_eq!(last.map(|(_, count)| count), Some(tally.succeeded.count()));
                }
            }
        });
        let tally = metrics.tallies().remove(0);
        assert_eq!((tally.succeeded.count(), tally.failed.count()), (14_400, 1_600));
        assert_eq!((tally.shortest, tally.longest), (Duration::ZERO, Duration::from_micros(999)));
    }

    #[test]
    fn every_operation_has_its_own_cells() {
        for (at, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, at);
        }
    }
}
