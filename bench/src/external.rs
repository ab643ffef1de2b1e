//! What others on the same host need for one static `true`, from nothing to reaped.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::stats::{PAUSE, Samples};

/// One alternative, measured or with the reason why not.
pub(crate) type Measured = Result<Samples, String>;

fn one_shot(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.lines().next().unwrap_or("failed without a word"));
    Ok(())
}

fn measure(rounds: usize, mut make: impl FnMut(usize) -> Command) -> Measured {
    let mut round = 0;
    Samples::take(3, rounds, || {
        round += 1;
        let mut command = make(round);
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        one_shot(&mut command)?;
        Ok(start.elapsed())
    })
    .map_err(|error| error.to_string())
}

/// The `bwrap` command line that is compared with: every namespace, nothing else.
fn bwrap_command(program: &Path) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--ro-bind", "/", "/"]).arg(program);
    command
}

/// `bwrap --unshare-all`.
pub(crate) fn bwrap(rounds: usize, program: &Path) -> Measured {
    measure(rounds, |_| bwrap_command(program))
}

/// `bwrap` one-shots a second from two threads.
pub(crate) fn bwrap_rate(program: &Path, seconds: f64) -> Result<f64, String> {
    one_shot(&mut bwrap_command(program)).map_err(|error| error.to_string())?;
    let start = Instant::now();
    let done: usize = std::thread::scope(|scope| {
        let loops: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = 0;
                    while start.elapsed().as_secs_f64() < seconds {
                        if one_shot(&mut bwrap_command(program)).is_ok() {
                            done += 1;
                        }
                    }
                    done
                })
            })
            .collect();
        loops.into_iter().map(|handle| handle.join().unwrap_or(0)).sum()
    });
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Measures in a child of this binary that prints one time in microseconds a line.
pub(crate) fn in_child(command: &mut Command) -> Measured {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().next().unwrap_or("failed without a word").to_owned());
    }
    let mut samples = Samples::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let micros: f64 = line.parse().map_err(|_| format!("not a time: {line:?}"))?;
        samples.push(Duration::from_secs_f64(micros / 1e6));
    }
    Ok(samples)
}

/// `crun run`, in a mount namespace without the empty v2 hierarchy that a host with both versions
/// of control groups has beside the others: some versions of crun refuse to start beside it.
pub(crate) fn crun(rounds: usize, program: &Path, dir: &Path) -> Measured {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(me);
    in_child(command.args(["__crun", &rounds.to_string()]).arg(program).arg(dir))
}

/// The child's side of [`crun`]: a bundle that holds nothing but the program.
pub(crate) fn crun_here(rounds: usize, program: &Path, dir: &Path) -> Measured {
    let bundle = || -> Result<()> {
        let root = dir.join("rootfs");
        std::fs::create_dir_all(&root)?;
        for dir in ["proc", "dev"] {
            std::fs::create_dir_all(root.join(dir))?;
        }
        std::fs::copy(program, root.join("true"))?;
        let spaces = ["pid", "mount", "network", "ipc", "uts"];
        let config = json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["/true"], "cwd": "/", "env": ["PATH=/"],
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": spaces.map(|kind| json!({"type": kind}))},
        });
        std::fs::write(dir.join("config.json"), config.to_string())?;
        Ok(())
    };
    bundle().context("bundle").map_err(|error| format!("{error:#}"))?;
    measure(rounds, |round| {
        let mut command = Command::new("crun");
        command
            .args(["run", "--bundle"])
            .arg(dir)
            .arg(format!("bench-{}-{round}", std::process::id()));
        command
    })
}

/// `docker run --rm --network none` of an image that holds nothing but the program.
pub(crate) fn docker(rounds: usize, program: &Path, dir: &Path) -> Measured {
    let image = || -> Result<()> {
        one_shot(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))?;
        let root = dir.join("docker-root");
        std::fs::create_dir_all(&root)?;
        std::fs::copy(program, root.join("true"))?;
        let archive = dir.join("docker.tar");
        one_shot(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
        one_shot(Command::new("docker").arg("import").arg(&archive).arg("stacyvm-bench:latest"))
    };
    image().map_err(|error| error.to_string())?;
    measure(rounds, |_| {
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--network", "none", "stacyvm-bench:latest", "/true"]);
        command
    })
}

/// The host's own process start, without any isolation.
pub(crate) fn bare(rounds: usize, program: &Path) -> Measured {
    measure(rounds, |_| Command::new(program))
}
