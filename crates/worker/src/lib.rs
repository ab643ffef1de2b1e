//! A worker: the providers of one host, and the memory of who may command which runtime.
//!
//! Promises:
//! - No call waits without a limit, whatever a provider does: each is bounded in time and, per
//!   provider and kind of work, in number. One provider that hangs slows no other.
//! - A call that carries an older generation than one already seen for the same sandbox is refused
//!   and changes nothing, also after the worker was killed and started again.

mod bounded;
mod guest;
mod idle;
mod journal;
mod ledger;
mod local;

pub use journal::OpenError;
pub use ledger::Ledger;
pub use local::LocalWorker;
