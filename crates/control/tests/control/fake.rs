//! A provider and a guest that do what the test says.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stacyvm_provider::{
    ByteStream, Capabilities, Duplex, Error, ErrorKind, Exec, ExecEvent, ExecInput, ExecSpec, Exit,
    FileInfo, FileKind, FileRead, Guest, Images, LaunchSpec, Output, Probe, Program, Provider,
    Result, Runtime, RuntimeState, Stats, WriteOptions,
};
use stacyvm_types::{ExecId, SandboxId, Timestamp};
use tokio::sync::{Notify, mpsc};

/// What the next launch or destruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It works.
    None,
    /// It fails and leaves nothing, or changes nothing.
    Clean,
    /// It happens, and the answer is lost.
    Lost,
    /// It never answers and never happens.
    Hangs,
    /// The image is not there any more.
    NoImage,
}

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) runtimes: Mutex<BTreeMap<SandboxId, Runtime>>,
    pub(crate) launches: Mutex<VecDeque<Fault>>,
    pub(crate) destructions: Mutex<VecDeque<Fault>>,
    /// Launches of this image wait until they are let go.
    pub(crate) slow: Notify,
    pub(crate) waiting: Notify,
    /// Whether destroying a runtime of the image `stuck` hangs.
    pub(crate) is_stuck: AtomicBool,
    /// Whether looking at it hangs.
    pub(crate) is_silent: AtomicBool,
    /// How often it was looked at.
    pub(crate) looks: AtomicUsize,
    pub(crate) execs: Arc<Mutex<Vec<ExecSpec>>>,
}

impl Fake {
    pub(crate) fn count(&self) -> usize {
        self.runtimes.lock().unwrap().len()
    }

    /// The first process of a runtime ends; `leaves` says whether leftovers stay listed.
    pub(crate) fn kill(&self, id: &SandboxId, leaves: bool) {
        let mut runtimes = self.runtimes.lock().unwrap();
        if leaves {
            if let Some(runtime) = runtimes.get_mut(id) {
                runtime.state = RuntimeState::Dead;
            }
        } else {
            runtimes.remove(id);
        }
    }

    fn start(&self, spec: &LaunchSpec) -> Runtime {
        let runtime = Runtime {
            id: spec.id.clone(),
            generation: spec.generation,
            state: RuntimeState::Running,
            image: spec.image.clone(),
            created: Timestamp::from_micros(0),
        };
        self.runtimes.lock().unwrap().entry(spec.id.clone()).or_insert(runtime).clone()
    }
}

fn next(faults: &Mutex<VecDeque<Fault>>) -> Fault {
    faults.lock().unwrap().pop_front().unwrap_or(Fault::None)
}

fn broken() -> Error {
    Error::new(ErrorKind::Unavailable, "the fake refuses")
}

fn lost() -> Error {
    Error::unknown(ErrorKind::Unavailable, "the fake lost the answer")
}

#[async_trait]
impl Provider for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn probe(&self) -> Probe {
        self.looks.fetch_add(1, Ordering::SeqCst);
        if self.is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Probe { usable: true, summary: "fine".to_owned(), findings: Vec::new() }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Runtime> {
        match spec.image.as_str() {
            "missing" => return Err(Error::new(ErrorKind::NoImage, "no image missing")),
            "slow" => {
                self.waiting.notify_one();
                self.slow.notified().await;
            }
            _ => tokio::task::yield_now().await,
        }
        match next(&self.launches) {
            Fault::None => Ok(self.start(spec)),
            Fault::Clean => Err(broken()),
            Fault::NoImage => Err(Error::new(ErrorKind::NoImage, "no such image any more")),
            Fault::Lost => {
                self.start(spec);
                Err(lost())
            }
            Fault::Hangs => std::future::pending().await,
        }
    }

    async fn list(&self) -> Result<Vec<Runtime>> {
        Ok(self.runtimes.lock().unwrap().values().cloned().collect())
    }

    async fn status(&self, id: &SandboxId) -> Result<Runtime> {
        let found = self.runtimes.lock().unwrap().get(id).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NoSandbox, "no such runtime"))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<()> {
        tokio::task::yield_now().await;
        let image = self.runtimes.lock().unwrap().get(id).map(|runtime| runtime.image.clone());
        if image.as_deref() == Some("stuck") && self.is_stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match next(&self.destructions) {
            Fault::None => {
                self.runtimes.lock().unwrap().remove(id);
                Ok(())
            }
            Fault::Clean | Fault::NoImage => Err(broken()),
            Fault::Lost => {
                self.runtimes.lock().unwrap().remove(id);
                Err(lost())
            }
            Fault::Hangs => std::future::pending().await,
        }
    }

    async fn pause(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "no pause"))
    }

    async fn resume(&self, _: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "no pause"))
    }

    async fn guest(&self, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        let runtime = self.status(id).await?;
        if runtime.state == RuntimeState::Dead {
            return Err(Error::new(ErrorKind::NoSandbox, "its first process ended"));
        }
        Ok(Arc::new(Inside(self.execs.clone())))
    }

    fn images(&self) -> Option<&dyn Images> {
        None
    }
}

/// The inside. Commands are words: `echo x`, `exit 3`, `hang`, `break`, `cat`.
struct Inside(Arc<Mutex<Vec<ExecSpec>>>);

fn said(offset: u64, data: &str) -> Result<ExecEvent> {
    let data = Bytes::copy_from_slice(data.as_bytes());
    Ok(ExecEvent::Output { offset, stream: Output::Stdout, data })
}

fn exit(code: i32) -> Result<ExecEvent> {
    Ok(ExecEvent::Exit(Exit::Code(code)))
}

#[async_trait]
impl Guest for Inside {
    async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        self.0.lock().unwrap().push(spec.clone());
        let (input, mut inputs) = mpsc::channel(1);
        let id = spec.id.clone();
        let line = match &spec.program {
            Program::Shell(line) => line.clone(),
            Program::Argv(args) => args.join(" "),
        };
        let events = match line.split_once(' ').unwrap_or((&line, "")) {
            ("echo", text) => stream::iter([said(0, text), exit(0)]).boxed(),
            ("exit", code) => stream::iter([said(0, "why"), exit(code.parse().unwrap())]).boxed(),
            ("hang", _) => stream::pending().boxed(),
            ("late", _) => stream::once(async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(ExecEvent::Exit(Exit::Timeout))
            })
            .boxed(),
            ("break", _) => stream::iter([said(0, "ab"), Err(lost())]).boxed(),
            ("cat", _) => stream::once(async move {
                let mut all = Vec::new();
                while let Some(ExecInput::Data(data)) = inputs.recv().await {
                    all.extend_from_slice(&data);
                }
                said(0, &all.len().to_string())
            })
            .chain(stream::iter([exit(0)]))
            .boxed(),
            ("flood", _) => {
                let pieces = (0..64).map(|n| said(n * 1024, &"x".repeat(1024)));
                stream::iter(pieces.chain([exit(0)]).collect::<Vec<_>>()).boxed()
            }
            _ => return Err(Error::new(ErrorKind::NotExecutable, "no such program")),
        };
        Ok(Exec { id, events, input })
    }

    async fn attach(&self, exec: &ExecId, offset: u64) -> Result<Exec> {
        let specs = self.0.lock().unwrap();
        if !specs.iter().any(|spec| spec.id == *exec) {
            return Err(Error::new(ErrorKind::NotFound, "no such command"));
        }
        drop(specs);
        let rest = &"abcd"[usize::try_from(offset).unwrap()..];
        let events = stream::iter([said(offset, rest), exit(0)]).boxed();
        Ok(Exec { id: exec.clone(), events, input: mpsc::channel(1).0 })
    }

    async fn read(&self, path: &str, range: Option<Range<u64>>) -> Result<FileRead> {
        let info = self.stat(path).await?;
        if range.is_some_and(|range| info.size <= range.start) {
            return Err(Error::new(ErrorKind::Invalid, "past the end"));
        }
        let body = stream::iter([Ok(Bytes::from_static(b"four"))]).boxed();
        Ok(FileRead { range: 0..info.size, info, body })
    }

    async fn write(&self, path: &str, _: WriteOptions, mut body: ByteStream) -> Result<FileInfo> {
        while let Some(piece) = body.next().await {
            piece?;
        }
        self.stat(path).await
    }

    async fn list(&self, _: &str) -> Result<Vec<FileInfo>> {
        Ok(Vec::new())
    }

    async fn stat(&self, path: &str) -> Result<FileInfo> {
        if path == "/missing" {
            return Err(Error::new(ErrorKind::NotFound, "no such file: /missing"));
        }
        Ok(FileInfo {
            path: path.to_owned(),
            size: 4,
            mode: 0o644,
            kind: FileKind::File,
            modified: Timestamp::from_micros(0),
        })
    }

    async fn glob(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn rename(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    async fn chmod(&self, _: &str, _: u32) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, _: &str, _: bool) -> Result<()> {
        Ok(())
    }

    async fn dial(&self, _: u16) -> Result<Box<dyn Duplex>> {
        Ok(Box::new(tokio::io::duplex(16).0))
    }

    async fn stats(&self) -> Result<Stats> {
        Ok(Stats::default())
    }

    async fn logs(&self, _: usize) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
