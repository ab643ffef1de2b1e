//! The real control plane and the real workers, in one process and on one thread, over a simulated
//! clock, store, provider and network, in which everything goes wrong that a seed decides.
//!
//! A seed is a run, exactly: the runtime has one thread and paused time, every wait is a timer of it,
//! and all chance is drawn from the seed. [`run`] makes one, and the invariants in [`mod@invariants`]
//! judge it, at each step and at its end, by what is true and not by what any node believes.

mod chaos;
mod clients;
mod invariants;
mod ledger;
mod link;
pub mod model;
mod node;
mod plant;
mod profile;
mod provider;
mod rng;
mod run;
mod server;
mod store;
mod trace;
mod truth;
mod varied;
mod world;

pub use plant::Plant;
pub use run::{Plan, Report, run};
pub use world::Violation;
