//! Servers and workers, as processes that can be killed, frozen, cut off and started again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use stacyvm_tests::server::binary;

use crate::net::Place;

/// How long one may take to stop that was asked to.
const STOPPING: Duration = Duration::from_secs(60);

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Server,
    Worker,
}

/// A server or a worker.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    /// Its directory, with its settings, its log and its data.
    pub(crate) home: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// A member with these settings, which is not started yet.
    pub(crate) fn new(
        name: &str,
        kind: Kind,
        place: Place,
        root: &Path,
        settings: &str,
    ) -> Result<Self> {
        let home = root.join(name);
        fs::create_dir_all(home.join("data"))?;
        fs::write(home.join("stacyvm.yaml"), settings)?;
        Ok(Self { name: name.to_owned(), kind, place, home, child: None })
    }

    pub(crate) fn settings(&self) -> String {
        format!("--config={}", self.home.join("stacyvm.yaml").display())
    }

    /// Starts it. The calling thread has to outlive it.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.home.join("log"))?;
        let mut command: Command = self.place.program(&binary());
        command
            .arg(match self.kind {
                Kind::Server => "serve",
                Kind::Worker => "worker",
            })
            .arg(self.settings())
            .arg("--data-dir")
            .arg(self.home.join("data"))
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("start {}", self.name))?);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        // A child that was not waited for keeps its id.
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let mut child = self.child.take().context("it does not run")?;
        child.wait()?;
        Ok(())
    }

    pub(crate) fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to stop, waits until it has, and returns how it ended.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let mut child = self.child.take().context("it does not run")?;
        let give_up = Instant::now() + STOPPING;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if give_up < Instant::now() {
                child.kill()?;
                child.wait()?;
                bail!("{} did not stop within {STOPPING:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it ended with, if it did by itself. It is started again by whoever asks.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}
