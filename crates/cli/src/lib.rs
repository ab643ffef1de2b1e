//! The commands that only talk to a server. No HTTP here: that is the client's.
//!
//! What is asked for goes to standard output, words about it to standard error. `--output json`
//! writes exactly what the API answered. Nothing that a sandbox chose (names, metadata, messages)
//! reaches the terminal with control characters in it, except through the commands whose purpose
//! is to show a sandbox's bytes: `exec`, `run`, `logs`, `files cat` and `cp … -`. Exit codes are
//! those of `docs/cli.md`.

pub mod args;
mod commands;
pub mod escape;
pub mod exit;
pub mod keys;
mod output;
mod produce;
mod progress;
pub mod session;
pub mod terminal;

use stacyvm_client::{Client, Settings};

pub use args::{Command, CommandArgs, Format, Global};
pub use commands::images::{ImagePlace, Told};
pub use exit::{ExitStatus, Failure};
pub use output::{Rows, print_json, print_rows, print_text, say};
pub use stacyvm_client::{Chunk, Frame, OutputStream, SessionInput, Upload};

use output::Output;

/// Runs one command against the server; failures are told on standard error.
pub async fn run(global: &Global, command: Command) -> ExitStatus {
    finish(commands::run(global, command).await)
}

/// Runs a command about images that are elsewhere than at a server.
pub async fn images(
    global: &Global,
    place: &impl ImagePlace,
    command: args::ImageCommand,
) -> Result<ExitStatus, Failure> {
    let out = Output::new(global.output);
    commands::images::run_at(out, place, command).await.map(|()| ExitStatus::OK)
}

/// Tells a failure to the user, if it has something to say, and gives the exit status.
pub fn finish(result: Result<ExitStatus, Failure>) -> ExitStatus {
    match result {
        Ok(status) => status,
        Err(failure) => {
            if !failure.message.is_empty() {
                say(&format!("stacyvm: {}", failure.message));
            }
            failure.status
        }
    }
}

/// What every command needs.
struct Context {
    client: Client,
    out: Output,
}

impl Context {
    fn new(global: &Global) -> Result<Self, Failure> {
        let mut settings = Settings::new(global.server.clone());
        settings.api_key = global.key()?;
        Ok(Self { client: Client::new(settings)?, out: Output::new(global.output) })
    }
}
