//! Hints that something was changed by another server on the same database.

use tokio::sync::watch;

/// Each changes when there may be something new: a reason to look, nothing more. Some come without
/// one, several may come as one, and those that come while the database is away are made up for by
/// one when it is back. Whoever relies on seeing everything looks from time to time without a hint.
#[derive(Debug, Clone)]
pub struct Hints {
    /// Events were appended.
    pub events: watch::Receiver<u64>,
    /// A sandbox gave its place back, or a limit changed.
    pub places: watch::Receiver<u64>,
}
