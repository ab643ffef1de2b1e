//! The agent as a program, for containers and virtual machines.
//!
//! `stacyvm-agent --listen PATH` serves a unix socket, `stacyvm-agent --stdio` the one byte channel
//! at descriptor 0.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::ExitCode,
};

use stacyvm_agent::Setup;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let setup = Setup::default();
    match arguments.as_slice() {
        [flag, path] if flag == "--listen" => match listen(path.as_ref()) {
            Ok(listener) => stacyvm_agent::run(listener, setup),
            Err(error) => fail(&format!("cannot listen on {}: {error}", path.display())),
        },
        [flag] if flag == "--stdio" => match stacyvm_hostkit::process::take_stdin() {
            Ok(channel) => stacyvm_agent::serve_channel(channel, setup),
            Err(error) => fail(&format!("descriptor 0 is not open: {error}")),
        },
        _ => fail("usage: stacyvm-agent --listen PATH | --stdio"),
    }
}

fn listen(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(UnixListener::bind(path)?.into())
}

fn fail(message: &str) -> ExitCode {
    eprintln!("stacyvm-agent: {message}");
    ExitCode::from(2)
}
