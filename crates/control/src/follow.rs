//! A command's events on their way to the caller: its input is fed, its deadline is enforced a
//! second time, its end is recorded once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use stacyvm_provider::{Exec, ExecEvent, ExecInput, Exit, Result};
use stacyvm_store::Sandbox;
use stacyvm_types::{ExecId, SandboxId};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::{Control, operations::Attempt};

/// How much longer than the sandbox's own enforcement the server waits for the end.
const SLACK: Duration = Duration::from_secs(2);
/// The piece in which standard input is sent.
const PIECE: usize = 64 * 1024;
/// Commands whose end is remembered as recorded.
const REMEMBERED: usize = 4096;

/// How often the channel of a command whose caller left is taken up again.
const REATTACHES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// What is known about a command.
pub(crate) struct Meta {
    pub(crate) id: ExecId,
    pub(crate) deadline: Option<Duration>,
    pub(crate) row: Sandbox,
    /// What asked for it; its resource is the command line.
    pub(crate) attempt: Attempt,
    /// Whether this process started it.
    pub(crate) is_ours: bool,
}

/// A command: its id may be its client's choice, and another sandbox may have one of the same.
type Command = (SandboxId, ExecId);

impl Meta {
    pub(crate) fn command(&self) -> Command {
        (self.row.spec.id.clone(), self.id.clone())
    }
}

/// The last commands whose end was recorded, so that those who attach later record nothing.
#[derive(Default)]
pub(crate) struct Recorded(Mutex<(HashSet<Command>, VecDeque<Command>)>);

impl Recorded {
    pub(crate) fn is_first(&self, command: &Command) -> bool {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, order) = &mut *recorded;
        if !set.insert(command.clone()) {
            return false;
        }
        order.push_back(command.clone());
        if REMEMBERED < order.len()
            && let Some(oldest) = order.pop_front()
        {
            set.remove(&oldest);
        }
        true
    }
}

/// The commands that this process started and follows, each as it was asked for. Whoever attaches
/// may see the end first, and it is recorded as that of the one who started the command.
#[derive(Default)]
pub(crate) struct Own(Mutex<HashMap<Command, Weak<Meta>>>);

impl Own {
    pub(crate) fn note(&self, meta: &Arc<Meta>) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() == own.capacity() {
            own.retain(|_, meta| 0 < meta.strong_count());
        }
        let known = own.entry(meta.command()).or_default();
        if known.strong_count() == 0 {
            *known = Arc::downgrade(meta);
        }
    }

    pub(crate) fn of(&self, meta: &Meta) -> Option<Arc<Meta>> {
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.get(&meta.command())?.upgrade()
    }
}

/// The commands that are followed to their end although nobody waits for it.
#[derive(Default)]
pub(crate) struct Unattended(Mutex<HashSet<Command>>);

impl Unattended {
    fn set(&self) -> MutexGuard<'_, HashSet<Command>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Watched {
    control: Control,
    meta: Arc<Meta>,
    events: BoxStream<'static, Result<ExecEvent>>,
    feed: Option<BoxFuture<'static, ()>>,
    /// When the end is overdue; moved on by every sign of life after the deadline, because a slow
    /// reader may still be working through what was said before it.
    overdue: Option<Instant>,
    /// The offset after what was seen.
    offset: u64,
    /// An end that was seen and not yet written down.
    exit: Option<Exit>,
    ended: bool,
    runtime: Handle,
}

/// Wraps a command's events.
pub(crate) fn watch(control: Control, meta: Arc<Meta>, exec: Exec, stdin: Option<Bytes>) -> Exec {
    let Exec { id, events, input } = exec;
    let feed = stdin.map(|data| -> BoxFuture<'static, ()> { Box::pin(feed(input.clone(), data)) });
    let mut watched = unseen(control, meta, 0);
    (watched.events, watched.feed) = (events, feed);
    let events = stream::unfold(watched, |mut watched| async move {
        let item = watched.next().await?;
        Some((item, watched))
    });
    Exec { id, events: events.boxed(), input }
}

/// A command whose channel broke. Unless it is taken up elsewhere, dropping this follows it.
pub(crate) fn unseen(control: Control, meta: Arc<Meta>, offset: u64) -> Watched {
    let elapsed = meta.attempt.elapsed();
    let overdue = meta.deadline.map(|limit| Instant::now() + limit.saturating_sub(elapsed) + SLACK);
    Watched {
        control,
        meta,
        events: stream::empty().boxed(),
        feed: None,
        overdue,
        offset,
        exit: None,
        ended: false,
        runtime: Handle::current(),
    }
}

impl Watched {
    /// Somebody else sees the end.
    pub(crate) fn seen_elsewhere(mut self) {
        self.ended = true;
    }

    async fn next(&mut self) -> Option<Result<ExecEvent>> {
        if self.ended {
            return None;
        }
        let item = loop {
            let overdue = self.overdue;
            tokio::select! {
                biased;
                item = self.events.next() => match item? {
                    // A sandbox that is being ended takes its commands with it: that is their end,
                    // not a channel that may be taken up again.
                    Err(_) if self.control.ended(&self.meta.row).await.is_some() => {
                        break Ok(ExecEvent::Exit(Exit::Lost));
                    }
                    item => break item,
                },
                () = optional(&mut self.feed) => self.feed = None,
                () = until(overdue) => {
                    break Ok(ExecEvent::Exit(missed(&self.control, &self.meta).await));
                }
            }
        };
        match &item {
            Ok(ExecEvent::Exit(exit)) => {
                self.write_down(*exit).await;
            }
            Ok(event) => {
                if let ExecEvent::Output { offset, data, .. } = event {
                    self.offset = self.offset.max(offset + data.len() as u64);
                }
                let alive = Instant::now() + SLACK;
                self.overdue = self.overdue.map(|overdue| overdue.max(alive));
            }
            Err(_) => self.ended = true,
        }
        Some(item)
    }

    /// Records the end. May be dropped before it is done: `drop` then has it done.
    async fn write_down(&mut self, exit: Exit) {
        (self.exit, self.ended) = (Some(exit), true);
        let (control, meta) = (self.control.clone(), self.meta.clone());
        // An earlier server may have seen the end of a command that this one did not start.
        if meta.is_ours || !control.has_recorded(&meta).await {
            control.record_exit(&meta, exit).await;
        }
        self.exit = None;
    }

    /// Follows the command to its end, for the record.
    async fn follow_to_the_end(mut self) {
        let stopping = self.control.0.parts.stopping.clone();
        let meta = self.meta.clone();
        let mut tries = 0;
        let follow = async {
            if let Some(exit) = self.exit {
                return self.write_down(exit).await;
            }
            loop {
                match self.next().await {
                    Some(Ok(ExecEvent::Exit(_))) => return,
                    Some(Ok(_)) => {
                        tries = 0;
                        continue;
                    }
                    Some(Err(_)) | None => {}
                }
                if REATTACHES <= tries {
                    return tracing::warn!(exec.id = %meta.id, "a command's end was not seen");
                }
                sleep(FIRST_PAUSE * 2_u32.pow(tries)).await;
                tries += 1;
                match self.control.take_up(&meta.row, &meta.id, self.offset).await {
                    Ok(exec) => (self.events, self.ended) = (exec.events, false),
                    Err(crate::Error::Ended { .. }) => return self.write_down(Exit::Lost).await,
                    Err(error) => tracing::debug!(exec.id = %meta.id, %error, "it is not heard"),
                }
            }
        };
        stopping.run_until_cancelled(follow).await;
        (self.ended, self.exit) = (true, None);
        self.control.0.unattended.set().remove(&self.meta.command());
    }
}

/// The caller left before the end: a command goes on, and how it ends is recorded.
impl Drop for Watched {
    fn drop(&mut self) {
        if self.ended && self.exit.is_none() {
            return;
        }
        if !self.control.0.unattended.set().insert(self.meta.command()) {
            return;
        }
        let rest = Self {
            control: self.control.clone(),
            meta: self.meta.clone(),
            events: mem::replace(&mut self.events, stream::empty().boxed()),
            feed: self.feed.take(),
            overdue: self.overdue,
            offset: self.offset,
            exit: self.exit,
            ended: self.ended,
            runtime: self.runtime.clone(),
        };
        self.control.0.parts.tasks.spawn_on(rest.follow_to_the_end(), &self.runtime);
    }
}

/// The sandbox did not say how a command ended, long after its deadline.
async fn missed(control: &Control, meta: &Meta) -> Exit {
    control.wake_reconciler();
    match control.ended(&meta.row).await {
        Some(_) => Exit::Lost,
        None => Exit::Timeout,
    }
}

async fn optional(feed: &mut Option<BoxFuture<'static, ()>>) {
    match feed {
        Some(feed) => feed.await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Sends all of standard input and its end. A command that has ended takes no more: that is no
/// failure of its own.
async fn feed(input: mpsc::Sender<ExecInput>, mut data: Bytes) {
    while !data.is_empty() {
        let piece = data.split_to(PIECE.min(data.len()));
        if input.send(ExecInput::Data(piece)).await.is_err() {
            return;
        }
    }
    if input.send(ExecInput::Eof).await.is_err() {
        tracing::debug!("a command ended before its input did");
    }
}
