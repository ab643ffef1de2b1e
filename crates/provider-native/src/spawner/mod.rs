//! The process that starts sandboxes, and the server's side of it.
//!
//! A server with many threads must not fork, and a sandbox must inherit nothing of the server's. So
//! the server starts this same program once more, with an empty environment and one socket, before
//! it makes threads; that process starts first processes of sandboxes and keeps nothing.

mod client;
mod network;
mod process;
pub(crate) mod protocol;

pub use client::Spawner;

const ARGUMENT: &str = "__spawner";

/// Becomes the spawner when this process was started as one. The first line of `main`.
///
/// Never returns in that case: the process ends when the server's end of the socket closes.
pub fn run_if_requested() {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != ARGUMENT) {
        return;
    }
    let status = match process::run() {
        Ok(()) => 0,
        Err(error) => {
            let _ = rustix::io::write(
                rustix::stdio::stderr(),
                format!("spawner: {error}\n").as_bytes(),
            );
            1
        }
    };
    std::process::exit(status);
}
