//! The host's side of the agent protocol: an [`AgentGuest`] is the inside of a sandbox whose agent
//! answers on a byte channel.
//!
//! One multiplexed session per guest, opened at first use and closed after a while without
//! streams, so that an idle sandbox costs the server a path and a mutex. Calls write to the channel
//! themselves and are woken by the session's reader.
//!
//! Everything that comes from an agent is hostile: lengths, counts, offsets, codes and texts are
//! checked and bounded, and every wait but that for a running command's output has a limit.

mod connect;
mod exec;
mod files;
mod guest;
mod reply;
mod session;
mod stream;

pub use connect::{Connector, connector, unix};
pub use guest::{AgentGuest, HelloInfo};
