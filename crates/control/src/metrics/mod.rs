//! What operators see: counts and times of what callers asked for, and the state of the parts.
//!
//! Nothing here names an owner, and recording never waits for whoever reads. Whoever reads waits
//! for nothing slow: looks that take a while are shared and their last answer is kept.

mod health;
mod looked;
mod operations;
mod overview;
mod redact;
mod status;

pub use operations::{LastError, OperationMetrics, OperationTally};
pub use overview::{EventCounts, Overview, WorkerReport};
pub use status::SchedulerStatus;

pub(crate) use health::ProviderHealth;
pub(crate) use looked::Looked;
pub(crate) use overview::Owned;
pub(crate) use status::Waits;
