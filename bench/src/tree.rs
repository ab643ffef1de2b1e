//! Ending a command with everything below it at its deadline: as the agent does it, from below the
//! command itself, and as a control group of its own would, by `cgroup.kill`.
//!
//! Both start the same shell with the same children and count from the deadline to the moment at
//! which nothing is left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use stacyvm_agent_client::{AgentGuest, unix};
use stacyvm_provider::{ExecEvent, ExecSpec, Exit, Guest, Program};

use crate::{
    external::Measured,
    ours::spec,
    stats::{Samples, time},
};

/// The children of the shell.
pub(crate) const CHILDREN: usize = 50;
/// By then all of them run.
const DEADLINE: Duration = Duration::from_millis(300);

fn script() -> String {
    format!("i=0; while [ $i -lt {CHILDREN} ]; do sleep 1000 & i=$((i+1)); done; wait")
}

/// Through the agent.
pub(crate) fn by_the_agent(socket: &Path, rounds: usize) -> Measured {
    let measure = || -> Result<Samples> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guest = AgentGuest::new(unix(socket));
        let mut round = 0;
        Samples::take(1, rounds, || {
            round += 1;
            runtime.block_on(async {
                let start = Instant::now();
                let program = Program::Shell(script());
                let deadline = Some(DEADLINE);
                let spec = ExecSpec { program, deadline, ..spec(0x7ee, round, "") };
                let mut exec = guest.exec(spec).await?;
                let mut exit = None;
                while let Some(event) = futures_util::StreamExt::next(&mut exec.events).await {
                    if let ExecEvent::Exit(how) = event? {
                        exit = Some(how);
                    }
                }
                ensure!(exit == Some(Exit::Timeout), "the command ended with {exit:?}");
                Ok(start.elapsed().saturating_sub(DEADLINE))
            })
        })
    };
    measure().map_err(|error| error.to_string())
}

/// A group of the v2 hierarchy, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn make() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let place = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let place = words.next()?;
            (words.next()? == "cgroup2").then(|| place.to_owned())
        });
        let place = place.context("no v2 hierarchy is mounted")?;
        let group = Path::new(&place).join(format!("stacyvm-bench-{}", std::process::id()));
        fs::create_dir(&group)?;
        let group = Self(group);
        ensure!(group.0.join("cgroup.kill").exists(), "the kernel has no cgroup.kill");
        Ok(group)
    }

    fn is_empty(&self) -> Result<bool> {
        Ok(fs::read_to_string(self.0.join("cgroup.events"))?.contains("populated 0"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Through a group of its own.
pub(crate) fn by_a_group(rounds: usize) -> Measured {
    Samples::take(1, rounds, || {
        let group = Group::make()?;
        let enter = format!("echo 0 > {}/cgroup.procs; {}", group.0.display(), script());
        let start = Instant::now();
        let mut child =
            Command::new("/bin/sh").args(["-c", &enter]).stdin(Stdio::null()).spawn()?;
        std::thread::sleep(DEADLINE.saturating_sub(start.elapsed()));
        let took = time(|| {
            fs::write(group.0.join("cgroup.kill"), "1")?;
            child.wait()?;
            while !group.is_empty()? {
                std::thread::yield_now();
            }
            Ok(())
        })?;
        Ok(took)
    })
    .map_err(|error| error.to_string())
}

/// What every command would pay for a group of its own, without entering it.
pub(crate) fn making_a_group(rounds: usize) -> Measured {
    Samples::take(5, rounds, || {
        time(|| {
            drop(Group::make()?);
            Ok(())
        })
    })
    .map_err(|error| error.to_string())
}
