//! The Rust client of StacyVM's REST API.
//!
//! One method per route, typed by `stacyvm-api-types`. Plain HTTP/1.1 with connections that are
//! kept and used again. What it promises:
//!
//! - Connecting and waiting for the first byte of an answer are limited; streams are not.
//! - A request is repeated only when repeating is harmless: it was never sent, or its method is
//!   idempotent; at most three tries in all.
//! - Errors say what the server said ([`Error::Api`]: code, status, message, request id) or which
//!   step failed without it, and whether trying again can help.
//! - A command's output survives broken connections: [`ExecStream`] and [`Session`] reattach by
//!   byte offset, so that nothing is lost or doubled.

mod answer;
mod error;
mod events;
mod exec;
mod files;
mod frames;
mod images;
mod keys;
mod lines;
mod sandboxes;
mod server;
mod session;
mod system;
mod templates;
mod transport;
mod upload;
mod workers;

pub use answer::Answer;
pub use error::{ApiFailure, Error, Result};
pub use events::{EventStream, EventsFrom};
pub use exec::ExecStream;
pub use files::Download;
pub use frames::{Chunk, Frame, OutputStream};
pub use sandboxes::Show;
pub use server::{InvalidServer, Server};
pub use session::{Session, SessionInput};
pub use transport::{Client, Settings};
pub use upload::Upload;
