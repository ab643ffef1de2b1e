//! A provider for tests and for trying things out: directories and plain host processes.
//!
//! It isolates nothing and says so: commands are processes of the host, run by the server's own
//! user, with the host's files, network and process numbers. What it keeps to is the contract:
//! `/workspace/x` of the file calls is `<root>/workspace/x`, resolved so that no link and no `..`
//! leads out; commands start in `<root>/workspace` with an environment of their own, which names
//! the root in `SANDBOX_ROOT` and holds nothing of the server's.
//!
//! What it cannot do: find a process that cleared its environment *and* lost its parent (see
//! `processes`), terminals, users, limits, pausing, imported images (any well-formed image name is
//! taken and ignored), or surviving its server. What a predecessor left is destroyed at the start.

mod command;
mod exec;
mod faults;
mod glob;
mod guest;
mod journal;
mod logs;
mod processes;
mod remove;
mod tree;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use stacyvm_types::{SandboxId, time::Clock, time::SystemClock};
use tokio::task;

use crate::{
    Capabilities, Error, ErrorKind, Guest, Images, LaunchSpec, Probe, Provider, Result, Runtime,
    RuntimeState,
};
use guest::Sandbox;

pub use faults::Faults;

struct Entry {
    runtime: Runtime,
    sandbox: Arc<Sandbox>,
}

/// The mock provider.
pub struct MockProvider {
    base: PathBuf,
    sandboxes: Mutex<HashMap<SandboxId, Entry>>,
    clock: Arc<dyn Clock>,
    faults: Arc<Faults>,
}

impl MockProvider {
    /// A mock that keeps its sandboxes below `base`, a directory that it owns: processes and files
    /// that a predecessor left there are destroyed. Blocking.
    pub fn open(base: &Path) -> Result<Self> {
        Self::with_clock(base, Arc::new(SystemClock))
    }

    /// The same with a clock of the caller's.
    pub fn with_clock(base: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Internal, "the mock's directory cannot be made").because(error)
        };
        std::fs::create_dir_all(base).map_err(failed)?;
        let base = base.canonicalize().map_err(failed)?;
        processes::kill_tree(&format!("{}/sb-", base.display()), None);
        let parent = std::fs::File::open(&base).map_err(failed)?;
        for entry in std::fs::read_dir(&base).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.to_str().is_some_and(|name| SandboxId::parse(name).is_ok()) {
                remove::remove_tree(&parent, name.as_encoded_bytes())
                    .map_err(|errno| tree::error(errno, "what was left"))?;
            }
        }
        Ok(Self { base, sandboxes: Mutex::default(), clock, faults: Arc::default() })
    }

    /// What can be made to go wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Makes a runtime die: its processes end, and it is listed as dead until it is destroyed.
    /// Blocking.
    pub fn crash(&self, id: &SandboxId) -> Result<()> {
        let sandbox = self.find(id)?.1;
        if sandbox.crash() {
            return Ok(());
        }
        Err(Error::unknown(ErrorKind::Unavailable, "processes of the sandbox live on"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Entry>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &SandboxId) -> Result<(Runtime, Arc<Sandbox>)> {
        let sandboxes = self.lock();
        let entry = sandboxes.get(id).ok_or_else(|| no_sandbox(id))?;
        Ok((entry.runtime(), Arc::clone(&entry.sandbox)))
    }
}

impl Entry {
    fn runtime(&self) -> Runtime {
        let dead = self.sandbox.is_dead();
        let state = if dead { RuntimeState::Dead } else { RuntimeState::Running };
        Runtime { state, ..self.runtime.clone() }
    }
}

impl Drop for MockProvider {
    fn drop(&mut self) {
        for entry in self.lock().values() {
            // Nobody is left to be told; the next start collects what stays.
            let _ = entry.sandbox.end();
        }
    }
}

#[async_trait]
impl Provider for MockProvider {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { dial: true, stats: true, ..Capabilities::default() }
    }

    async fn probe(&self) -> Probe {
        self.faults.before_call().await;
        match self.faults.unusable_reason() {
            Some(summary) => Probe { usable: false, summary, findings: Vec::new() },
            None => Probe {
                usable: true,
                summary: "isolates nothing: for tests only".into(),
                findings: Vec::new(),
            },
        }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Runtime> {
        check(spec)?;
        self.faults.before_launch().await?;
        let mut sandboxes = self.lock();
        if let Some(entry) = sandboxes.get(&spec.id) {
            return Ok(entry.runtime());
        }
        let root = self.base.join(spec.id.as_str());
        let sandbox = Sandbox::make(spec.id.clone(), root, Arc::clone(&self.faults))?;
        let runtime = Runtime {
            id: spec.id.clone(),
            generation: spec.generation,
            state: RuntimeState::Running,
            image: spec.image.clone(),
            created: self.clock.now(),
        };
        let entry = Entry { runtime: runtime.clone(), sandbox: Arc::new(sandbox) };
        sandboxes.insert(spec.id.clone(), entry);
        Ok(runtime)
    }

    async fn list(&self) -> Result<Vec<Runtime>> {
        self.faults.before_call().await;
        Ok(self.lock().values().map(Entry::runtime).collect())
    }

    async fn status(&self, id: &SandboxId) -> Result<Runtime> {
        self.faults.before_call().await;
        Ok(self.find(id)?.0)
    }

    async fn destroy(&self, id: &SandboxId) -> Result<()> {
        self.faults.before_destroy().await?;
        let Ok((_, sandbox)) = self.find(id) else { return Ok(()) };
        match task::spawn_blocking(move || sandbox.end()).await {
            Ok(done) => done?,
            Err(error) => {
                return Err(Error::unknown(ErrorKind::Internal, "the destroy broke").because(error));
            }
        }
        self.lock().remove(id);
        Ok(())
    }

    async fn pause(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "the mock cannot pause"))
    }

    async fn resume(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "the mock cannot resume"))
    }

    async fn guest(&self, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        self.faults.before_call().await;
        Ok(self.find(id)?.1)
    }

    fn images(&self) -> Option<&dyn Images> {
        None
    }
}

fn no_sandbox(id: &SandboxId) -> Error {
    Error::new(ErrorKind::NoSandbox, format!("no sandbox {id}"))
}

fn check(spec: &LaunchSpec) -> Result<()> {
    let limits = spec.limits;
    if [limits.memory_mb, limits.vcpus, limits.pids, limits.disk_mb].contains(&0) {
        return Err(Error::new(ErrorKind::Invalid, "a limit cannot be zero"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if spec.image.is_empty() || 255 < spec.image.len() || !spec.image.chars().all(fits) {
        return Err(Error::new(ErrorKind::Invalid, "this is not a name of an image"));
    }
    Ok(())
}

/// Random bits for names that others must not guess.
fn entropy() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
