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
