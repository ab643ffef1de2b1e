//! The built binary: its commands against a server with the mock provider, and, as root, against
//! the native one.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

mod commands;
mod golden;
mod isolated;
mod serving;
mod world;
