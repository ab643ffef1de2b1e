//! Who is admitted, who waits, who is refused, and in which order.
//!
//! Everything here is a function of its arguments: no clock, no lock, no await. [`decide`] answers
//! for one request on fresh figures; [`Queue`] orders those that wait. The store calls `decide`
//! inside the transaction that reserves, so that a limit holds at every instant; the control plane
//! keeps a `Queue` and asks the store again for whoever is next.

mod decide;
mod place;
mod queue;

pub use decide::{Decision, Full, OwnerLimits, Policy, Refusal, Request, Usage, decide};
pub use place::{Candidate, Placement, Rejection, Wanted, choose, place};
pub use queue::{Blocked, Lane, Priority, Queue, Ticket, Weight};
