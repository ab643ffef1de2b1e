//! The words of the system: ids, times, durations, sandbox phases and their transitions, limits,
//! leases, workers, events and causes.
//!
//! Nothing here does I/O, reads a clock or rolls a die, except [`time::SystemClock`] and
//! [`entropy::SystemEntropy`]: time and randomness arrive as arguments.
//! Domain types do not derive serde; the wire, row and config types that do convert to and from
//! these.

pub mod access;
pub mod entropy;
pub mod event;
pub mod go_duration;
pub mod histogram;
pub mod id;
pub mod image;
pub mod lease;
pub mod limits;
pub mod network;
pub mod operation;
pub mod phase;
pub mod time;
pub mod worker;

pub use access::Role;
pub use event::{Event, EventKind};
pub use go_duration::{format_duration, parse_duration};
pub use histogram::{Histogram, Tally};
pub use id::{AuditId, ExecId, InvalidId, KeyId, OwnerId, SandboxId, WorkerId};
pub use image::{full_image_name, is_image_name};
pub use lease::{Generation, Lease, Seen, Verdict};
pub use limits::Limits;
pub use network::Network;
pub use operation::Operation;
pub use phase::{Cause, CauseKind, Phase, Transition};
pub use time::Timestamp;
pub use worker::{Beat, Offer, Resources, Unfit};
