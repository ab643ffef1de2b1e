//! What a case works with: a provider, the sandboxes it launched, and shorthands.

use std::{
    collections::BTreeMap,
    future::Future,
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use stacyvm_types::{ExecId, Generation, Limits, SandboxId};
use tokio::time;

use crate::{
    ByteStream, Exec, ExecEvent, ExecSpec, Exit, Guest, LaunchSpec, Output, Program, Provider,
    Result, Stdin, WriteOptions,
};

/// How long anything may take that should be quick.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Starts and stops providers over one state of their own, as servers do that are upgraded.
pub trait Restart: Send + Sync {
    /// Opens a provider over what the last one left.
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Provider>>>;

    /// Ends a provider and leaves its runtimes alone.
    fn close(&self, provider: Arc<dyn Provider>) -> BoxFuture<'_, ()>;
}

/// One case's run with one provider.
#[derive(Clone)]
pub struct Scene {
    provider: Arc<dyn Provider>,
    pub(super) restart: Option<Arc<dyn Restart>>,
    launched: Arc<Mutex<Vec<SandboxId>>>,
    skipped: Arc<Mutex<Option<String>>>,
}

/// A sandbox that a case launched.
#[derive(Clone)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Its inside.
    pub guest: Arc<dyn Guest>,
}

/// A command that ended.
#[derive(Debug)]
pub struct Done {
    /// How.
    pub exit: Exit,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Both, with the stream of each byte, in the order of offsets.
    pub combined: Vec<(Output, u8)>,
    /// Where output was lost, if any was.
    pub truncated: Option<u64>,
}

impl Done {
    /// Standard output as text without white space at its ends.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

fn entropy() -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&RandomState::new().hash_one(0).to_le_bytes());
    bytes[8..].copy_from_slice(&RandomState::new().hash_one(1).to_le_bytes()[..2]);
    bytes
}

/// An id that nobody used.
pub fn fresh_id() -> SandboxId {
    SandboxId::from_entropy(entropy())
}

/// A command that a shell runs, with nothing else asked for.
pub fn shell(line: &str) -> ExecSpec {
    ExecSpec {
        id: ExecId::from_entropy(entropy()),
        program: Program::Shell(line.to_owned()),
        env: BTreeMap::new(),
        workdir: None,
        user: None,
        stdin: Stdin::Null,
        terminal: None,
        deadline: None,
    }
}

/// A program and its arguments.
pub fn argv(words: &[&str]) -> ExecSpec {
    let program = Program::Argv(words.iter().map(|word| (*word).to_owned()).collect());
    ExecSpec { program, ..shell("") }
}

/// A file of the host that nobody in a sandbox may see. It goes when this is dropped.
pub(super) struct Planted(pub(super) PathBuf);

impl Planted {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("stacyvm-suite-{}", fresh_id()));
        std::fs::write(&path, "of the host").unwrap();
        Self(path)
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        // There is nothing more to be done about one that cannot be removed.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Waits until something holds, and fails when it does not in reasonable time.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails when something takes too long.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("took longer than {PATIENCE:?}: {what}"),
    }
}

/// A body in pieces.
pub fn body(bytes: impl Into<Vec<u8>>) -> ByteStream {
    let bytes = Bytes::from(bytes.into());
    let pieces = (0..bytes.len().div_ceil(60_000)).map(move |index| {
        let start = index * 60_000;
        Ok(bytes.slice(start..bytes.len().min(start + 60_000)))
    });
    stream::iter(pieces).boxed()
}

/// Everything that a body holds.
pub(super) async fn whole(mut body: ByteStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// Follows a command to its end, checking that offsets have no gap.
pub async fn collect_from(exec: Exec, offset: u64) -> Done {
    let Exec { mut events, input, .. } = exec;
    let mut done = Done {
        exit: Exit::Lost,
        stdout: Vec::new(),
        stderr: Vec::new(),
        combined: Vec::new(),
        truncated: None,
    };
    let mut position = offset;
    while let Some(event) = events.next().await {
        match event.unwrap() {
            ExecEvent::Output { offset, stream, data } => {
                assert_eq!(offset, position, "a gap or an overlap in the output");
                assert!(!data.is_empty(), "an empty piece of output");
                position += data.len() as u64;
                done.combined.extend(data.iter().map(|byte| (stream, *byte)));
                match stream {
                    Output::Stdout => done.stdout.extend_from_slice(&data),
                    Output::Stderr => done.stderr.extend_from_slice(&data),
                }
            }
            ExecEvent::Truncated { resume } => {
                assert!(position < resume, "truncated backwards");
                position = resume;
                done.truncated = Some(resume);
            }
            ExecEvent::Exit(exit) => {
                assert!(events.next().await.is_none(), "something follows the end");
                drop(input);
                return Done { exit, ..done };
            }
        }
    }
    panic!("the output ended without an end");
}

impl Scene {
    pub(super) fn new(provider: Arc<dyn Provider>, restart: Option<Arc<dyn Restart>>) -> Self {
        Self { provider, restart, launched: Arc::default(), skipped: Arc::default() }
    }

    /// The provider.
    pub fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    /// A launch that is cleaned up after the case.
    pub(super) fn spec(&self, id: &SandboxId) -> LaunchSpec {
        self.launched.lock().unwrap().push(id.clone());
        LaunchSpec {
            id: id.clone(),
            generation: Generation(1),
            image: "host".to_owned(),
            limits: Limits { memory_mb: 512, vcpus: 1, pids: 128, disk_mb: 256 },
            ttl: None,
        }
    }

    /// A sandbox with the usual limits.
    pub async fn sandbox(&self) -> Sandbox {
        self.launch(self.spec(&fresh_id())).await
    }

    /// A sandbox with limits of its own.
    pub(super) async fn limited(&self, limits: Limits) -> Sandbox {
        self.launch(LaunchSpec { limits, ..self.spec(&fresh_id()) }).await
    }

    pub(super) async fn launch(&self, spec: LaunchSpec) -> Sandbox {
        soon("launch", self.provider.launch(&spec)).await.unwrap();
        let guest = self.provider.guest(&spec.id).await.unwrap();
        Sandbox { id: spec.id, guest }
    }

    /// Says why this host cannot show the promise; the case is then reported as ignored.
    pub(super) fn skip(&self, reason: &str) {
        *self.skipped.lock().unwrap() = Some(reason.to_owned());
    }

    pub(super) fn skipped(&self) -> Option<String> {
        self.skipped.lock().unwrap().clone()
    }

    /// Destroys everything that was launched.
    pub(super) async fn clean(&self) -> Result<()> {
        let launched = std::mem::take(&mut *self.launched.lock().unwrap());
        for id in launched {
            soon("destroy", self.provider.destroy(&id)).await?;
        }
        Ok(())
    }
}

impl Sandbox {
    /// Runs a line to its end.
    pub async fn sh(&self, line: &str) -> Done {
        self.run(shell(line)).await
    }

    /// Runs a command to its end.
    pub async fn run(&self, spec: ExecSpec) -> Done {
        let what = format!("{:?}", spec.program);
        let exec = soon(&what, self.guest.exec(spec)).await.unwrap();
        soon(&what, collect_from(exec, 0)).await
    }

    /// Runs a line that must succeed and answers what it wrote.
    pub async fn ok(&self, line: &str) -> String {
        let done = self.sh(line).await;
        let errors = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.exit, Exit::Code(0), "{line}: {errors}");
        done.text()
    }

    /// Writes a file.
    pub async fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        let write = self.guest.write(path, WriteOptions::default(), body(bytes));
        soon(path, write).await.unwrap();
    }

    /// Reads a file.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>> {
        let read = soon(path, self.guest.read(path, None)).await?;
        soon(path, whole(read.body)).await
    }

    /// Waits until a file is there.
    pub async fn appears(&self, path: &str) {
        eventually(path, || async move { self.guest.stat(path).await.is_ok() }).await;
    }
}
