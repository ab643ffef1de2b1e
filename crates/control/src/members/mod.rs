//! The workers as this server knows them: its own in the registry, the others by looking.
//!
//! What is known here is a second old at most and decides nothing by itself: a placement proposes,
//! and the store's transaction looks at the one worker again. A worker that does not answer is left
//! alone for a moment, whatever the registry says of it.

mod images;
mod lookout;
mod placement;
mod registry;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use stacyvm_provider::{Error as ProviderError, ErrorKind};
use stacyvm_store::{NewSandbox, Sandbox, WorkerRow};
use stacyvm_types::{Resources, Timestamp, WorkerId, time::Clock};
use tokio::time::Instant;

pub(crate) use self::lookout::{Heart, Lookout};
use self::view::{Known, View};
use crate::{Control, Error, Result};

/// The first pause after a worker failed, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A worker as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its row in the registry.
    pub row: WorkerRow,
    /// What its sandboxes take.
    pub load: Resources,
    /// Whether its lease has lapsed.
    pub stale: bool,
}

/// What is known of the workers.
#[derive(Default)]
pub(crate) struct Members {
    view: RwLock<Arc<View>>,
    pauses: Mutex<HashMap<WorkerId, Pause>>,
    /// Where the dialled workers take calls.
    dialled: Mutex<BTreeMap<WorkerId, String>>,
    /// The lapses whose sandboxes were all marked, each a worker and the end of its lease.
    mourned: Mutex<BTreeMap<WorkerId, Timestamp>>,
    /// Workers that were lost and are heard of again, whose sandboxes are to be settled.
    returned: Mutex<BTreeSet<WorkerId>>,
    /// How far the store's clock is ahead of this process's, in microseconds.
    ahead: Arc<AtomicI64>,
    /// Whether that was found out.
    followed: AtomicBool,
    /// When this process asked first to be in the registry, by the store's clock.
    began: OnceLock<Timestamp>,
}

struct Pause {
    failures: u32,
    until: Instant,
}

impl Members {
    fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is taken of a worker until it is looked at again.
    fn adjust(&self, worker: &WorkerId, how: fn(u64, u64) -> u64, by: Resources) {
        if let Some(known) = self.view().get(worker) {
            known.load.change(how, by);
        }
    }

    /// A place went from one worker to another.
    pub(crate) fn moved(&self, from: &NewSandbox, to: &NewSandbox) {
        let one = Resources::of_one(&from.limits);
        self.adjust(&from.worker, u64::saturating_sub, one);
        self.adjust(&to.worker, u64::saturating_add, one);
    }

    fn is_paused(&self, worker: &WorkerId) -> bool {
        let pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.get(worker).is_some_and(|pause| Instant::now() < pause.until)
    }

    fn failed(&self, worker: &WorkerId) {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = pauses
            .entry(worker.clone())
            .or_insert_with(|| Pause { failures: 0, until: Instant::now() });
        let time = LAST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(pause.failures));
        pause.failures = pause.failures.saturating_add(1);
        pause.until = Instant::now() + time;
    }

    /// Those that are not in the registry any more have no failures.
    fn forget_all_but(&self, view: &View) {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.retain(|id, _| view.contains_key(id));
    }

    fn answered(&self, worker: &WorkerId) {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner).remove(worker);
    }

    /// Whether a row is younger than this process: then nobody who is gone works on it.
    pub(crate) fn is_of_this_life(&self, row: &Sandbox) -> bool {
        self.began.get().is_some_and(|began| *began < row.created_at)
    }

    /// The store's clock, as far as this process knows it by its own.
    pub(crate) fn clock(&self, own: Arc<dyn Clock>) -> StoreClock {
        StoreClock { own, ahead: self.ahead.clone() }
    }
}

/// What everything that is written down is timed by: this process's clock, corrected by how far the
/// store's is ahead of it.
pub(crate) struct StoreClock {
    own: Arc<dyn Clock>,
    ahead: Arc<AtomicI64>,
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        let own = self.own.now().as_micros();
        Timestamp::from_micros(own.saturating_add(self.ahead.load(Ordering::Relaxed)))
    }
}

impl Control {
    /// What a worker can hold, as far as is known.
    pub(crate) fn capacity_of(&self, worker: &WorkerId) -> Resources {
        self.0.members.view().get(worker).map(|k| k.row.beat.capacity).unwrap_or_default()
    }

    /// The workers that take something new now.
    pub(crate) fn eligible_workers(&self) -> usize {
        let now = self.now();
        let takes =
            |known: &&Known| known.row.unfit(now).is_none() && !known.row.beat.offers.is_empty();
        self.0.members.view().values().filter(takes).count()
    }

    /// All workers of the registry, as far as is known, by id.
    pub(crate) fn known_workers(&self) -> Vec<WorkerId> {
        self.0.members.view().keys().cloned().collect()
    }

    /// The workers that were lost and are heard of again since this was asked last.
    pub(crate) fn take_returned(&self) -> BTreeSet<WorkerId> {
        let mut returned = self.0.members.returned.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *returned)
    }

    /// Since when the worker was not heard of, when its lease has lapsed.
    pub(crate) fn lost_since(&self, worker: &WorkerId) -> Option<Timestamp> {
        let view = self.0.members.view();
        let row = &view.get(worker)?.row;
        (!row.is_fresh(self.now())).then_some(row.lease_until)
    }

    /// The same by the word of the store. What is known here may be older than the last heartbeat,
    /// and nothing that runs is given up for that.
    pub(crate) async fn surely_lost_since(&self, worker: &WorkerId) -> Result<Option<Timestamp>> {
        if self.lost_since(worker).is_none() {
            return Ok(None);
        }
        let row = self.store().worker(worker).await.map_err(Error::from_store)?;
        let now = self.now();
        Ok(row.filter(|row| !row.is_fresh(now)).map(|row| row.lease_until))
    }

    /// A place was taken on a worker, or given back there.
    pub(crate) fn note_place(&self, row: &Sandbox) {
        let one = Resources::of_one(&row.spec.limits);
        let how = if row.phase.is_live() { u64::saturating_add } else { u64::saturating_sub };
        self.0.members.adjust(&row.spec.worker, how, one);
    }

    /// How a call to a worker went: one that does not answer is left alone for a moment.
    pub(crate) fn note_answer(&self, worker: &WorkerId, error: Option<&ProviderError>) {
        match error {
            Some(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Timeout) => {
                self.0.members.failed(worker);
            }
            _ => self.0.members.answered(worker),
        }
    }
}
