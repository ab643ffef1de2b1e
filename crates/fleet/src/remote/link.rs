//! The connections to one worker: made when they are needed, kept for a while, used again.
//!
//! HTTP/1.1, one call at a time on each. A call that certainly never left is
//! [`Outcome::NotDone`]; every other broken one is [`Outcome::Unknown`].
//!
//! [`Outcome::NotDone`]: stacyvm_provider::Outcome::NotDone
//! [`Outcome::Unknown`]: stacyvm_provider::Outcome::Unknown

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::WorkerId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{Connect, address::Address};
use crate::{
    identity::{Credentials, scope_of},
    wire,
};

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection is kept without a call. A worker keeps them for longer.
const IDLE: Duration = Duration::from_secs(15);
/// How long a connection is used: who is at its ends was found out when it was made, and keys and
/// certificates change.
const OLDEST: Duration = Duration::from_secs(60);
/// Connections that are kept without a call.
const KEPT: usize = 64;
/// Calls at once, and streams at once: commands that are followed, bodies, dialled ports.
const CALLS: usize = 512;
const STREAMS: usize = 4096;
/// Hints at once.
const HINTS: usize = 16;
/// Long answers that are held at once.
const LONG_ANSWERS: usize = 4;
/// How long a call waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// How long a kept connection may take to be ready again.
const READY: Duration = Duration::from_millis(100);

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, Broken>;

/// A body that cannot be sent to its end.
#[derive(Debug, thiserror::Error)]
#[error("the body of a request broke off")]
pub(crate) struct Broken;

pub(crate) struct Link {
    worker: WorkerId,
    address: Address,
    connect: Arc<dyn Connect>,
    credentials: Arc<dyn Credentials>,
    idle: Mutex<Vec<Idle>>,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    hints: Arc<Semaphore>,
    pub(crate) long_answers: Arc<Semaphore>,
    /// When a call did not come through, until one does.
    failed_at: Mutex<Option<Instant>>,
    /// The connections, and what reads their last bytes.
    pub(crate) tasks: TaskTracker,
    alive: CancellationToken,
    /// Ends the tasks with the link.
    _end: DropGuard,
}

struct Idle {
    since: Instant,
    made: Instant,
    connection: Connection,
}

type Connection = http1::SendRequest<Body>;

/// What a call is, for its turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Call,
    Stream,
}

/// An answer whose body is still to be read, on a connection of its own until then.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lent: Lent,
}

/// A connection that is in use, and the turn that it takes.
pub(crate) struct Lent {
    link: Arc<Link>,
    made: Instant,
    connection: Connection,
    _turn: OwnedSemaphorePermit,
}

impl Lent {
    /// Gives the connection back; its answer has been read to the end.
    pub(crate) fn give_back(self) {
        let Self { link, made, connection, .. } = self;
        let mut idle = link.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && made.elapsed() < OLDEST {
            idle.push(Idle { since: Instant::now(), made, connection });
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

/// A request that the link completes and sends.
pub(crate) struct Outgoing {
    pub(crate) method: &'static str,
    pub(crate) turn: Turn,
    pub(crate) headers: Vec<(http::HeaderName, HeaderValue)>,
    pub(crate) body: Body,
}

impl Link {
    pub(crate) fn new(
        worker: WorkerId,
        url: &str,
        connect: Arc<dyn Connect>,
        credentials: Arc<dyn Credentials>,
    ) -> Result<Arc<Self>> {
        let address = Address::parse(url).ok_or_else(|| {
            let message = format!("worker {worker} has an address that is none");
            Error::new(ErrorKind::Invalid, message)
        })?;
        if address.is_protected && !connect.is_protected() {
            let message =
                format!("worker {worker} is called through TLS, which is not set up here");
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let alive = CancellationToken::new();
        Ok(Arc::new(Self {
            worker,
            address,
            connect,
            credentials,
            idle: Mutex::default(),
            calls: Arc::new(Semaphore::new(CALLS)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            hints: Arc::new(Semaphore::new(HINTS)),
            long_answers: Arc::new(Semaphore::new(LONG_ANSWERS)),
            failed_at: Mutex::default(),
            tasks: TaskTracker::new(),
            _end: alive.clone().drop_guard(),
            alive,
        }))
    }

    pub(crate) const fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// Runs what a call leaves to be done, until it is done or the link is gone.
    pub(crate) fn afterwards(&self, work: impl Future<Output = ()> + Send + 'static) {
        let alive = self.alive.clone();
        self.tasks.spawn(async move {
            alive.run_until_cancelled(work).await;
        });
    }

    /// Runs a hint, unless more of them are under way than are worth it.
    pub(crate) fn tell(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Ok(turn) = Arc::clone(&self.hints).try_acquire_owned() {
            self.afterwards(async move {
                work.await;
                drop(turn);
            });
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(self: &Arc<Self>, outgoing: Outgoing) -> Result<Answer> {
        let Outgoing { method, turn, headers, body } = outgoing;
        let turn = self.turn(turn).await?;
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::from_static(wire::PATH);
        let head = request.headers_mut();
        head.insert(header::HOST, self.address.authority.clone());
        head.extend(self.shown(method)?);
        head.extend(headers);
        loop {
            let (mut connection, made, is_fresh) = match self.kept().await {
                Some((connection, made)) => (connection, made, false),
                None => (self.open().await?, Instant::now(), true),
            };
            match connection.try_send_request(request).await {
                Ok(response) => {
                    *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    let lent = Lent { link: Arc::clone(self), made, connection, _turn: turn };
                    return Ok(Answer { response, lent });
                }
                Err(mut failed) => match failed.take_message() {
                    // It never left. A kept connection may have been closed meanwhile.
                    Some(unsent) if !is_fresh => request = unsent,
                    Some(_) => return Err(self.unreachable().because(failed.into_error())),
                    None => return Err(self.broke_off().because(failed.into_error())),
                },
            }
        }
    }

    /// What proves to the worker who calls.
    fn shown(&self, method: &str) -> Result<http::HeaderMap> {
        let headers = scope_of(method).map(|scope| self.credentials.headers(&self.worker, scope));
        headers.transpose().map(Option::unwrap_or_default).map_err(|error| {
            let message = format!("there is no credential for worker {}", self.worker);
            Error::new(ErrorKind::Unavailable, message).because(error)
        })
    }

    async fn turn(&self, turn: Turn) -> Result<OwnedSemaphorePermit> {
        let turns = match turn {
            Turn::Call => &self.calls,
            Turn::Stream => &self.streams,
        };
        match timeout(TURN, Arc::clone(turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => {
                let message = format!("too many calls to worker {} are under way", self.worker);
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// A connection that was used before and is still good.
    async fn kept(&self) -> Option<(Connection, Instant)> {
        loop {
            let mut idle = {
                let mut kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                kept.pop()?
            };
            if IDLE <= idle.since.elapsed() {
                // All others are older.
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                return None;
            }
            if OLDEST <= idle.made.elapsed() {
                continue;
            }
            if matches!(timeout(READY, idle.connection.ready()).await, Ok(Ok(()))) {
                return Some((idle.connection, idle.made));
            }
        }
    }

    async fn open(&self) -> Result<Connection> {
        let connected = timeout(
            CONNECT,
            self.connect.connect(&self.worker, &self.address.host, self.address.port),
        )
        .await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable().because(error)),
            Err(error) => return Err(self.unreachable().because(error)),
        };
        let (connection, driver) = http1::Builder::new()
            .max_buf_size(2 * wire::MAX_HEADER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable().because(error))?;
        self.afterwards(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "a connection to a worker ended early");
            }
        });
        Ok(connection)
    }

    /// When a call did not come through, if none did since.
    pub(crate) fn failed_at(&self) -> Option<Instant> {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was noted since was the caller's doing: nobody is to make others pass a worker over by
    /// cutting calls to it.
    pub(crate) fn not_its_failure(&self, before: Option<Instant>) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }

    fn failed(&self, error: Error) -> Error {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        error
    }

    /// Nothing was sent.
    fn unreachable(&self) -> Error {
        let message = format!("worker {} cannot be reached", self.worker);
        self.failed(Error::new(ErrorKind::Unavailable, message))
    }

    /// Something may have arrived.
    pub(crate) fn broke_off(&self) -> Error {
        let message = format!("the connection to worker {} broke off", self.worker);
        self.failed(Error::unknown(ErrorKind::Unavailable, message))
    }

    /// Nothing is known of what was sent.
    pub(crate) fn silent(&self, limit: Duration) -> Error {
        let message = format!("worker {} did not answer within {} s", self.worker, limit.as_secs());
        self.failed(Error::unknown(ErrorKind::Unavailable, message))
    }

    /// It answers, but not what was asked.
    pub(crate) fn nonsense(&self) -> Error {
        let message = format!("worker {} gave an answer that cannot be understood", self.worker);
        Error::unknown(ErrorKind::Unavailable, message)
    }
}
