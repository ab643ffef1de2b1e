//! The server's side of the spawner: calls by number, answered in any order.

use std::{
    collections::HashMap,
    fmt, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use stacyvm_hostkit::fdpass;
use stacyvm_provider::{Error, ErrorKind, Result};

use super::{
    ARGUMENT,
    protocol::{MAX_MESSAGE, Order, Reply, Request},
};

/// How long a call waits for its answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A spawner that lived shorter than this is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

type Answer = Result<(i32, OwnedFd), String>;
/// Calls in flight; `None` when the spawner is gone.
type Pending = Option<HashMap<u64, SyncSender<Answer>>>;

/// A running spawner process. Dropping it ends the process; sandboxes live on.
///
/// When the process dies, calls in flight fail with an unknown outcome, and the next call starts
/// another one.
pub struct Spawner {
    connection: Mutex<Connection>,
    calls: AtomicU64,
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spawner")
    }
}

struct Connection {
    socket: Arc<OwnedFd>,
    child: Child,
    pending: Arc<Mutex<Pending>>,
    reader: Option<JoinHandle<()>>,
    started: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spawner {
    /// Starts the process. Called before this process has threads.
    pub fn start() -> io::Result<Self> {
        Ok(Self { connection: Mutex::new(Connection::open()?), calls: AtomicU64::new(0) })
    }

    /// The process number of the spawner.
    pub fn pid(&self) -> u32 {
        locked(&self.connection).child.id()
    }

    /// Starts a first process, and gives its number and pidfd. Waits; not for async code.
    pub(crate) fn launch(&self, order: Order, fds: &[BorrowedFd<'_>]) -> Result<(i32, OwnedFd)> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let request = postcard::to_allocvec(&Request { call, order })
            .map_err(|error| failed("the order cannot be written").because(error))?;
        let (answer, answered) = sync_channel(1);
        let (socket, pending) = self.connected()?;
        match locked(&pending).as_mut() {
            Some(calls) => calls.insert(call, answer),
            None => return Err(unavailable()),
        };
        if let Err(error) = fdpass::send(&*socket, &request, fds) {
            forget(&pending, call);
            return Err(unavailable().because(error));
        }
        match answered.recv_timeout(ANSWER) {
            Ok(Ok(started)) => Ok(started),
            Ok(Err(sentence)) => Err(failed("the sandbox could not be started").because(sentence)),
            Err(RecvTimeoutError::Disconnected) => Err(lost()),
            Err(RecvTimeoutError::Timeout) => {
                forget(&pending, call);
                Err(Error::unknown(ErrorKind::Timeout, "starting the sandbox took too long"))
            }
        }
    }

    /// The connection, a new one when the old one broke.
    fn connected(&self) -> Result<(Arc<OwnedFd>, Arc<Mutex<Pending>>)> {
        let mut connection = locked(&self.connection);
        if locked(&connection.pending).is_none() {
            if connection.started.elapsed() < SHORT_LIFE {
                return Err(unavailable());
            }
            tracing::warn!("the spawner process died; starting another one");
            *connection = Connection::open().map_err(|error| unavailable().because(error))?;
        }
        Ok((Arc::clone(&connection.socket), Arc::clone(&connection.pending)))
    }
}

fn failed(sentence: &str) -> Error {
    Error::new(ErrorKind::Internal, sentence)
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "sandboxes cannot be started at the moment")
}

fn lost() -> Error {
    Error::unknown(ErrorKind::Unavailable, "the process that starts sandboxes died meanwhile")
}

fn forget(pending: &Mutex<Pending>, call: u64) {
    if let Some(calls) = locked(pending).as_mut() {
        calls.remove(&call);
    }
}

impl Connection {
    fn open() -> io::Result<Self> {
        let (socket, theirs) = fdpass::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0("stacyvm: spawner")
            .arg(ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        let socket = Arc::new(socket);
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let reader = std::thread::Builder::new().name("spawner-replies".to_owned()).spawn({
            let (socket, pending) = (Arc::clone(&socket), Arc::clone(&pending));
            move || {
                read_replies(&socket, &pending);
                // Whoever waits now finds its channel closed.
                locked(&pending).take();
            }
        })?;
        Ok(Self { socket, child, pending, reader: Some(reader), started: Instant::now() })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(self.socket.as_fd(), rustix::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let _ = self.child.wait();
    }
}

fn read_replies(socket: &OwnedFd, pending: &Mutex<Pending>) {
    let mut buffer = vec![0; MAX_MESSAGE];
    while let Ok(Some((length, fds))) = fdpass::receive(socket, &mut buffer) {
        let Ok(reply) = postcard::from_bytes::<Reply>(&buffer[..length]) else { return };
        let call = locked(pending).as_mut().and_then(|calls| calls.remove(&reply.call));
        let answer = match (reply.started, fds.into_iter().next()) {
            (Ok(pid), Some(pidfd)) => Ok((pid, pidfd)),
            (Ok(_), None) => Err("the spawner sent no descriptor".to_owned()),
            (Err(sentence), _) => Err(sentence),
        };
        // Nobody waits any more: dropping the status channel ends that sandbox.
        if let Some(call) = call {
            let _ = call.try_send(answer);
        }
    }
}
