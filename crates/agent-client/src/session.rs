//! A multiplexed session over one byte channel.
//!
//! Whoever has something to send writes it to the channel at once, under the session's lock; only
//! what the channel does not take is left to the session's task, which otherwise only reads. A
//! stream's bytes wait in its inbox, bounded by its window, until its owner takes them.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use stacyvm_agent_proto::{Event, Role, Session as Mux, StreamId};
use stacyvm_provider::Duplex;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf},
    sync::Notify,
    task::JoinSet,
    time::Instant,
};

/// A session without streams is closed after this time.
pub(crate) const IDLE: Duration = Duration::from_secs(30);

const READ_SIZE: usize = 16 * 1024;

/// The bytes of a stream that its owner has not taken yet.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ended: bool,
    pub(crate) reset: bool,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

impl Inbox {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

pub(crate) struct State {
    pub(crate) mux: Mux,
    pub(crate) inboxes: BTreeMap<StreamId, Inbox>,
    /// Given up when the session closes: only then the channel is closed, too.
    writer: Option<WriteHalf<Box<dyn Duplex>>>,
    pub(crate) closed: bool,
    idle_since: Instant,
}

/// What the session's users and its task share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes the task to write on, or to see that the last stream is gone.
    nudge: Notify,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits; what the channel does not take now is left to the task.
    pub(crate) fn flush(&self, state: &mut State) {
        let waits = state.write(&mut Context::from_waker(Waker::noop())).is_pending();
        if waits || state.closed {
            self.nudge.notify_one();
        }
    }

    /// A stream's owner is gone.
    pub(crate) fn release(&self, id: StreamId) {
        let mut state = self.lock();
        if let Some(mut inbox) = state.inboxes.remove(&id) {
            inbox.wake();
        }
        state.mux.reset(id);
        self.flush(&mut state);
        if state.inboxes.is_empty() {
            state.idle_since = Instant::now();
            self.nudge.notify_one();
        }
    }

    /// Ends the session for everyone.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.writer = None;
        for inbox in state.inboxes.values_mut() {
            inbox.reset = true;
            inbox.wake();
        }
    }
}

impl State {
    /// Writes until nothing waits (`Ready`) or the channel takes no more.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.closed && !self.mux.output().is_empty() {
            let Some(writer) = &mut self.writer else { return Poll::Ready(()) };
            match Pin::new(writer).poll_write(cx, self.mux.output()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(written)) if 0 < written => {
                    self.mux.written(written);
                    // Room in the output is room for every stream that waits to send.
                    for inbox in self.inboxes.values_mut() {
                        if let Some(writer) = inbox.writer.take() {
                            writer.wake();
                        }
                    }
                }
                Poll::Ready(Ok(_) | Err(_)) => self.closed = true,
            }
        }
        Poll::Ready(())
    }

    fn receive(&mut self, mut input: &[u8]) -> Result<(), ()> {
        loop {
            match self.mux.receive(&mut input).map_err(drop)? {
                None => return Ok(()),
                Some(Event::Data(id, data)) => {
                    // A stream that its owner gave up was reset, so its data is not reported.
                    if let Some(inbox) = self.inboxes.get_mut(&id) {
                        inbox.bytes.extend_from_slice(data);
                        inbox.wake();
                    }
                }
                Some(Event::Ended(id)) => {
                    if let Some(inbox) = self.inboxes.get_mut(&id) {
                        inbox.ended = true;
                        inbox.wake();
                    }
                }
                Some(Event::Reset(id)) => {
                    if let Some(inbox) = self.inboxes.get_mut(&id) {
                        inbox.reset = true;
                        inbox.wake();
                    }
                }
                Some(Event::Writable(id)) => {
                    if let Some(inbox) = self.inboxes.get_mut(&id) {
                        inbox.wake();
                    }
                }
                Some(Event::Opened(_) | Event::GoAway(_)) => {}
            }
        }
    }
}

/// A live session; dropping it ends its tasks and with them the channel.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl Session {
    /// Begins a session on a channel.
    pub(crate) fn start(channel: Box<dyn Duplex>) -> Arc<Self> {
        let (reader, writer) = tokio::io::split(channel);
        let state = State {
            mux: Mux::new(Role::Client, 0),
            inboxes: BTreeMap::new(),
            writer: Some(writer),
            closed: false,
            idle_since: Instant::now(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), nudge: Notify::new() });
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(Arc::clone(&shared), reader));
        Arc::new(Self { shared, tasks: Mutex::new(tasks) })
    }

    /// Runs a task for as long as the session lives.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }
}

/// The session's task: reads, writes on what callers could not, and notices idleness.
async fn drive(shared: Arc<Shared>, mut reader: ReadHalf<Box<dyn Duplex>>) {
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let idle_until = {
            let state = shared.lock();
            if state.closed {
                break;
            }
            state.inboxes.is_empty().then(|| state.idle_since + IDLE)
        };
        let idle = async {
            match idle_until {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let written = std::future::poll_fn(|cx| {
            let mut state = shared.lock();
            if state.mux.output().is_empty() { Poll::Pending } else { state.write(cx) }
        });
        tokio::select! {
            read = reader.read(&mut buffer) => {
                let Ok(length) = read else { break };
                if length == 0 {
                    break;
                }
                let mut state = shared.lock();
                if state.receive(&buffer[..length]).is_err() {
                    break;
                }
                shared.flush(&mut state);
            }
            () = written => {}
            () = shared.nudge.notified() => {}
            () = idle => {
                let mut state = shared.lock();
                if state.inboxes.is_empty() && state.idle_since + IDLE <= Instant::now() {
                    // Marked under the lock, so that no stream begins on it any more.
                    state.closed = true;
                    break;
                }
            }
        }
    }
    shared.close();
}
