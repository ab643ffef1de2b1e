//! A provider whose runtimes are entries of the truth.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stacyvm_provider::{
    ByteStream, Capabilities, Duplex, Error, ErrorKind, Exec, ExecEvent, ExecSpec, Exit, FileInfo,
    FileRead, Guest, Images, LaunchSpec, Output, Probe, Program, Provider, Result, Runtime,
    RuntimeState, Stats, WriteOptions,
};
use stacyvm_types::{ExecId, SandboxId, WorkerId};
use tokio::{sync::mpsc, time::sleep};

use crate::{invariants, node::Life, plant::Plant, world::World};

/// What it is called in requests.
pub(crate) const NAME: &str = "sim";
/// The longest answer to anything but a launch.
const ANSWER: Duration = Duration::from_millis(20);
/// How soon the channel of a command that takes long breaks with its runtime.
const PULSE: Duration = Duration::from_secs(1);

/// The provider of one life of a node, over the host that it runs on.
#[derive(Clone)]
pub(crate) struct SimProvider {
    pub(crate) world: World,
    pub(crate) life: Life,
    pub(crate) host: WorkerId,
}

/// When a call fails, if it does.
enum Fate {
    Done,
    Refused,
    Unacknowledged,
}

impl SimProvider {
    /// The way into the host, which may never end.
    async fn begin(&self, name: &'static str, takes: Duration) -> Fate {
        self.life.step().await;
        self.world.delay(takes).await;
        self.life.step().await;
        let faults = &self.world.profile().provider;
        if self.world.strikes("provider hangs", faults.hangs) {
            self.world.note(self.life.name(), format_args!("provider.{name} hangs"));
            std::future::pending::<()>().await;
        }
        if self.world.strikes("provider refuses", faults.refused) {
            Fate::Refused
        } else if self.world.strikes("provider loses an answer", faults.unacknowledged) {
            Fate::Unacknowledged
        } else {
            Fate::Done
        }
    }

    /// The way back, when the effect has happened.
    async fn end<T>(&self, fate: Fate, answer: T) -> Result<T> {
        self.life.step().await;
        match fate {
            Fate::Done => Ok(answer),
            Fate::Refused | Fate::Unacknowledged => {
                Err(Error::unknown(ErrorKind::Unavailable, "the provider lost its answer"))
            }
        }
    }

    fn find(&self, id: &SandboxId) -> Result<Runtime> {
        let runtime = self.world.state().truth.host(&self.host).get(id).cloned();
        runtime.ok_or_else(|| Error::new(ErrorKind::NoSandbox, "there is no such runtime"))
    }

    fn note(&self, what: &str, id: &SandboxId) {
        self.world.note(self.life.name(), format_args!("provider.{what} {id}"));
    }
}

fn refused() -> Error {
    Error::new(ErrorKind::Unavailable, "the provider cannot do this now")
}

#[async_trait]
impl Provider for SimProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { adoption: true, ..Capabilities::default() }
    }

    async fn probe(&self) -> Probe {
        self.life.step().await;
        Probe { usable: true, summary: "it is simulated".to_owned(), findings: Vec::new() }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Runtime> {
        let fate = self.begin("launch", self.world.profile().provider.launch).await;
        if matches!(fate, Fate::Refused) {
            return Err(refused());
        }
        self.note("launch", &spec.id);
        let runtime = {
            let now = self.world.now();
            let mut state = self.world.state();
            let known = state.truth.host(&self.host).get(&spec.id).cloned();
            match known {
                Some(known) => known,
                None => {
                    let runtime = Runtime {
                        id: spec.id.clone(),
                        generation: spec.generation,
                        state: RuntimeState::Running,
                        image: spec.image.clone(),
                        created: now,
                    };
                    state.truth.host(&self.host).insert(spec.id.clone(), runtime.clone());
                    state.truth.history(&spec.id).launches += 1;
                    runtime
                }
            }
        };
        invariants::after_effect(&self.world, &spec.id, spec.generation);
        self.end(fate, runtime).await
    }

    async fn list(&self) -> Result<Vec<Runtime>> {
        let fate = self.begin("list", ANSWER).await;
        if matches!(fate, Fate::Refused) {
            return Err(refused());
        }
        let mut all: Vec<_> = self.world.state().truth.host(&self.host).values().cloned().collect();
        let chance = self.world.profile().provider.left_out;
        all.retain(|_| !self.world.strikes("a list leaves a runtime out", chance));
        self.end(fate, all).await
    }

    async fn status(&self, id: &SandboxId) -> Result<Runtime> {
        let fate = self.begin("status", ANSWER).await;
        if matches!(fate, Fate::Refused) {
            return Err(refused());
        }
        let runtime = self.find(id)?;
        self.end(fate, runtime).await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<()> {
        let fate = self.begin("destroy", ANSWER).await;
        if matches!(fate, Fate::Refused) {
            return Err(refused());
        }
        self.note("destroy", id);
        if !self.world.has(Plant::DestroyAnsweredEarly) {
            self.world.state().truth.host(&self.host).remove(id);
        }
        self.end(fate, ()).await
    }

    async fn pause(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "it cannot pause"))
    }

    async fn resume(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "it cannot pause"))
    }

    async fn guest(&self, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        let fate = self.begin("guest", ANSWER).await;
        if matches!(fate, Fate::Refused) {
            return Err(refused());
        }
        self.find(id)?;
        let guest = SimGuest { provider: self.clone(), id: id.clone() };
        self.end(fate, Arc::new(guest) as Arc<dyn Guest>).await
    }

    fn images(&self) -> Option<&dyn Images> {
        None
    }
}

/// The inside of a simulated runtime: commands that say a word and exit.
struct SimGuest {
    provider: SimProvider,
    id: SandboxId,
}

impl SimGuest {
    fn alive(&self) -> Result<()> {
        match self.provider.find(&self.id)?.state {
            RuntimeState::Running => Ok(()),
            _ => Err(Error::new(ErrorKind::Unavailable, "the runtime does not answer")),
        }
    }

    /// What a command says from an offset on; its channel breaks with its runtime.
    fn follow(&self, id: ExecId, offset: u64, takes: Duration) -> Exec {
        let (provider, sandbox) = (self.provider.clone(), self.id.clone());
        let events = stream::unfold(0, move |step| {
            let (provider, sandbox) = (provider.clone(), sandbox.clone());
            async move {
                provider.world.delay(ANSWER * 10).await;
                let runs =
                    || provider.find(&sandbox).is_ok_and(|r| r.state == RuntimeState::Running);
                let mut left = if step == 0 { takes } else { Duration::ZERO };
                while !left.is_zero() && runs() {
                    sleep(left.min(PULSE)).await;
                    left = left.saturating_sub(PULSE);
                }
                provider.life.step().await;
                let lives = runs();
                match step {
                    0 if !lives => {
                        let error = Error::new(ErrorKind::NoSandbox, "the channel broke");
                        Some((Err(error), 9))
                    }
                    0 if offset == 0 => {
                        let data = Bytes::from_static(b"word\n");
                        let event = ExecEvent::Output { offset: 0, stream: Output::Stdout, data };
                        Some((Ok(event), 1))
                    }
                    0 | 1 => Some((Ok(ExecEvent::Exit(Exit::Code(0))), 9)),
                    _ => None,
                }
            }
        });
        let (input, _) = mpsc::channel(1);
        Exec { id, events: events.boxed(), input }
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "the simulation has no files"))
}

#[async_trait]
impl Guest for SimGuest {
    async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        let fate = self.provider.begin("exec", ANSWER).await;
        if matches!(fate, Fate::Refused) {
            return Err(refused());
        }
        self.alive()?;
        invariants::after_exec(&self.provider.world, &self.id, &spec.id);
        let takes = match &spec.program {
            Program::Shell(line) => {
                let seconds = line.strip_prefix("take ").and_then(|seconds| seconds.parse().ok());
                Duration::from_secs(seconds.unwrap_or(0))
            }
            Program::Argv(_) => Duration::ZERO,
        };
        let exec = self.follow(spec.id, 0, takes);
        self.provider.end(fate, exec).await
    }

    async fn attach(&self, exec: &ExecId, offset: u64) -> Result<Exec> {
        let fate = self.provider.begin("attach", ANSWER).await;
        if matches!(fate, Fate::Refused) {
            return Err(refused());
        }
        self.alive()?;
        let known = {
            let state = self.provider.world.state();
            state.truth.of(&self.id).is_some_and(|history| history.execs.contains(exec))
        };
        if !known {
            return Err(Error::new(ErrorKind::NotFound, "no such command"));
        }
        let exec = self.follow(exec.clone(), offset, Duration::ZERO);
        self.provider.end(fate, exec).await
    }

    async fn read(&self, _: &str, _: Option<Range<u64>>) -> Result<FileRead> {
        unsupported()
    }

    async fn write(&self, _: &str, _: WriteOptions, _: ByteStream) -> Result<FileInfo> {
        unsupported()
    }

    async fn list(&self, _: &str) -> Result<Vec<FileInfo>> {
        unsupported()
    }

    async fn stat(&self, _: &str) -> Result<FileInfo> {
        unsupported()
    }

    async fn glob(&self, _: &str) -> Result<Vec<String>> {
        unsupported()
    }

    async fn rename(&self, _: &str, _: &str) -> Result<()> {
        unsupported()
    }

    async fn chmod(&self, _: &str, _: u32) -> Result<()> {
        unsupported()
    }

    async fn remove(&self, _: &str, _: bool) -> Result<()> {
        unsupported()
    }

    async fn dial(&self, _: u16) -> Result<Box<dyn Duplex>> {
        unsupported()
    }

    async fn stats(&self) -> Result<Stats> {
        unsupported()
    }

    async fn logs(&self, _: usize) -> Result<Vec<String>> {
        unsupported()
    }
}
