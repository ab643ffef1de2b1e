//! How runtimes are launched ([`Provider`]) and what can be done inside one ([`Guest`]).
//!
//! A provider launches, lists and destroys; everything inside a sandbox is a guest's. Each promise
//! written on the traits has a case in the conformance suite (`suite`), chosen by declared
//! [`Capabilities`].

pub mod capabilities;
pub mod error;
pub mod exec;
pub mod failpoint;
pub mod file;
pub mod guest;
pub mod images;
pub mod launch;
pub mod mock;
#[cfg(feature = "suite")]
#[expect(clippy::unwrap_used, reason = "a case that panics is a case that fails")]
pub mod suite;

pub use capabilities::{Capabilities, Probe};
pub use error::{Error, ErrorKind, Outcome, Result};
pub use exec::{Exec, ExecEvent, ExecInput, ExecSpec, Exit, Output, Program, Size, Stdin};
pub use file::{ByteStream, FileInfo, FileKind, FileRead, WriteOptions};
pub use guest::{Duplex, Guest, Stats};
pub use images::{ImageRecord, Images};
pub use launch::{LaunchSpec, Provider, Runtime, RuntimeState};
