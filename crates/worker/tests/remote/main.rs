//! The contract suite through both transports, and what only a transport can get wrong.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod broken;
mod contract;
mod raw;
mod tls;
mod world;
