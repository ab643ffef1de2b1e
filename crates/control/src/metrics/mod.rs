//! What operators see: counts and times of what callers asked for, and the state of the parts.
//!
//! Nothing here names an owner, and recording never waits for whoever reads.

mod operations;
mod redact;

pub use operations::{OperationMetrics, OperationTally};
