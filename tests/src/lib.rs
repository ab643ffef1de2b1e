//! Starts real `stacyvm` servers and workers for end-to-end tests and talks plain HTTP to them.
//!
//! Servers listen on loopback, on a port that the kernel picks, over a data directory of their
//! own, and are ended by their process id when the test drops them.

pub mod collector;
pub mod counter;
pub mod host;
pub mod http;
pub mod image;
pub mod python;
pub mod relay;
pub mod server;
pub mod worker;

pub use counter::Counter;
pub use http::Reply;
pub use relay::Relay;
pub use server::{Options, Server};
pub use worker::Worker;
