//! The protocol of leases and assignment (ADR 18) as a model small enough to look at every state that
//! it can get into.
//!
//! Two workers, sandboxes, and replicas of the control plane, which have no memory but rows: whatever
//! a replica does is one step of the store or a message, so any number of them is every order of those
//! steps, and a replica that is slow, stopped or dead is a message that is late or lost. Messages wait
//! in a set: they are delivered in any order, lost, or delivered and kept, which is a duplicate.
//!
//! What a worker answers is [`stacyvm_types::Seen`], and what a row does is [`Phase::step`]: the code
//! that ships. The clocks are assumptions, written as guards of steps:
//! - A worker that counts its lease from when it sent the heartbeat sees it end no later than the store.
//! - A runtime that may be taken over ends by itself before the margin after the lapse is over.
//! - A call is under way for less than the margin, and a sandbox that is gone is remembered for longer
//!   than a call is under way.

mod search;
mod steps;

use stacyvm_types::{Cause, CauseKind, Generation, Phase, Seen, Transition};

pub use search::{Broken, Checked, check};

/// The workers.
pub(crate) const WORKERS: usize = 2;
/// The most sandboxes.
pub(crate) const SANDBOXES: usize = 2;
/// The most messages under way.
const MESSAGES: usize = 4;

/// What the protocol relies on. All hold in what ships; a test takes one away to see it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Sandboxes that share the workers.
    pub sandboxes: usize,
    /// Messages under way at once.
    pub wire: usize,
    /// Whether sandboxes may be taken over when the margin after a lapse is over.
    pub marked: bool,
    /// A worker refuses what is older than what it has seen.
    pub fenced: bool,
    /// What a worker has seen outlives it.
    pub remembered: bool,
    /// A take-over waits for the margin after the lapse.
    pub margin: bool,
    /// A marked runtime ends by itself when its worker's lease has lapsed.
    pub ends_itself: bool,
    /// A call is under way for less than the margin.
    pub bounded: bool,
    /// What a worker knows to be gone outlives it, too, for as long as a call may be under way.
    pub graves: bool,
    /// A change of the holder raises the generation.
    pub raised: bool,
    /// Asking whether a runtime is there fences what was sent before.
    pub asking_fences: bool,
}

impl Rules {
    /// The protocol as it is, for this many sandboxes.
    pub const fn of(sandboxes: usize) -> Self {
        Self {
            sandboxes,
            wire: 2,
            marked: true,
            fenced: true,
            remembered: true,
            margin: true,
            ends_itself: true,
            bounded: true,
            graves: true,
            raised: true,
            asking_fences: true,
        }
    }
}

/// One state of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) workers: [Worker; WORKERS],
    /// The first so many of [`Rules::sandboxes`]; of the others there is nothing.
    pub(crate) sandboxes: [Sandbox; SANDBOXES],
    pub(crate) wire: Wire,
}

/// The messages under way, in order, the free places last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Wire([Option<Message>; MESSAGES]);

impl Wire {
    pub(crate) fn messages(&self) -> impl Iterator<Item = Message> {
        self.0.into_iter().flatten()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages().count()
    }

    /// Puts a message under way; false when there is no place for one more.
    pub(crate) fn insert(&mut self, message: Message) -> bool {
        if self.messages().any(|other| other == message) {
            return true;
        }
        let Some(free) = self.0.iter_mut().find(|place| place.is_none()) else { return false };
        *free = Some(message);
        self.sort();
        true
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(Message) -> bool) {
        self.0 = self.0.map(|place| place.filter(|message| keep(*message)));
        self.sort();
    }

    fn sort(&mut self) {
        self.0.sort_by_key(|place| (place.is_none(), *place));
    }
}

/// How the store sees a worker's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lease {
    Held,
    Lapsed,
    /// The fence margin after the lapse is over too.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) lease: Lease,
    pub(crate) up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sandbox {
    pub(crate) row: Row,
    /// What each worker's host has of it.
    pub(crate) on: [Place; WORKERS],
    /// The newest generation whose call had an effect on a runtime.
    pub(crate) acted: u64,
    /// Whether a call had an effect after one of a newer generation.
    pub(crate) acted_late: bool,
    /// Whether a generation was given to two workers.
    pub(crate) given_twice: bool,
}

/// The phases of a row, without words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    None,
    Creating,
    Running,
    Unhealthy,
    Stopping,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) stage: Stage,
    pub(crate) holder: usize,
    pub(crate) generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Place {
    pub(crate) seen: Seen,
    /// Whether a runtime acts there.
    pub(crate) runs: bool,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Message {
    Spawn(To),
    Exec(To),
    Destroy(To),
    /// Whether the runtime is there.
    Ask(To),
    Started {
        sandbox: usize,
        generation: u64,
    },
    Present {
        sandbox: usize,
        generation: u64,
    },
    Absent {
        sandbox: usize,
        generation: u64,
    },
    Gone {
        sandbox: usize,
        generation: u64,
    },
}

/// A call to a worker about a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct To {
    pub(crate) worker: usize,
    pub(crate) sandbox: usize,
    pub(crate) generation: u64,
}

impl Message {
    /// The worker that it calls, if it is a call.
    pub(crate) const fn callee(self) -> Option<usize> {
        match self {
            Self::Spawn(to) | Self::Exec(to) | Self::Destroy(to) | Self::Ask(to) => Some(to.worker),
            Self::Started { .. }
            | Self::Present { .. }
            | Self::Absent { .. }
            | Self::Gone { .. } => None,
        }
    }
}

impl Stage {
    /// The stage after a transition, by the function that production uses.
    pub(crate) fn step(self, transition: Transition) -> Option<Self> {
        let cause = Cause::new(CauseKind::WorkerLost, "");
        let phase = match self {
            Self::None => return None,
            Self::Creating => Phase::Creating,
            Self::Running => Phase::Running,
            Self::Unhealthy => Phase::Unhealthy(cause),
            Self::Stopping => Phase::Stopping(cause),
            Self::Ended => Phase::Ended(cause),
        };
        Some(match phase.step(transition).ok()? {
            Phase::Creating => Self::Creating,
            Phase::Running | Phase::Paused => Self::Running,
            Phase::Unhealthy(_) => Self::Unhealthy,
            Phase::Stopping(_) => Self::Stopping,
            Phase::Ended(_) => Self::Ended,
        })
    }
}

impl State {
    pub(crate) fn first() -> Self {
        let worker = Worker { lease: Lease::Held, up: true };
        let row = Row { stage: Stage::None, holder: 0, generation: 0 };
        let sandbox = Sandbox {
            row,
            on: [Place::default(); WORKERS],
            acted: 0,
            acted_late: false,
            given_twice: false,
        };
        Self { workers: [worker; WORKERS], sandboxes: [sandbox; SANDBOXES], wire: Wire::default() }
    }

    /// The promise that this state breaks.
    pub(crate) fn broken(&self) -> Option<&'static str> {
        for sandbox in &self.sandboxes {
            if 1 < sandbox.on.iter().filter(|place| place.runs).count() {
                return Some("one_runtime_per_sandbox");
            }
            if sandbox.acted_late {
                return Some("a_fenced_call_has_no_effect");
            }
            if sandbox.given_twice {
                return Some("a_generation_is_given_once");
            }
        }
        None
    }
}

impl Sandbox {
    /// Gives the sandbox to a worker under the next generation.
    pub(crate) fn give(&mut self, worker: usize, raise: bool) {
        if raise || self.row.generation == 0 {
            self.row.generation += 1;
        } else {
            self.given_twice |= self.row.holder != worker;
        }
        self.row.holder = worker;
    }

    /// A call had an effect.
    pub(crate) fn act(&mut self, generation: u64) {
        self.acted_late |= generation < self.acted;
        self.acted = self.acted.max(generation);
    }
}

pub(crate) const fn generation(number: u64) -> Generation {
    Generation(number)
}
