//! Leases: who may change a runtime, until when, and with which generation.

use std::time::Duration;

use crate::{Timestamp, WorkerId};

/// Rises on every acquire, stays on renew, survives release, and is never used twice for one
/// sandbox. A worker refuses a call whose generation is lower than the highest it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// The right to change one sandbox's runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The worker that holds it.
    pub holder: WorkerId,
    /// Its fencing token.
    pub generation: Generation,
    /// When it lapses, by the store's clock: with its holder's registration. One that holds without
    /// end lapses at [`Timestamp::MAX`].
    pub expires_at: Timestamp,
}

impl Lease {
    /// Whether nobody else may take it at this instant: it holds, or lapsed less than `fence` ago.
    pub fn holds(&self, fence: Duration, now: Timestamp) -> bool {
        now < self.expires_at.saturating_add(fence) || self.expires_at == Timestamp::MAX
    }
}

/// What a worker remembers of one sandbox: the highest generations that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seen {
    /// While the sandbox lived there.
    pub live: Option<Generation>,
    /// When it was gone; forgotten after a while.
    pub gone: Option<Generation>,
}

/// What a worker makes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A newer owner exists: it changes nothing.
    Stale,
    /// It would bring back what is gone: it changes nothing.
    Ended,
    /// It is the owner that is known.
    Known,
    /// It is a newer owner, which is to be remembered before the call goes on.
    Newer,
}

impl Seen {
    /// The highest generation of all.
    pub fn highest(self) -> Option<Generation> {
        self.live.max(self.gone)
    }

    /// Judges a call that reaches a runtime or ends it.
    pub fn judge(self, call: Generation) -> Verdict {
        match self.highest() {
            Some(seen) if call < seen => Verdict::Stale,
            Some(seen) if call == seen => Verdict::Known,
            _ => Verdict::Newer,
        }
    }

    /// Judges a launch, which may come late or twice.
    pub fn judge_launch(self, call: Generation) -> Verdict {
        match self.gone {
            Some(gone) if call <= gone => Verdict::Ended,
            _ => self.judge(call),
        }
    }
}
