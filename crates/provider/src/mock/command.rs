//! Turning an [`ExecSpec`] into a host process.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    net::unix::pipe,
    process::{Child, Command},
};

use crate::{Error, ErrorKind, ExecSpec, Program, Result, Stdin, mock::processes::MARK};

/// Where programs are looked up when the request names no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A started process and its ends of the pipes.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

/// Starts a command below `root` under `mark`, with an environment of its own.
pub(super) fn start(root: &Path, mark: &str, spec: &ExecSpec) -> Result<Started> {
    if spec.terminal.is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "the mock has no terminals"));
    }
    check_user(spec.user.as_deref())?;
    let workdir = workdir(root, spec.workdir.as_deref())?;
    let env = environment(root, mark, &spec.env)?;
    let (program, arguments) = match &spec.program {
        Program::Shell(line) => (PathBuf::from("/bin/sh"), vec!["-c".to_owned(), line.clone()]),
        Program::Argv(argv) => {
            let (program, rest) = argv
                .split_first()
                .ok_or_else(|| Error::new(ErrorKind::Invalid, "the command is empty"))?;
            (look_up(root, &workdir, program, &env["PATH"])?, rest.to_vec())
        }
    };
    let failed = |error: io::Error| Error::new(ErrorKind::Internal, "no pipe").because(error);
    let (stdout, stdout_theirs) = io::pipe().map_err(failed)?;
    let (stderr, stderr_theirs) = io::pipe().map_err(failed)?;
    let (stdin_theirs, stdin) = match spec.stdin {
        Stdin::Null => (Stdio::null(), None),
        Stdin::Pipe => {
            let (theirs, ours) = io::pipe().map_err(failed)?;
            let ours = File::from(std::os::fd::OwnedFd::from(ours));
            (Stdio::from(theirs), Some(pipe::Sender::from_file(ours).map_err(failed)?))
        }
    };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(env)
        .current_dir(workdir)
        .stdin(stdin_theirs)
        .stdout(stdout_theirs)
        .stderr(stderr_theirs)
        .process_group(0)
        .spawn()
        .map_err(spawn_error)?;
    let receiver = |end: io::PipeReader| {
        pipe::Receiver::from_file(File::from(std::os::fd::OwnedFd::from(end))).map_err(failed)
    };
    Ok(Started { child, stdin, stdout: receiver(stdout)?, stderr: receiver(stderr)? })
}

fn check_user(user: Option<&str>) -> Result<()> {
    match user {
        None | Some("root" | "0" | "root:root" | "0:0") => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::Unsupported, "the mock has no users but root")),
    }
}

fn workdir(root: &Path, asked: Option<&str>) -> Result<PathBuf> {
    let asked = asked.unwrap_or("/workspace");
    if !asked.starts_with('/') {
        return Err(Error::new(ErrorKind::Invalid, "a working directory must be absolute"));
    }
    if asked.split('/').any(|part| part == "..") || asked.contains('\0') {
        return Err(Error::new(ErrorKind::Invalid, "a working directory cannot contain .."));
    }
    let path = root.join(asked.trim_start_matches('/'));
    if path.is_dir() {
        return Ok(path);
    }
    Err(Error::new(ErrorKind::NotFound, format!("{asked}: no such directory")))
}

fn environment(
    root: &Path,
    mark: &str,
    asked: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let broken = |(name, value): &(&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    if asked.iter().any(|entry| broken(&entry)) {
        return Err(Error::new(ErrorKind::Invalid, "a variable's name or value cannot be used"));
    }
    let workspace = root.join("workspace").display().to_string();
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), workspace),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("SANDBOX_ROOT".to_owned(), root.display().to_string()),
    ]);
    env.extend(asked.clone());
    env.insert(MARK.to_owned(), mark.to_owned());
    Ok(env)
}

/// Where a program is: below the sandbox's root if it is there, else on the host.
fn look_up(root: &Path, workdir: &Path, program: &str, path: &str) -> Result<PathBuf> {
    let candidates: Vec<PathBuf> = if program.starts_with('/') {
        vec![root.join(program.trim_start_matches('/')), program.into()]
    } else if program.contains('/') {
        vec![workdir.join(program)]
    } else if program.is_empty() {
        Vec::new()
    } else {
        path.split(':').map(|directory| Path::new(directory).join(program)).collect()
    };
    let runs = |path: &&PathBuf| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    candidates.iter().find(runs).cloned().ok_or_else(|| {
        let words = if candidates.iter().any(|path| path.exists()) {
            "cannot be executed"
        } else {
            "no such program"
        };
        Error::new(ErrorKind::NotExecutable, format!("{program}: {words}"))
    })
}

fn spawn_error(error: io::Error) -> Error {
    let (kind, words) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotExecutable, "no such program or interpreter"),
        io::ErrorKind::PermissionDenied => (ErrorKind::NotExecutable, "cannot be executed"),
        io::ErrorKind::InvalidInput => (ErrorKind::Invalid, "an argument holds a zero byte"),
        io::ErrorKind::ArgumentListTooLong => (ErrorKind::TooLarge, "too many arguments"),
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
            (ErrorKind::Exhausted, "the host starts no more processes")
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            (ErrorKind::NotExecutable, "is not a program")
        }
        _ => (ErrorKind::Internal, "the command could not be started"),
    };
    Error::new(kind, words).because(error)
}
