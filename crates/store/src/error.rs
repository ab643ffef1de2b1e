//! What a caller of the store can do about a failure.

use std::error::Error as StdError;

/// The result of a store method.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed store method. All but [`Error::Unavailable`] are determinate: nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The row is not there.
    #[error("not found")]
    NotFound,
    /// All places are taken that a limit allows.
    #[error("{0}")]
    Full(stacyvm_admission::Full),
    /// A limit refuses it, whatever becomes free.
    #[error("{0}")]
    NotAllowed(stacyvm_admission::Refusal),
    /// Its worker takes it not, whatever becomes free there.
    #[error("the worker cannot take it: {0}")]
    Unfit(stacyvm_types::Unfit),
    /// A row with this key is there already.
    #[error("it exists already")]
    Conflict,
    /// The sandbox's phase refuses the transition.
    #[error(transparent)]
    Refused(stacyvm_types::phase::Refused),
    /// The sandbox's phase or deadline does not allow the change; here is the row.
    #[error("the sandbox is in a state that does not allow this")]
    WrongPhase(Box<crate::Sandbox>),
    /// A newer generation exists.
    #[error("a newer generation exists")]
    Fenced,
    /// Another worker holds the lease.
    #[error("the lease is held by another worker")]
    LeaseHeld,
    /// The caller does not hold the lease.
    #[error("the lease is not held")]
    LeaseLost,
    /// The disk under the store is full.
    #[error("the store's disk is full")]
    DiskFull,
    /// The store does not answer; whether the change happened is not known.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
}
