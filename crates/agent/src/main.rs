//! The agent as a program, for containers and virtual machines.
//!
//! `stacyvm-agent --listen PATH` serves a unix socket, `stacyvm-agent --stdio` the one byte channel
//! at descriptor 0. `--reader-grace SECONDS` before either is how long a command whose output nobody
//! reads any more waits before its oldest output gives way.

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::ExitCode,
    time::Duration,
};

use stacyvm_agent::Setup;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (reader_grace, rest) = match arguments.as_slice() {
        [flag, seconds, rest @ ..] if flag == "--reader-grace" => match whole(seconds) {
            Some(seconds) => (Some(Duration::from_secs(seconds.into())), rest),
            None => return fail("--reader-grace takes whole seconds, at least 0"),
        },
        rest => (None, rest),
    };
    let setup = Setup { reader_grace, ..Setup::default() };
    match rest {
        [flag, path] if flag == "--listen" => match listen(path.as_ref()) {
            Ok(listener) => stacyvm_agent::run(listener, setup),
            Err(error) => fail(&format!("cannot listen on {}: {error}", path.display())),
        },
        [flag] if flag == "--stdio" => match stacyvm_hostkit::process::take_stdin() {
            Ok(channel) => stacyvm_agent::serve_channel(channel, setup),
            Err(error) => fail(&format!("descriptor 0 is not open: {error}")),
        },
        _ => fail("usage: stacyvm-agent [--reader-grace SECONDS] --listen PATH | --stdio"),
    }
}

fn whole(argument: &OsString) -> Option<u32> {
    argument.to_str()?.parse().ok()
}

fn listen(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(UnixListener::bind(path)?.into())
}

fn fail(message: &str) -> ExitCode {
    eprintln!("stacyvm-agent: {message}");
    ExitCode::from(2)
}
