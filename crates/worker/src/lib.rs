//! A worker: the providers of one host, and the memory of who may command which runtime.
//!
//! Promises:
//! - No call waits without a limit, whatever a provider does: each is bounded in time and, per
//!   provider and kind of work, in number. One provider that hangs slows no other.
//! - A call that carries an older generation than one already seen for the same sandbox is refused
//!   and changes nothing, also after the worker was killed and started again.
//! - A runtime ends soon after its time to live, whether or not the control plane is there, also
//!   after the worker was killed and started again: see [`LocalWorker::keep_time`].

mod bounded;
mod deadlines;
mod guest;
pub mod heartbeat;
mod journal;
mod ledger;
mod local;
pub mod rpc;
mod turns;

pub use journal::OpenError;
pub use ledger::{Ledger, Ledgers};
pub use local::LocalWorker;
