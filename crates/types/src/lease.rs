//! Leases: who may change a runtime, until when, and with which generation.

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
    /// When it lapses, by the store's clock.
    pub expires_at: Timestamp,
}
