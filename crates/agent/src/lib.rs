//! The first process of a sandbox: it runs commands, keeps their output, and touches files.
//!
//! One single-threaded loop over epoll. It trusts neither side: a caller may vanish at any byte,
//! and everything else in the sandbox is hostile to it. It never waits for a peer, buffers nothing
//! without a bound ([`limits`]), starts no thread, and holds no memory for connections that are
//! closed.
//!
//! Two launches: [`run`], which the native spawner's child enters after a fork without exec, and
//! the program of the same name for containers and virtual machines.

mod agent;
mod connection;
mod console;
mod dial;
mod env;
mod exec;
mod fail;
mod files;
mod journal;
pub mod limits;
mod poll;
mod procfs;
mod requests;
mod start;
mod started;
mod stdio;
mod stream;
mod text;
mod tree;
mod users;

use std::{os::fd::OwnedFd, time::Duration};

/// What the agent is told by whoever launches it.
#[derive(Default)]
pub struct Setup {
    /// Laid over the built-in default environment of every command.
    pub env: Vec<(String, String)>,
    /// Where commands and relative patterns start; `/workspace` when empty.
    pub workspace: String,
    /// A descriptor of the root of a procfs instance of this pid namespace, best one that is mounted
    /// nowhere and hides nothing. `None` opens `/proc`.
    pub proc: Option<OwnedFd>,
    /// How long a command whose journal is full waits for a reader after the last one vanished;
    /// [`limits::READER_GRACE`] when `None`.
    pub reader_grace: Option<Duration>,
}

/// Serves connections on a listening, bound unix socket until the process is killed.
///
/// To be called when isolation is complete: as pid 1 of a pid namespace, with the sandbox's root as
/// its own, from a process with a single thread. Standard streams should be open on `/dev/null`.
pub fn run(listener: OwnedFd, setup: Setup) -> ! {
    agent::serve(agent::Channel::Listener(listener), setup)
}

/// Serves the one connection that `channel` is, such as a virtio port. Ends when it ends.
pub fn serve_channel(channel: OwnedFd, setup: Setup) -> ! {
    agent::serve(agent::Channel::Single(channel), setup)
}
