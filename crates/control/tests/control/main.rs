//! The use cases over the in-memory store, the real worker and a provider that misbehaves on
//! demand.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod admission;
mod audit;
mod cluster;
mod commands;
mod confined;
mod fair;
mod fake;
mod gate;
mod heard;
mod hints;
mod idempotency;
mod images;
mod observe;
mod random;
mod recovery;
mod spawn;
mod time;
mod world;
