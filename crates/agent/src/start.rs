//! From a request to a running process.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    pipe::PipeFlags,
    process::{Gid, Pid, Uid},
};
use stacyvm_agent_proto::{Exec, FailKind, Program};
use stacyvm_hostkit::{
    process::{Command, StartFailure, Starter, Step},
    pty,
};

use crate::{
    agent::Context,
    env::{Environment, c_string},
    fail::{Fail, Result},
    limits::OOM_SCORE,
    procfs,
    users::{self, User},
};

/// A command that runs, and our ends of its streams.
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: Option<OwnedFd>,
}

/// The command's ends, and ours.
struct Streams {
    theirs: [OwnedFd; 3],
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

/// Prepares a command and starts it.
pub(crate) fn launch(
    context: &Context,
    starter: &mut Starter,
    request: &Exec<'_>,
) -> Result<Launched> {
    let user = users::find(&context.root, request.user)?;
    let terminal = request.terminal.is_some();
    let env = Environment::new(&user, terminal, &context.env, &request.env)?;
    let (candidates, argv) = program(&env, &request.program)?;
    let workdirs = workdirs(context, request.workdir)?;
    let env = env.into_strings()?;
    let streams = match request.terminal {
        Some((rows, cols)) => terminal_streams(rows, cols),
        None => pipe_streams(context, request.stdin),
    };
    let streams = streams.map_err(|errno| Fail::os(errno, "opening the command's streams"))?;
    give(&streams, &user);
    let [stdin, stdout, stderr] = &streams.theirs;
    let command = Command {
        candidates,
        argv,
        env,
        workdirs,
        stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        terminal,
        ids: user.ids,
    };
    let started = starter.start(&command).map_err(|error| {
        let message = match error.raw_os_error() {
            Some(errno) if errno == Errno::AGAIN.raw_os_error() => {
                "the sandbox's process limit is reached"
            }
            _ => "the sandbox has no memory left for another process",
        };
        Fail::new(FailKind::Exhausted, message)
    })?;
    let pid = started.map_err(|failure| {
        let program = match &request.program {
            Program::Shell(_) => "sh",
            Program::Argv(argv) => argv.first().copied().unwrap_or_default(),
        };
        explain(failure, program, request.workdir.unwrap_or(&context.workspace))
    })?;
    // Where the kernel does not let us, the default score has to do.
    let path = format!("{}/oom_score_adj", pid.as_raw_nonzero());
    let _ = procfs::write(&context.proc, &path, OOM_SCORE);
    let Streams { theirs: _, stdin, stdout, stderr } = streams;
    Ok(Launched { pid, stdin, stdout, stderr })
}

fn program(env: &Environment, program: &Program<'_>) -> Result<(Vec<CString>, Vec<CString>)> {
    match program {
        Program::Shell(line) => {
            let line = c_string(line, "the command line")?;
            Ok((vec![c"/bin/sh".to_owned()], vec![c"sh".to_owned(), c"-c".to_owned(), line]))
        }
        Program::Argv(argv) => {
            let first = argv.first().ok_or_else(|| Fail::invalid("there is no program to run"))?;
            let strings: Result<_> = argv.iter().map(|a| c_string(a, "an argument")).collect();
            Ok((env.candidates(first)?, strings?))
        }
    }
}

/// The directory that was asked for, or the workspace, or where there is none the root.
fn workdirs(context: &Context, wanted: Option<&str>) -> Result<Vec<CString>> {
    match wanted {
        None => Ok(vec![c_string(&context.workspace, "the workspace")?, c"/".to_owned()]),
        Some(dir) if dir.starts_with('/') => Ok(vec![c_string(dir, "workdir")?]),
        Some(_) => Err(Fail::invalid("workdir must be an absolute path")),
    }
}

fn terminal_streams(rows: u16, cols: u16) -> Result<Streams, Errno> {
    let to_errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let pty = pty::open(rows, cols).map_err(to_errno)?;
    let copy = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let theirs = [copy(pty.terminal.as_fd())?, copy(pty.terminal.as_fd())?, pty.terminal];
    Ok(Streams { theirs, stdin: Some(copy(pty.master.as_fd())?), stdout: pty.master, stderr: None })
}

fn pipe_streams(context: &Context, stdin: bool) -> Result<Streams, Errno> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (their_in, our_in) = match (&context.null, stdin) {
        (Some(null), false) => (rustix::io::fcntl_dupfd_cloexec(null, 3)?, None),
        (None, false) => (pipe()?.0, None),
        (_, true) => {
            let (read, write) = pipe()?;
            rustix::io::ioctl_fionbio(&write, true)?;
            (read, Some(write))
        }
    };
    let (our_out, their_out) = pipe()?;
    let (our_err, their_err) = pipe()?;
    rustix::io::ioctl_fionbio(&our_out, true)?;
    rustix::io::ioctl_fionbio(&our_err, true)?;
    Ok(Streams {
        theirs: [their_in, their_out, their_err],
        stdin: our_in,
        stdout: our_out,
        stderr: Some(our_err),
    })
}

/// Makes the command's user own its streams, so that it can open `/dev/stdout` and its terminal.
fn give(streams: &Streams, user: &User) {
    let Some(ids) = &user.ids else { return };
    for fd in &streams.theirs {
        // The null device is shared and anyone may open it. Where ids are not mapped this fails,
        // and the streams still work as they are.
        let shared = rustix::fs::fstat(fd).is_ok_and(|stat| 1 < stat.st_nlink);
        if !shared && !is_null(fd) {
            let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
            let _ = rustix::fs::fchown(fd, Some(uid), Some(gid));
        }
    }
}

fn is_null(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (1, 3)
    })
}

/// The sentence for a command that did not start.
fn explain(failure: StartFailure, program: &str, workdir: &str) -> Fail {
    let errno = Errno::from_raw_os_error(failure.errno);
    match failure.step {
        Step::Exec => Fail::new(FailKind::NotExecutable, not_executable(errno, program)),
        Step::Workdir => Fail::os(errno, &format!("workdir {workdir}")),
        // The kernel's word for a number that is not mapped into the sandbox.
        Step::Ids if errno == Errno::INVAL || errno == Errno::PERM => Fail::new(
            FailKind::Unsupported,
            "this sandbox has no such user: the number is not mapped into it",
        ),
        Step::Ids => Fail::new(
            FailKind::Denied,
            format!("the sandbox cannot run commands as this user: error {}", failure.errno),
        ),
        Step::Session => Fail::new(
            FailKind::Internal,
            format!("the command's session could not be set up: error {}", failure.errno),
        ),
    }
}

fn not_executable(errno: Errno, program: &str) -> String {
    match errno {
        Errno::NOENT => format!("{program}: no such program, or its interpreter is missing"),
        Errno::ACCESS | Errno::PERM => format!("{program}: is not executable"),
        Errno::NOEXEC => format!("{program}: is not a program and has no #! line"),
        Errno::TOOBIG => format!("{program}: its arguments and environment are too long"),
        Errno::NOMEM => format!("{program}: there is no memory left to run it"),
        other => format!("{program}: cannot be run: error {}", other.raw_os_error()),
    }
}
