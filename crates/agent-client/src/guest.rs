//! The guest: one call, one stream.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_agent_proto::{
    Exec as ExecRequest, Hello, PROTOCOL_VERSION, Program as ExecProgram, Reply, Request, Usage,
};
use stacyvm_provider::{
    ByteStream, Duplex, Error, ErrorKind, Exec, ExecSpec, FileInfo, FileRead, Guest, Program,
    Result, Stats, Stdin, WriteOptions,
};
use stacyvm_types::ExecId;

use crate::{
    connect::Connector,
    exec, files, reply,
    session::Session,
    stream::{Messages, nonsense},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Sessions that a request tries before it counts as one too many.
const SESSIONS_TRIED: usize = 8;

/// Lines of a log that are asked for at most.
const MAX_LINES: usize = 100_000;

type HostStats = Arc<dyn Fn() -> Stats + Send + Sync>;

/// What an agent said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloInfo {
    /// The protocol version that it speaks.
    pub version: u32,
    /// Its build.
    pub build: String,
    /// Commands that run now.
    pub running: u32,
}

/// The inside of a sandbox, through its agent.
pub struct AgentGuest {
    connect: Connector,
    session: Mutex<Option<Arc<Session>>>,
    connecting: tokio::sync::Mutex<()>,
    host_stats: Option<HostStats>,
}

impl AgentGuest {
    /// A guest whose agent answers on the channels that `connect` yields. Nothing is connected yet.
    pub fn new(connect: Connector) -> Self {
        Self {
            connect,
            session: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            host_stats: None,
        }
    }

    /// Figures that only the host knows; where it has one, it wins over the agent's.
    #[must_use]
    pub fn with_host_stats(mut self, stats: Arc<dyn Fn() -> Stats + Send + Sync>) -> Self {
        self.host_stats = Some(stats);
        self
    }

    /// Asks the agent who it is: it answers exactly when the sandbox is ready.
    pub async fn hello(&self) -> Result<HelloInfo> {
        let request = Request::Hello(Hello { version: PROTOCOL_VERSION });
        self.call(&request, |reply| match reply {
            Reply::Hello(hello) => Ok(HelloInfo {
                version: hello.version,
                build: hello.build.chars().filter(|c| !c.is_control()).take(64).collect(),
                running: hello.running,
            }),
            _ => Err(nonsense()),
        })
        .await
    }

    /// The session that is open, if one is.
    fn current(&self) -> Option<Arc<Session>> {
        let mut slot = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|session| session.is_closed()) {
            *slot = None;
        }
        slot.clone()
    }

    /// The open session, unless it is the one that takes no more; then a new one in its place. A
    /// session that lost its place lives on for as long as it has streams.
    async fn other_than(&self, full: Option<&Arc<Session>>) -> Result<Arc<Session>> {
        let _one_connects = self.connecting.lock().await;
        if let Some(session) = self.current()
            && !full.is_some_and(|full| Arc::ptr_eq(full, &session))
        {
            return Ok(session);
        }
        let unreachable =
            || Error::new(ErrorKind::Unavailable, "the sandbox's agent cannot be reached");
        let channel = tokio::time::timeout(CONNECT, (self.connect)())
            .await
            .map_err(|_| unreachable())?
            .map_err(|error| unreachable().because(error))?;
        let session = Session::start(channel);
        let mut slot = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Sends a request on a new stream, over a new session when the old one takes no more.
    async fn request(&self, request: &Request<'_>) -> Result<Messages> {
        let mut session = self.current();
        for _ in 0..SESSIONS_TRIED {
            if let Some(session) = &session
                && let Some(messages) = Messages::request(session, request).await
            {
                return messages;
            }
            session = Some(self.other_than(session.as_ref()).await?);
        }
        Err(Error::new(ErrorKind::Exhausted, "the sandbox's agent takes no more requests"))
    }

    async fn call<T>(
        &self,
        request: &Request<'_>,
        read: impl FnOnce(Reply<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        self.request(request).await?.answer(read).await
    }

    async fn done(&self, request: &Request<'_>) -> Result<()> {
        self.call(request, done).await
    }
}

fn done(reply: Reply<'_>) -> Result<()> {
    if reply == Reply::Done { Ok(()) } else { Err(nonsense()) }
}

fn started(reply: Reply<'_>) -> Result<()> {
    if reply == Reply::Started { Ok(()) } else { Err(nonsense()) }
}

/// Texts longer than this in one request are refused before they are sent.
const MAX_REQUEST: usize = 1 << 20;

fn check_size(texts: impl IntoIterator<Item = usize>) -> Result<()> {
    // Each text costs its length and a prefix of at most three bytes.
    if MAX_REQUEST < texts.into_iter().map(|length| length + 3).sum() {
        let message = "the command's arguments and environment are longer than 1 MiB";
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

#[async_trait]
impl Guest for AgentGuest {
    async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        let program = match &spec.program {
            Program::Shell(line) => ExecProgram::Shell(line),
            Program::Argv(argv) => ExecProgram::Argv(argv.iter().map(String::as_str).collect()),
        };
        let arguments = match &spec.program {
            Program::Shell(line) => vec![line.len()],
            Program::Argv(argv) => argv.iter().map(String::len).collect(),
        };
        let env = spec.env.iter().map(|(name, value)| name.len() + value.len());
        let rest = [&spec.workdir, &spec.user].into_iter().flatten().map(String::len);
        check_size(arguments.into_iter().chain(env).chain(rest))?;
        let request = Request::Exec(ExecRequest {
            id: spec.id.as_str(),
            program,
            env: spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            workdir: spec.workdir.as_deref(),
            user: spec.user.as_deref(),
            stdin: spec.stdin == Stdin::Pipe,
            terminal: spec.terminal.map(|size| (size.rows, size.cols)),
            deadline_ms: spec
                .deadline
                .map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
        });
        let mut messages = self.request(&request).await?;
        messages.answer(started).await?;
        Ok(exec::follow(spec.id, messages, 0))
    }

    async fn attach(&self, id: &ExecId, offset: u64) -> Result<Exec> {
        let mut messages = self.request(&Request::Attach { id: id.as_str(), offset }).await?;
        messages.answer(started).await?;
        Ok(exec::follow(id.clone(), messages, offset))
    }

    async fn read(&self, path: &str, range: Option<Range<u64>>) -> Result<FileRead> {
        let range = range.map(|range| (range.start, range.end));
        check_size([path.len()])?;
        files::read(self.request(&Request::Read { path, range }).await?).await
    }

    async fn write(&self, path: &str, options: WriteOptions, body: ByteStream) -> Result<FileInfo> {
        check_size([path.len()])?;
        let request = Request::Write { path, mode: options.mode };
        files::write(self.request(&request).await?, body).await
    }

    async fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        check_size([path.len()])?;
        files::entries(self.request(&Request::List { path }).await?).await
    }

    async fn stat(&self, path: &str) -> Result<FileInfo> {
        check_size([path.len()])?;
        self.call(&Request::Stat { path }, |reply| match reply {
            Reply::Stat(entry) => reply::info(entry),
            _ => Err(nonsense()),
        })
        .await
    }

    async fn glob(&self, pattern: &str) -> Result<Vec<String>> {
        check_size([pattern.len()])?;
        files::paths(self.request(&Request::Glob { pattern }).await?).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_size([from.len(), to.len()])?;
        self.done(&Request::Rename { from, to }).await
    }

    async fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        check_size([path.len()])?;
        self.done(&Request::Chmod { path, mode }).await
    }

    async fn remove(&self, path: &str, recursive: bool) -> Result<()> {
        check_size([path.len()])?;
        self.done(&Request::Remove { path, recursive }).await
    }

    async fn dial(&self, port: u16) -> Result<Box<dyn Duplex>> {
        let mut messages = self.request(&Request::Dial { port }).await?;
        messages.answer(done).await?;
        Ok(Box::new(messages.into_channel()))
    }

    async fn stats(&self) -> Result<Stats> {
        let usage = self
            .call(&Request::Stats, |reply| match reply {
                Reply::Stats(usage) => Ok(usage),
                _ => Err(nonsense()),
            })
            .await?;
        let host = self.host_stats.as_ref().map(|stats| stats()).unwrap_or_default();
        Ok(merged(host, usage))
    }

    async fn logs(&self, lines: usize) -> Result<Vec<String>> {
        let wanted = u32::try_from(lines.min(MAX_LINES)).unwrap_or(u32::MAX);
        self.call(&Request::Logs { lines: wanted }, |reply| match reply {
            Reply::Lines(told) if told.len() <= lines => {
                Ok(told.into_iter().map(std::borrow::Cow::into_owned).collect())
            }
            _ => Err(nonsense()),
        })
        .await
    }
}

fn merged(host: Stats, agent: Usage) -> Stats {
    Stats {
        cpu_us: host.cpu_us.or(agent.cpu_us),
        memory_bytes: host.memory_bytes.or(agent.memory_bytes),
        memory_limit_bytes: host.memory_limit_bytes,
        pids: host.pids.or(agent.pids),
        disk_bytes: host.disk_bytes.or(agent.disk_bytes),
        disk_limit_bytes: host.disk_limit_bytes.or(agent.disk_limit_bytes),
        net_rx_bytes: host.net_rx_bytes.or(agent.net_rx_bytes),
        net_tx_bytes: host.net_tx_bytes.or(agent.net_tx_bytes),
    }
}
