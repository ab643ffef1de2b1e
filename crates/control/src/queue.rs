//! Spawns that wait for a place.
//!
//! The order is [`stacyvm_admission::Queue`]'s. Who is next is asked of the store again, which
//! decides on fresh rows; nothing here counts places. One job asks, one waiter at a time, so that
//! nobody is overtaken by a race. What is known to be full is not asked about until something says
//! that it may have changed: an end, a quota, other limits, or a second that has passed, because
//! another process may have made room.
//!
//! Every waiter gets exactly one answer. One that leaves while the store is being asked about it
//! learns what the store said: nothing is admitted for nobody.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_admission::{
    self as admission, Blocked, Full, Lane, Priority, Refusal, Ticket, Weight,
};
use stacyvm_store::{self as store, Durability, NewSandbox, Sandbox};
use stacyvm_types::Resources;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Control, Error, Result,
    jobs::{Job, Progress, Wake},
    metrics::Waits,
};

/// How much of a new figure the running mean takes over.
const RECENT: f64 = 0.2;

/// A spawn whose every field is decided, except when its life begins.
#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    pub(crate) new: NewSandbox,
    pub(crate) ttl: Duration,
    pub(crate) priority: Priority,
}

/// What a waiter hears: what the store said about it, if that was asked.
pub(crate) type Answer = std::result::Result<store::Result<Sandbox>, GaveWay>;

/// As many waited as may, and it made room for an owner of whom fewer did.
pub(crate) struct GaveWay {
    /// How many may wait.
    pub(crate) places: usize,
}

#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Whether the store refused the last that asked.
    tight: AtomicBool,
    pub(crate) wake: Wake,
    pub(crate) waits: Waits,
}

#[derive(Default)]
struct State {
    order: admission::Queue,
    waiters: HashMap<Ticket, Waiter>,
    tickets: u64,
    counts: QueueCounts,
    turns: Turns,
    /// How often places became free, or limits changed.
    changes: u64,
}

struct Waiter {
    reservation: Reservation,
    answer: oneshot::Sender<Answer>,
    /// The store is being asked; how many changes there were before.
    asked: Option<u64>,
    /// It wants its answer now, whatever it is.
    leaving: bool,
}

/// What became of those that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueCounts {
    /// Spawns that had to wait.
    pub queued: u64,
    /// Of these, those that were admitted.
    pub admitted: u64,
    /// Of these, those that waited as long as they may, or gave way to an owner of whom fewer waited.
    pub timed_out: u64,
    /// Of these, those whose caller went away.
    pub cancelled: u64,
}

/// How long it takes until somebody in the queue is admitted.
#[derive(Debug, Default)]
struct Turns {
    last: Option<Instant>,
    mean: Option<Duration>,
}

/// Where a newcomer would stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlook {
    /// Its position: 1 is next.
    pub position: u64,
    /// How long it would wait, if places went on becoming free as they did lately. `None` while
    /// nobody has waited.
    pub wait: Option<Duration>,
}

/// A waiter's hold on its answer.
pub(crate) struct Waiting {
    pub(crate) ticket: Ticket,
    pub(crate) answer: oneshot::Receiver<Answer>,
    /// How many wait, with this one.
    pub(crate) depth: usize,
}

impl Turns {
    fn took(&mut self, others_wait: bool) {
        let now = Instant::now();
        if let Some(last) = self.last {
            let took = now - last;
            self.mean = Some(match self.mean {
                Some(mean) => mean.mul_f64(1.0 - RECENT) + took.mul_f64(RECENT),
                None => took,
            });
        }
        // An empty queue waits for spawns, which says nothing about places.
        self.last = others_wait.then_some(now);
    }
}

impl Queue {
    /// Nothing in here can panic between two changes that belong together.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the store refused the last that asked.
    pub(crate) fn tight(&self, refused: bool) {
        self.tight.store(refused, Ordering::Relaxed);
    }

    /// Whether the next that asks is likely to be admitted at once.
    pub(crate) fn is_roomy(&self) -> bool {
        !self.tight.load(Ordering::Relaxed) && self.len() == 0
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.state().order.len()
    }

    /// What became of those that waited.
    pub(crate) fn counts(&self) -> QueueCounts {
        self.state().counts
    }

    /// Whether somebody of this lane may ask for a place now: nobody who waits is overtaken.
    pub(crate) fn is_open_to(&self, lane: &Lane) -> bool {
        self.state().order.is_open_to(lane)
    }

    /// Whether somebody waits whom a newcomer of this lane would overtake.
    pub(crate) fn stands_before(&self, lane: &Lane) -> bool {
        let order = &self.state().order;
        !order.is_empty() && !order.is_open_to(lane)
    }

    /// Whether somebody of this lane may join.
    pub(crate) fn has_room(&self, lane: &Lane, weight: Weight, room: usize) -> bool {
        let state = self.state();
        state.order.len() < room || state.order.gives_way(lane, weight).is_some()
    }

    /// Joins the queue, if there is room for one more, or somebody makes room.
    pub(crate) fn join(
        &self,
        reservation: Reservation,
        weight: Weight,
        room: usize,
    ) -> Option<Waiting> {
        let mut state = self.state();
        if room <= state.order.len() {
            state.make_room(&reservation.new.owner, weight, room)?;
        }
        state.tickets += 1;
        let ticket = Ticket(state.tickets);
        let (lane, priority) = (reservation.new.owner.clone(), reservation.priority);
        state.order.join(ticket, lane, weight, priority);
        let (answer, told) = oneshot::channel();
        let waiter = Waiter { reservation, answer, asked: None, leaving: false };
        state.waiters.insert(ticket, waiter);
        state.counts.queued += 1;
        state.turns.last.get_or_insert_with(Instant::now);
        let depth = state.order.len();
        drop(state);
        // Its place may have become free between the store's answer and now.
        self.wake.wake();
        Some(Waiting { ticket, answer: told, depth })
    }

    /// Leaves the queue. When the store is being asked, its answer still comes, at once.
    pub(crate) fn leave(&self, ticket: Ticket) {
        let mut state = self.state();
        match state.waiters.get_mut(&ticket) {
            Some(waiter) if waiter.asked.is_some() => waiter.leaving = true,
            Some(_) => {
                state.waiters.remove(&ticket);
                state.order.leave(ticket);
            }
            None => {}
        }
    }

    /// Counts a waiter that left without a place.
    pub(crate) fn note_left(&self, timed_out: bool) {
        let counts = &mut self.state().counts;
        *(if timed_out { &mut counts.timed_out } else { &mut counts.cancelled }) += 1;
    }

    /// A sandbox of this lane has given its place back.
    pub(crate) fn freed(&self, lane: &Lane) {
        let mut state = self.state();
        if !state.order.is_empty() {
            state.order.freed(lane);
            state.changes += 1;
            drop(state);
            self.wake.wake();
        }
    }

    /// Somebody on another server gave a place back, or changed a limit.
    pub(crate) fn freed_elsewhere(&self) {
        if 0 < self.len() {
            self.limits_changed();
        }
    }

    /// What was known about places holds no more.
    pub(crate) fn limits_changed(&self) {
        let mut state = self.state();
        state.order.unblock_all();
        state.changes += 1;
        drop(state);
        self.wake.wake();
    }

    /// Where a newcomer of this lane would stand.
    pub(crate) fn outlook(&self, lane: &Lane, weight: Weight, priority: Priority) -> Outlook {
        let state = self.state();
        let (order, mean) = (state.order.clone(), state.turns.mean);
        drop(state);
        let position = order.ahead_of(lane, weight, priority) as u64 + 1;
        let times = u32::try_from(position).unwrap_or(u32::MAX);
        Outlook { position, wait: mean.map(|mean| mean.saturating_mul(times)) }
    }

    /// Takes the next in line to ask the store about it.
    fn ask(&self) -> Option<(Asked<'_>, Reservation)> {
        let mut state = self.state();
        let ticket = state.order.next()?;
        let changes = state.changes;
        let waiter = state.waiters.get_mut(&ticket)?;
        waiter.asked = Some(changes);
        Some((Asked { queue: self, ticket: Some(ticket) }, waiter.reservation.clone()))
    }

    /// Takes the store's answer.
    fn answered(&self, ticket: Ticket, answer: store::Result<Sandbox>) {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Err(store::Error::Full(full)) = &answer
            && let Some(waiter) = state.waiters.get_mut(&ticket)
        {
            let what = match full {
                Full::Owner { .. } => Blocked::Lane,
                Full::Total { .. } | Full::Worker { .. } => Blocked::All,
            };
            // What became free after the store had looked must not be taken for taken.
            if waiter.asked.take() == Some(state.changes) {
                state.order.block(ticket, what);
            }
            if !waiter.leaving {
                return;
            }
        }
        let Some(waiter) = state.waiters.remove(&ticket) else { return };
        if answer.is_ok() {
            state.order.admitted(ticket);
            state.counts.admitted += 1;
            let others_wait = !state.order.is_empty();
            state.turns.took(others_wait);
        } else {
            state.order.leave(ticket);
        }
        drop(guard);
        // A waiter awaits its answer until it has it.
        drop(waiter.answer.send(Ok(answer)));
    }
}

impl State {
    /// Makes one who waits give way to a newcomer of this lane; `None` when nobody has to.
    fn make_room(&mut self, lane: &Lane, weight: Weight, places: usize) -> Option<()> {
        let ticket = self.order.gives_way(lane, weight)?;
        let Entry::Occupied(waiter) = self.waiters.entry(ticket) else { return None };
        if waiter.get().asked.is_some() {
            // It may have its place by now.
            return None;
        }
        self.order.leave(ticket);
        drop(waiter.remove().answer.send(Err(GaveWay { places })));
        Some(())
    }
}

/// The store is being asked about a waiter. When that is given up half-way, the waiter hears that
/// the answer is not known.
struct Asked<'q> {
    queue: &'q Queue,
    ticket: Option<Ticket>,
}

impl Asked<'_> {
    fn answered(mut self, answer: store::Result<Sandbox>) {
        if let Some(ticket) = self.ticket.take() {
            self.queue.answered(ticket, answer);
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let why = "the queue stopped before the store had answered";
            self.queue.answered(ticket, Err(store::Error::Unavailable(why.into())));
        }
    }
}

impl Control {
    /// What became of those that waited for a place.
    pub fn queue_counts(&self) -> QueueCounts {
        self.0.queue.counts()
    }

    /// Asks the store for a place now.
    pub(crate) async fn admit_now(&self, reservation: Reservation) -> store::Result<Sandbox> {
        let Reservation { mut new, ttl, .. } = reservation;
        let now = self.now();
        // A life begins with the place and not with the wait for it.
        new.expires_at = now.saturating_add(ttl);
        let rules = self.rules();
        let (mut refused, mut last) = (BTreeSet::new(), None);
        let mut looked = false;
        loop {
            let Some(worker) = self.choose(&new, &refused) else {
                if looked {
                    let takes = Resources::of_one(&new.limits);
                    if !self.may_be_held(&new.provider, &takes) {
                        return Err(store::Error::NotAllowed(Refusal::Size { takes }));
                    }
                    let max = Resources::default();
                    return Err(last.unwrap_or(store::Error::Full(Full::Worker { max })));
                }
                // What is known may be a second old, and is nothing before the first look.
                looked = true;
                self.look_again().await?;
                continue;
            };
            new.worker = worker.clone();
            // The kernel's word is enough to launch on: whoever loses it loses the runtime too.
            let durability = Durability::Kernel;
            match self.store().admit(&rules.policy, new.clone(), durability, now).await {
                Err(error @ (store::Error::Full(Full::Worker { .. }) | store::Error::Unfit(_))) => {
                    refused.insert(worker);
                    last = Some(error);
                }
                Ok(row) => {
                    self.note_place(&row);
                    return Ok(row);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The job that asks for those that wait.
pub(crate) struct Turnstile {
    control: Control,
    looked: Option<Instant>,
}

impl Turnstile {
    pub(crate) const fn new(control: Control) -> Self {
        Self { control, looked: None }
    }
}

#[async_trait]
impl Job for Turnstile {
    const NAME: &'static str = "queue";
    /// How soon a place is found that another process freed.
    const PERIOD: Duration = Duration::from_secs(1);
    const GAP: Duration = Duration::ZERO;

    async fn run_once(&mut self) -> Result<Progress> {
        let queue = &self.control.0.queue;
        if self.looked.is_none_or(|looked| Self::PERIOD.mul_f64(0.8) <= looked.elapsed()) {
            self.looked = Some(Instant::now());
            queue.state().order.unblock_all();
        }
        let mut done = 0;
        while let Some((asked, reservation)) = queue.ask() {
            let answer = self.control.admit_now(reservation).await;
            let failed = match &answer {
                Err(store::Error::Unavailable(_) | store::Error::DiskFull) => true,
                Ok(_) => {
                    done += 1;
                    false
                }
                Err(_) => false,
            };
            asked.answered(answer);
            if failed {
                // The others keep their places: the store may be back before their time is over.
                return Err(Error::unavailable("the store does not answer; spawns wait for it"));
            }
        }
        Ok(Progress { done, next: None })
    }
}
