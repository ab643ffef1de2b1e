//! The inside of a mock sandbox.

use std::{
    collections::{HashSet, VecDeque},
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stacyvm_types::{ExecId, SandboxId};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    net::TcpStream,
    task::{self, JoinSet},
};

use crate::{
    ByteStream, Duplex, Error, ErrorKind, Exec, ExecSpec, FileInfo, FileRead, Guest, Result, Stats,
    WriteOptions,
    mock::{
        command,
        exec::{self, Running},
        faults::Faults,
        logs::Logs,
        processes, remove,
        tree::{self, GuestPath, Tree},
    },
};

/// Ended commands that can still be attached to, for how long, and with how many bytes in all.
const KEPT_EXECS: usize = 32;
const KEPT_FOR: Duration = Duration::from_secs(300);
const KEPT_BYTES: u64 = 4 << 20;

/// Bytes of a file read at once.
const PIECE: usize = 64 << 10;

#[derive(Default)]
struct Execs {
    known: VecDeque<(ExecId, Running)>,
    /// Those that were started and are known no more, too.
    started: HashSet<ExecId>,
    drivers: JoinSet<()>,
}

impl Execs {
    fn find(&self, id: &ExecId) -> Option<&Running> {
        self.known.iter().find(|(known, _)| known == id).map(|(_, running)| running)
    }

    fn forget_old(&mut self, now: Instant) {
        while self.drivers.try_join_next().is_some() {}
        let (mut count, mut bytes) = (0, 0);
        let mut keep: VecDeque<_> = VecDeque::with_capacity(self.known.len());
        while let Some((id, running)) = self.known.pop_back() {
            let kept = running.journal.ended().is_none_or(|(at, size)| {
                count += 1;
                bytes += size;
                count <= KEPT_EXECS && bytes <= KEPT_BYTES && now.duration_since(at) <= KEPT_FOR
            });
            if kept {
                keep.push_front((id, running));
            }
        }
        self.known = keep;
    }
}

/// One sandbox: a directory and the processes that carry its mark.
pub(super) struct Sandbox {
    id: SandboxId,
    root: PathBuf,
    tree: Arc<Tree>,
    execs: Mutex<Execs>,
    logs: Arc<Mutex<Logs>>,
    gone: AtomicBool,
    dead: AtomicBool,
    faults: Arc<Faults>,
}

impl Sandbox {
    /// Makes the directories of a sandbox.
    pub(super) fn make(id: SandboxId, root: PathBuf, faults: Arc<Faults>) -> Result<Self> {
        let made = ["workspace", "tmp", "etc", "root"]
            .iter()
            .try_for_each(|name| std::fs::create_dir_all(root.join(name)))
            .and_then(|()| Tree::open(&root));
        let tree = made.map_err(|error| {
            Error::new(ErrorKind::Internal, "the sandbox's directory cannot be made").because(error)
        })?;
        Ok(Self {
            id,
            root,
            tree: Arc::new(tree),
            execs: Mutex::default(),
            logs: Arc::default(),
            gone: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            faults,
        })
    }

    fn execs(&self) -> MutexGuard<'_, Execs> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn mark(&self) -> String {
        format!("{}:", self.root.display())
    }

    /// Ends all processes; files stay. Blocking. Answers whether nothing is left.
    pub(super) fn crash(&self) -> bool {
        self.dead.store(true, Ordering::SeqCst);
        processes::kill_tree(&self.mark(), None)
    }

    /// Ends the sandbox. Blocking.
    pub(super) fn end(&self) -> Result<()> {
        self.gone.store(true, Ordering::SeqCst);
        // Taken under the lock, so that no command starts after the kill.
        let execs = self.execs();
        if !processes::kill_tree(&self.mark(), None) {
            return Err(Error::unknown(ErrorKind::Unavailable, "processes of the sandbox live on"));
        }
        for (_, running) in &execs.known {
            running.journal.finish(crate::Exit::Lost, Instant::now());
        }
        drop(execs);
        let (Some(parent), Some(name)) = (self.root.parent(), self.root.file_name()) else {
            return Ok(());
        };
        let removed = std::fs::File::open(parent).map_err(Error::from_io).and_then(|parent| {
            remove::remove_tree(&parent, name.as_encoded_bytes())
                .map_err(|errno| tree::error(errno, "the sandbox's directory"))
        });
        match removed {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn alive(&self) -> Result<()> {
        self.faults.before_call().await;
        if self.gone.load(Ordering::SeqCst) {
            return Err(super::no_sandbox(&self.id));
        }
        if self.is_dead() {
            return Err(Error::new(ErrorKind::Unavailable, "the sandbox has died"));
        }
        Ok(())
    }

    /// Runs a file operation on a thread that may block.
    async fn files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.alive().await?;
        let tree = Arc::clone(&self.tree);
        match task::spawn_blocking(move || work(&tree)).await {
            Ok(done) => done,
            Err(error) => {
                Err(Error::unknown(ErrorKind::Internal, "the operation broke").because(error))
            }
        }
    }
}

impl Error {
    fn from_io(error: std::io::Error) -> Self {
        let errno = rustix::io::Errno::from_io_error(&error);
        match errno {
            Some(errno) => tree::error(errno, "the file"),
            None => Self::new(ErrorKind::Internal, "the operation failed").because(error),
        }
    }
}

#[async_trait]
impl Guest for Sandbox {
    async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        self.alive().await?;
        let mut execs = self.execs();
        if let Some(running) = execs.find(&spec.id) {
            return Ok(running.follow(0));
        }
        if execs.started.contains(&spec.id) {
            let message = format!("command {} has run, and its output is not kept", spec.id);
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        if self.gone.load(Ordering::SeqCst) {
            return Err(super::no_sandbox(&self.id));
        }
        let mark = format!("{}{}", self.mark(), spec.id);
        let started = command::start(&self.root, &mark, &spec)?;
        let id = spec.id.clone();
        let logs = Arc::clone(&self.logs);
        let (running, driver) = exec::prepare(id, started, mark, spec.deadline, logs);
        let exec = running.follow(0);
        execs.drivers.spawn(driver.run());
        execs.started.insert(spec.id.clone());
        execs.known.push_back((spec.id, running));
        execs.forget_old(Instant::now());
        Ok(exec)
    }

    async fn attach(&self, exec: &ExecId, offset: u64) -> Result<Exec> {
        self.alive().await?;
        let mut execs = self.execs();
        execs.forget_old(Instant::now());
        let running = execs
            .find(exec)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no command {exec}")))?;
        Ok(running.follow(offset))
    }

    async fn read(&self, path: &str, range: Option<Range<u64>>) -> Result<FileRead> {
        let path = GuestPath::parse(path)?;
        let (file, info) = self.files(move |tree| tree.open_file(&path)).await?;
        let range = range.unwrap_or(0..info.size);
        if info.size < range.start || range.end < range.start {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the range starts after the end of {} bytes", info.size),
            ));
        }
        let range = range.start..range.end.min(info.size);
        let mut file = tokio::fs::File::from_std(file);
        file.seek(std::io::SeekFrom::Start(range.start)).await.map_err(Error::from_io)?;
        let left = range.end - range.start;
        let body = stream::try_unfold((file, left), |(mut file, left)| async move {
            let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            let count = match piece.len() {
                0 => 0,
                _ => file.read(&mut piece).await.map_err(Error::from_io)?,
            };
            piece.truncate(count);
            let rest = (file, left - count as u64);
            Ok((0 < count).then(|| (Bytes::from(piece), rest)))
        });
        Ok(FileRead { info, range, body: body.boxed() })
    }

    async fn write(
        &self,
        path: &str,
        options: WriteOptions,
        mut body: ByteStream,
    ) -> Result<FileInfo> {
        let path = GuestPath::parse(path)?;
        let draft = self.files(move |tree| tree.draft(&path, options.mode)).await?;
        let file = draft.file.try_clone().map_err(Error::from_io)?;
        let mut file = tokio::fs::File::from_std(file);
        while let Some(piece) = body.next().await {
            file.write_all(&piece?).await.map_err(Error::from_io)?;
        }
        file.flush().await.map_err(Error::from_io)?;
        self.files(move |_| draft.commit()).await
    }

    async fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        let path = GuestPath::parse(path)?;
        self.files(move |tree| tree.list(&path)).await
    }

    async fn stat(&self, path: &str) -> Result<FileInfo> {
        let path = GuestPath::parse(path)?;
        self.files(move |tree| tree.stat(&path)).await
    }

    async fn glob(&self, pattern: &str) -> Result<Vec<String>> {
        let pattern = pattern.to_owned();
        self.files(move |tree| tree.glob(&pattern)).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (GuestPath::parse(from)?, GuestPath::parse(to)?);
        self.files(move |tree| tree.rename(&from, &to)).await
    }

    async fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        let path = GuestPath::parse(path)?;
        self.files(move |tree| tree.chmod(&path, mode)).await
    }

    async fn remove(&self, path: &str, recursive: bool) -> Result<()> {
        let path = GuestPath::parse(path)?;
        self.files(move |tree| tree.remove(&path, recursive)).await
    }

    async fn dial(&self, port: u16) -> Result<Box<dyn Duplex>> {
        self.alive().await?;
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("nothing answers on port {port}"))
                .because(error)
        })?;
        Ok(Box::new(stream))
    }

    async fn stats(&self) -> Result<Stats> {
        let mark = self.mark();
        self.files(move |tree| {
            let usage = processes::usage(&mark);
            Ok(Stats {
                cpu_us: Some(usage.cpu_us),
                memory_bytes: Some(usage.memory_bytes),
                pids: Some(usage.threads),
                disk_bytes: Some(tree.size()),
                ..Stats::default()
            })
        })
        .await
    }

    async fn logs(&self, lines: usize) -> Result<Vec<String>> {
        self.alive().await?;
        Ok(self.logs.lock().unwrap_or_else(PoisonError::into_inner).tail(lines))
    }
}
