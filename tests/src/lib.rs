//! Starts real `stacyvm` servers for end-to-end tests and talks plain HTTP to them.
//!
//! Servers listen on loopback, on a port that the kernel picks, over a data directory of their
//! own, and are ended by their process id when the test drops them.

pub mod host;
pub mod http;
pub mod python;
pub mod server;

pub use http::Reply;
pub use server::{Options, Server};
