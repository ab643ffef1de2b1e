//! The namespaces that a run is in, so that nobody else sees what it does and nothing outlives it.
//!
//! As root this program starts itself again, twice. The first of the two is the first process of a
//! namespace of processes: it takes in whatever lost its parent, as init does on a host, and when
//! it ends the kernel ends everything else in there. The second one is the test. Networks and
//! mounts are theirs alone too. What no namespace holds, which is control groups and directories in
//! memory, the outermost clears away, however the test ended.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
};

use anyhow::{Result, ensure};
use rustix::process::{Pid, WaitOptions, wait};

use crate::leftovers;

/// Set in the processes that this program starts of itself. Not one of the product's settings,
/// whose names the members of the cluster look for in their environment.
const STAGE: &str = "CHAOS_STAGE";
const FIRST: &str = "first";
const INSIDE: &str = "inside";
/// Namespaces of its own, which end with who started it.
const APART: [&str; 8] =
    ["--pdeathsig", "KILL", "unshare", "--net", "--pid", "--mount-proc", "--kill-child", "--"];

/// Which of the three this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Started by somebody else, on the host.
    Outermost,
    /// The first process of the namespaces.
    First,
    /// The test in them.
    Inside,
}

/// What this process is.
pub(crate) fn stage() -> Stage {
    match std::env::var(STAGE).as_deref() {
        Ok(FIRST) => Stage::First,
        Ok(INSIDE) => Stage::Inside,
        _ => Stage::Outermost,
    }
}

/// Why this host has no such namespaces for the test, if it has none.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    for program in ["ip", "unshare", "nsenter", "setpriv"] {
        if Command::new(program).arg("-V").output().is_err() {
            return Some(format!("no {program} here"));
        }
    }
    let tried = Command::new("setpriv")
        .args(APART)
        .args(["sh", "-c", "ip link add b0 type bridge && ip link add a0 type veth peer name a1"])
        .output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

fn again(command: &mut Command, stage: &str) -> Result<()> {
    command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(STAGE, stage);
    Ok(())
}

/// Runs this program in namespaces of its own, and returns its exit code.
pub(crate) fn enter() -> Result<i32> {
    let temporary = tempfile::Builder::new().prefix("stacyvm-chaos-").tempdir()?;
    // Postgres runs as another user and has its files below.
    fs::set_permissions(temporary.path(), Permissions::from_mode(0o711))?;
    let mut command = Command::new("setpriv");
    again(command.args(APART), FIRST)?;
    let status = command.env("TMPDIR", temporary.path()).status()?;
    let directories = [Some(temporary.path().to_owned()), kept()].into_iter().flatten();
    for what in leftovers::clear(directories)? {
        eprintln!("chaos: cleared away: {what}");
    }
    Ok(status.code().unwrap_or(1))
}

/// Starts the test as a child, and takes in whatever loses its parent until the test has ended.
pub(crate) fn begin() -> Result<i32> {
    let loopback = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(loopback.success(), "loopback cannot be set up: {loopback}");
    let mut command = Command::new("setpriv");
    again(command.args(["--pdeathsig", "KILL"]), INSIDE)?;
    let test = Pid::from_child(&command.spawn()?);
    loop {
        let ended = rustix::io::retry_on_intr(|| wait(WaitOptions::empty()))?;
        if let Some((_, status)) = ended.filter(|(pid, _)| *pid == test) {
            return Ok(status.exit_status().unwrap_or(1));
        }
    }
}

/// Where whoever started the test wants logs and histories to be kept.
pub(crate) fn kept() -> Option<PathBuf> {
    std::env::var_os("CHAOS_KEEP").map(PathBuf::from)
}
