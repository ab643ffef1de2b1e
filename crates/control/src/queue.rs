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
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_admission::{self as admission, Blocked, Full, Lane, Priority, Ticket, Weight};
use stacyvm_store::{self as store, Durability, NewSandbox, Sandbox};
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

/// The store's answer about a waiter.
type Answer = store::Result<Sandbox>;

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
}

struct Waiter {
    reservation: Reservation,
    answer: oneshot::Sender<Answer>,
    /// The store is being asked.
    asked: bool,
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
    /// Of these, those that waited as long as they may.
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

    /// Joins the queue, if there is room for one more.
    pub(crate) fn join(
        &self,
        reservation: Reservation,
        weight: Weight,
        room: usize,
    ) -> Option<Waiting> {
        let mut state = self.state();
        if room <= state.order.len() {
            return None;
        }
        state.tickets += 1;
        let ticket = Ticket(state.tickets);
        let (lane, priority) = (reservation.new.owner.clone(), reservation.priority);
        state.order.join(ticket, lane, weight, priority);
        let (answer, told) = oneshot::channel();
        let waiter = Waiter { reservation, answer, asked: false, leaving: false };
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
            Some(waiter) if waiter.asked => waiter.leaving = true,
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
            drop(state);
            self.wake.wake();
        }
    }

    /// What was known about places holds no more.
    pub(crate) fn limits_changed(&self) {
        self.state().order.unblock_all();
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
    fn ask(&self) -> Option<(Ticket, Reservation)> {
        let mut state = self.state();
        let ticket = state.order.next()?;
        let waiter = state.waiters.get_mut(&ticket)?;
        waiter.asked = true;
        Some((ticket, waiter.reservation.clone()))
    }

    /// Takes the store's answer.
    fn answered(&self, ticket: Ticket, answer: Answer) {
        let mut state = self.state();
        if let Err(store::Error::Full(full)) = &answer {
            let what = match full {
                Full::Owner { .. } => Blocked::Lane,
                Full::Total { .. } | Full::Worker { .. } => Blocked::All,
            };
            state.order.block(ticket, what);
            if let Some(waiter) = state.waiters.get_mut(&ticket)
                && !waiter.leaving
            {
                waiter.asked = false;
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
        drop(state);
        // A waiter awaits its answer until it has it.
        drop(waiter.answer.send(answer));
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
        let lease_until = new.expires_at.saturating_add(self.settings().lease_grace);
        let rules = self.rules();
        // The kernel's word is enough to launch on: whoever loses it loses the runtime too.
        let durability = Durability::Kernel;
        self.store().admit(&rules.policy, new, lease_until, durability, now).await
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
        while let Some((ticket, reservation)) = queue.ask() {
            let answer = self.control.admit_now(reservation).await;
            let failed = match &answer {
                Err(store::Error::Unavailable(_) | store::Error::DiskFull) => true,
                Ok(_) => {
                    done += 1;
                    false
                }
                Err(_) => false,
            };
            queue.answered(ticket, answer);
            if failed {
                // The others keep their places: the store may be back before their time is over.
                return Err(Error::unavailable("the store does not answer; spawns wait for it"));
            }
        }
        Ok(Progress { done, next: None })
    }
}
