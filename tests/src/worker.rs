//! A worker process under test.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::server::binary;

/// What a worker says when it takes calls.
const SAID: &str = "takes calls at ";

/// A running worker. Dropping it stops the process; its sandboxes are the test's to destroy.
pub struct Worker {
    /// The process.
    pub child: Child,
    /// Its name.
    pub id: String,
    /// Where it takes calls.
    pub at: SocketAddr,
    /// Its data directory.
    pub data: PathBuf,
}

impl Worker {
    /// Starts a worker over `data` and waits until it takes calls; its control plane may not have
    /// heard of it yet. `args` say where that is, and the rest.
    pub fn start(data: &Path, id: &str, args: &[String]) -> Result<Self> {
        fs::create_dir_all(data)?;
        let log = data.join("log");
        let before = fs::read(&log).map_or(0, |said| said.len());
        let file = fs::File::options().create(true).append(true).open(&log)?;
        let child = Command::new(binary())
            .args(["worker", "--listen", "127.0.0.1:0", "--log-format", "text", "--id", id])
            .arg("--data-dir")
            .arg(data)
            .args(args)
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", binary().display()))?;
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut worker = Self { child, id: id.to_owned(), at, data: data.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let said = fs::read(&log)?;
            let said = String::from_utf8_lossy(said.get(before..).unwrap_or_default());
            if let Some((_, rest)) = said.split_once(SAID)
                && let Some((at, _)) = rest.split_once(' ')
            {
                worker.at = at.parse().with_context(|| format!("{at:?} is no address"))?;
                return Ok(worker);
            }
            if let Some(status) = worker.child.try_wait()? {
                bail!("the worker ended with {status}:\n{said}");
            }
            if Instant::now() > deadline {
                bail!("the worker takes no calls within 60 s:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Kills the process at once and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the worker did not end within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.join("log")).unwrap_or_default()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.signal(Signal::CONT);
            let _ = self.stop(Duration::from_secs(20));
        }
        self.kill();
    }
}
