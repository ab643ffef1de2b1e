//! The protocol between a host and the agent in a sandbox.
//!
//! Two layers, neither of which does I/O: [`mux`] carries many flow-controlled streams over one
//! byte channel, [`message`] is what is said inside a stream. Each stream begins with one
//! [`Request`] from the host; what follows depends on it and is written on the request.
//!
//! The host treats every byte of an agent as hostile and the agent outlives hosts, so both layers
//! promise: any violation is an error and never a panic, nothing is buffered without a bound, and
//! whatever was valid once stays valid.

pub mod message;
pub mod mux;

pub use message::{
    Bytes, Decoder, End, Entry, EntryKind, Exec, FailKind, Failure, Hello, HelloReply, Input,
    MAX_CHUNK, MAX_MESSAGE, Malformed, PROTOCOL_VERSION, Program, Reply, Request, Usage, decode,
    encode,
};
pub use mux::{Event, Role, Session, StreamId, Violation};
