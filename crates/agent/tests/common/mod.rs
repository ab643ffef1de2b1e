//! A real agent in its own pid and mount namespaces, and the client that talks to it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stacyvm_agent_client::AgentGuest;
use stacyvm_provider::{
    ByteStream, Exec, ExecEvent, ExecSpec, Exit, Guest, Output, Program, Stdin, WriteOptions,
};
use stacyvm_types::ExecId;

/// Longer than anything here takes; a test that reaches it has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// An agent and a guest on it. Dropping it kills the agent and its namespace.
pub(crate) struct Sandbox {
    pub(crate) guest: AgentGuest,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) agent: Child,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// Whether namespaces can be made here; says why not.
pub(crate) fn namespaces() -> bool {
    let can = Command::new("unshare")
        .args(["--pid", "--mount", "--fork", "--mount-proc", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: pid and mount namespaces cannot be made here (not root?)");
    }
    can
}

impl Sandbox {
    /// Starts an agent, or says why the test is skipped.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// The same with these arguments.
    pub(crate) async fn start_with(arguments: &[&str]) -> Option<Self> {
        if !namespaces() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let agent = Command::new("unshare")
            .args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc"])
            .arg(env!("CARGO_BIN_EXE_stacyvm-agent"))
            .args(arguments)
            .arg("--listen")
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let guest = AgentGuest::new(stacyvm_agent_client::unix(&socket));
        let started = Instant::now();
        while guest.hello().await.is_err() {
            assert!(started.elapsed() < LIMIT, "the agent does not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(Self { guest, dir, agent })
    }

    /// The socket that the agent listens on.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Another client of the same agent.
    pub(crate) fn other_guest(&self) -> AgentGuest {
        AgentGuest::new(stacyvm_agent_client::unix(self.socket()))
    }

    /// A path for the test's files.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs a shell line to its end.
    pub(crate) async fn sh(&self, line: &str) -> Ran {
        run(&self.guest, shell(line)).await
    }

    pub(crate) async fn put(&self, path: &str, content: &str) {
        let body = body([content.as_bytes()]);
        self.guest.write(path, WriteOptions::default(), body).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Vec<u8> {
        collect(self.guest.read(path, None).await.unwrap().body).await
    }
}

/// A fresh exec id.
pub(crate) fn id() -> ExecId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut entropy = [0; 10];
    entropy[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    ExecId::from_entropy(entropy)
}

pub(crate) fn spec(program: Program) -> ExecSpec {
    ExecSpec {
        id: id(),
        program,
        env: BTreeMap::new(),
        workdir: None,
        user: None,
        stdin: Stdin::Null,
        terminal: None,
        deadline: None,
    }
}

pub(crate) fn shell(line: &str) -> ExecSpec {
    spec(Program::Shell(line.to_owned()))
}

pub(crate) fn argv(argv: &[&str]) -> ExecSpec {
    spec(Program::Argv(argv.iter().map(|a| (*a).to_owned()).collect()))
}

/// All that a command said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Option<Exit>,
    pub(crate) truncated: bool,
    pub(crate) next: u64,
}

impl Ran {
    pub(crate) fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

pub(crate) async fn run(guest: &AgentGuest, spec: ExecSpec) -> Ran {
    finish(guest.exec(spec).await.unwrap(), 0).await
}

/// Reads a command to its end and checks that offsets have no gap.
pub(crate) async fn finish(mut exec: Exec, offset: u64) -> Ran {
    let mut ran = Ran { next: offset, ..Ran::default() };
    while let Some(event) = next(&mut exec).await {
        match event {
            ExecEvent::Output { offset, stream, data } => {
                assert_eq!(offset, ran.next);
                ran.next += data.len() as u64;
                match stream {
                    Output::Stdout => ran.stdout.extend_from_slice(&data),
                    Output::Stderr => ran.stderr.extend_from_slice(&data),
                }
            }
            ExecEvent::Truncated { resume } => {
                ran.truncated = true;
                ran.next = resume;
            }
            ExecEvent::Exit(exit) => ran.exit = Some(exit),
        }
    }
    ran
}

/// The next event, within the limit of a test.
pub(crate) async fn next(exec: &mut Exec) -> Option<ExecEvent> {
    tokio::time::timeout(LIMIT, exec.events.next()).await.expect("no event").map(Result::unwrap)
}

/// Reads until the standard output so far ends with `wanted`.
pub(crate) async fn until(exec: &mut Exec, wanted: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(wanted) {
        match next(exec).await {
            Some(ExecEvent::Output { data, .. }) => text += &String::from_utf8_lossy(&data),
            other => panic!("{other:?} after {text:?}"),
        }
    }
    text
}

pub(crate) fn body<const N: usize>(pieces: [&[u8]; N]) -> ByteStream {
    stream::iter(pieces.map(|piece| Ok(Bytes::copy_from_slice(piece)))).boxed()
}

pub(crate) async fn collect(mut body: ByteStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = body.next().await {
        all.extend_from_slice(&piece.unwrap());
    }
    all
}
