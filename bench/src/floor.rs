//! The host's own floor: `clone3` into seven fresh namespaces, three mounts, one `execve`, reaped.
//!
//! Runs in a single-threaded process of its own (`stacyvm-bench __floor ROUNDS PROGRAM`), because
//! only such a process may clone without an exec; prints one time in microseconds a line.

use std::{
    convert::Infallible, os::unix::process::CommandExt, path::Path, process::Command, time::Instant,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Pid, WaitOptions, waitpid},
};
use stacyvm_hostkit::clone::{self, SingleThread};

use crate::{
    external::{Measured, in_child},
    stats::PAUSE,
};

const NAMESPACES: u64 = clone::NEW_USER
    | clone::NEW_MOUNT
    | clone::NEW_PID
    | clone::NEW_NET
    | clone::NEW_IPC
    | clone::NEW_UTS
    | clone::NEW_CGROUP;

/// Measures in a child of this binary.
pub(crate) fn measure(rounds: usize, program: &Path) -> Measured {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    in_child(Command::new(me).args(["__floor", &rounds.to_string()]).arg(program))
}

/// The child's side: measures and prints.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) fn run(rounds: usize, program: &Path) -> Result<()> {
    let alone = SingleThread::check()?;
    for _ in 0..rounds {
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        let child = clone::start(&alone, NAMESPACES, None, || inside(program))?;
        let pid = Pid::from_raw(child.pid).context("a pid")?;
        let (_, status) = waitpid(Some(pid), WaitOptions::empty())?.context("a status")?;
        ensure!(status.exit_status() == Some(0), "the child ended with {status:?}");
        println!("{:.1}", start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(())
}

fn inside(program: &Path) -> Infallible {
    let mounts = || -> rustix::io::Result<()> {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("tmpfs", "/mnt", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
        mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV, None)
    };
    if mounts().is_err() {
        clone::exit_now(71);
    }
    let _failed = Command::new(program).exec();
    clone::exit_now(72)
}
