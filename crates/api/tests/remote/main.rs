//! The tests of `tests/http`, with every sandbox on a worker that the server calls over loopback.
//! Left out are two files in which no sandbox is reached: `openapi`, the document, and `workers`,
//! the registry, whose workers the tests make up beside the server's own.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

#[path = "../http/access.rs"]
mod access;
#[path = "../http/agree.rs"]
mod agree;
mod alike;
#[path = "../http/audit.rs"]
mod audit;
#[path = "../http/browsers.rs"]
mod browsers;
#[path = "../http/files.rs"]
mod files;
#[path = "../http/idempotency.rs"]
mod idempotency;
#[path = "../http/limits.rs"]
mod limits;
#[path = "../http/malformed.rs"]
mod malformed;
#[path = "../http/observe.rs"]
mod observe;
#[path = "../http/quotas.rs"]
mod quotas;
#[path = "../http/shapes.rs"]
mod shapes;
#[path = "../http/sockets.rs"]
mod sockets;
#[path = "../http/streams.rs"]
mod streams;
#[path = "../http/world.rs"]
mod world;

const IS_REMOTE: bool = true;
