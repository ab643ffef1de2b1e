//! A server process, and commands run against it.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_stacyvm");
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A server that listens.
pub(crate) struct World {
    pub(crate) server: Child,
    pub(crate) url: String,
    pub(crate) dir: tempfile::TempDir,
}

/// What a command said and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The binary without anything of this process's surroundings.
pub(crate) fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STACYVM_") {
            command.env_remove(name);
        }
    }
    // No settings of whoever runs the tests either.
    command.env("HOME", "/nonexistent");
    command
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Waits for a level, not for a time.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl World {
    pub(crate) fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(dir.path(), args);
        let port = port(dir.path());
        Self { server, url: format!("http://127.0.0.1:{port}"), dir }
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Said {
        command(args).env("STACYVM_SERVER", &self.url).output().unwrap().into()
    }

    /// Runs what must work, and gives its standard output.
    pub(crate) fn out(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    }

    pub(crate) fn sandbox(&self) -> String {
        self.out(&["spawn"]).trim().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = command(["kill", "--all"]).env("STACYVM_SERVER", &self.url).output();
        // Asked first: a server that is killed leaves what it has in memory.
        let deadline = Instant::now() + Duration::from_secs(20);
        if let Ok(None) = self.server.try_wait() {
            let _ = kill_process(Pid::from_child(&self.server), Signal::TERM);
        }
        while let Ok(None) = self.server.try_wait()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Starts a server over a directory.
pub(crate) fn serve(dir: &Path, args: &[&str]) -> Child {
    serve_with(dir, args, &[])
}

/// The same with variables of the environment.
pub(crate) fn serve_with(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = command(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(dir.join("data")).arg("--port-file").arg(dir.join("port")).args(args);
    command.envs(env.iter().copied()).current_dir(dir);
    command.stderr(log).spawn().unwrap()
}

/// The port of a server that was just started.
pub(crate) fn port(dir: &Path) -> u16 {
    wait_for("a port file", || {
        std::fs::read_to_string(dir.join("port")).ok().and_then(|p| p.trim().parse().ok())
    })
}
