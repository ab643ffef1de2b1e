//! The HTTP surface over real loopback connections, with the memory store and the mock provider.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

mod access;
mod agree;
mod audit;
mod browsers;
mod files;
mod idempotency;
mod limits;
mod malformed;
mod observe;
mod openapi;
mod quotas;
mod shapes;
mod sockets;
mod streams;
mod workers;
mod world;

/// Where the sandboxes are. `tests/remote` runs the same tests with a worker at a distance.
const IS_REMOTE: bool = false;
