//! What all parts of a run share: chance, time, the trace, the truth, and what was found wrong.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use stacyvm_store::{Sandbox, Store, memory::MemoryStore};
use stacyvm_types::{SandboxId, Timestamp, entropy::Entropy};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use crate::{plant::Plant, profile::Profile, rng::Rng, trace::Trace, truth::Truth};

/// When runs begin, in microseconds since the epoch.
const EPOCH: i64 = 1_700_000_000_000_000;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The name of the invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

/// The world of one run.
#[derive(Clone)]
pub(crate) struct World(Arc<Shared>);

struct Shared {
    start: Instant,
    profile: Profile,
    plant: Option<Plant>,
    store: Arc<MemoryStore>,
    tasks: TaskTracker,
    state: Mutex<State>,
    violated: Notify,
}

pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) truth: Truth,
    trace: Trace,
    /// Whether anything may go wrong now.
    faults: bool,
    /// Between whom the network is cut, and until when.
    cuts: BTreeMap<(String, String), Duration>,
    /// Until when the store is away, and until when it fails over.
    away: Duration,
    failing_over: Duration,
    violation: Option<Violation>,
    /// How often each thing happened, for a look at what runs cover.
    counts: BTreeMap<&'static str, u64>,
}

/// What a run found.
pub(crate) struct Finding {
    pub(crate) violation: Option<Violation>,
    pub(crate) hash: u64,
    pub(crate) lines: u64,
    pub(crate) tail: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(rng: Rng, profile: Profile, plant: Option<Plant>, print: bool) -> Self {
        let state = State {
            rng,
            truth: Truth::default(),
            trace: Trace::new(print),
            faults: true,
            cuts: BTreeMap::new(),
            away: Duration::ZERO,
            failing_over: Duration::ZERO,
            violation: None,
            counts: BTreeMap::new(),
        };
        Self(Arc::new(Shared {
            start: Instant::now(),
            profile,
            plant,
            store: Arc::default(),
            tasks: TaskTracker::new(),
            state: Mutex::new(state),
            violated: Notify::new(),
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.0.profile
    }

    pub(crate) fn has(&self, plant: Plant) -> bool {
        self.0.plant == Some(plant)
    }

    /// The store itself, which no fault reaches.
    pub(crate) fn store(&self) -> &Arc<MemoryStore> {
        &self.0.store
    }

    /// Time since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// The true time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(EPOCH).saturating_add(self.elapsed())
    }

    /// A number of this run's chance.
    pub(crate) fn roll<T>(&self, roll: impl FnOnce(&mut Rng) -> T) -> T {
        roll(&mut self.state().rng)
    }

    /// Whether a fault of this chance in a thousand strikes now.
    pub(crate) fn strikes(&self, name: &'static str, chance: u64) -> bool {
        let mut state = self.state();
        let strikes = state.faults && chance != 0 && state.rng.permille(chance);
        if strikes {
            *state.counts.entry(name).or_default() += 1;
        }
        strikes
    }

    pub(crate) fn faults(&self) -> bool {
        self.state().faults
    }

    /// From now on nothing goes wrong any more.
    pub(crate) fn end_faults(&self) {
        self.state().faults = false;
        self.note("world", format_args!("faults end"));
    }

    /// Owns what belongs to no node.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Cuts the network between two for a while.
    pub(crate) fn cut(&self, one: &str, other: &str, time: Duration) {
        let until = self.elapsed() + time;
        self.state().cuts.insert(pair(one, other), until);
    }

    pub(crate) fn is_cut(&self, one: &str, other: &str) -> bool {
        let (state, now) = (self.state(), self.elapsed());
        state.faults && state.cuts.get(&pair(one, other)).is_some_and(|until| now < *until)
    }

    /// Takes the store away for a while.
    pub(crate) fn take_store_away(&self, time: Duration) {
        let until = self.elapsed() + time;
        self.state().away = until;
    }

    /// Lets the store fail over for a while: calls wait.
    pub(crate) fn fail_over(&self, time: Duration) {
        let until = self.elapsed() + time;
        self.state().failing_over = until;
    }

    pub(crate) fn is_store_away(&self) -> bool {
        let state = self.state();
        state.faults && self.elapsed() < state.away
    }

    /// How long calls to the store have to wait, if they have to.
    pub(crate) fn failing_over(&self) -> Option<Duration> {
        let state = self.state();
        let left = state.failing_over.checked_sub(self.elapsed());
        left.filter(|left| state.faults && !left.is_zero())
    }

    /// Waits for a time between none and this.
    pub(crate) async fn delay(&self, most: Duration) {
        let time = self.roll(|rng| rng.time(Duration::ZERO, most));
        sleep(time).await;
    }

    pub(crate) fn count(&self, name: &'static str) {
        *self.state().counts.entry(name).or_default() += 1;
    }

    pub(crate) fn note(&self, who: &str, what: fmt::Arguments<'_>) {
        let at = self.elapsed();
        self.state().trace.note(at, who, what);
    }

    /// Notes that a promise is broken. The first one ends the run.
    pub(crate) fn violate(&self, invariant: &'static str, detail: String) {
        self.note("world", format_args!("VIOLATION {invariant}: {detail}"));
        let mut state = self.state();
        if state.violation.is_none() {
            state.violation = Some(Violation { invariant, detail });
            self.0.violated.notify_one();
        }
    }

    pub(crate) async fn violated(&self) {
        self.0.violated.notified().await;
    }

    /// A row as it is, whatever anybody knows of it.
    pub(crate) fn row(&self, id: &SandboxId) -> Option<Sandbox> {
        self.store().sandbox(id).now_or_never().and_then(Result::ok).flatten()
    }

    pub(crate) fn finding(&self) -> Finding {
        let state = self.state();
        Finding {
            violation: state.violation.clone(),
            hash: state.trace.hash(),
            lines: state.trace.lines(),
            tail: state.trace.tail(),
            counts: state.counts.clone(),
        }
    }
}

fn pair(one: &str, other: &str) -> (String, String) {
    (one.min(other).to_owned(), one.max(other).to_owned())
}

/// A node's own chance: what one node draws changes nothing for another.
pub(crate) struct Chance(Mutex<Rng>);

impl Chance {
    pub(crate) const fn new(rng: Rng) -> Self {
        Self(Mutex::new(rng))
    }
}

impl Entropy for Chance {
    fn bits(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bits()
    }
}
