//! The built binary against a server with the mock provider.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

mod access;
mod commands;
mod config;
mod db;
mod golden;
mod mock;
mod serving;
mod worker_token;
mod world;
