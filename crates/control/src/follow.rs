//! A command's events on their way to the caller: its input is fed, its deadline is enforced a
//! second time, its end is recorded once.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
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
use stacyvm_types::ExecId;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::Control;

/// How much longer than the sandbox's own enforcement the server waits for the end.
const SLACK: Duration = Duration::from_secs(2);
/// The piece in which standard input is sent.
const PIECE: usize = 64 * 1024;
/// Commands whose end is remembered as recorded.
const REMEMBERED: usize = 4096;

/// What is known about a command.
pub(crate) struct Meta {
    pub(crate) id: ExecId,
    pub(crate) command: String,
    pub(crate) deadline: Option<Duration>,
    pub(crate) begun: Instant,
    pub(crate) row: Sandbox,
}

/// The last commands whose end was recorded, so that those who attach later record nothing.
#[derive(Default)]
pub(crate) struct Recorded(Mutex<(HashSet<ExecId>, VecDeque<ExecId>)>);

impl Recorded {
    fn is_first(&self, id: &ExecId) -> bool {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, order) = &mut *recorded;
        if !set.insert(id.clone()) {
            return false;
        }
        order.push_back(id.clone());
        if REMEMBERED < order.len()
            && let Some(oldest) = order.pop_front()
        {
            set.remove(&oldest);
        }
        true
    }
}

struct Watched {
    control: Control,
    meta: Arc<Meta>,
    events: BoxStream<'static, Result<ExecEvent>>,
    feed: Option<BoxFuture<'static, ()>>,
    /// When the end is overdue; moved on by every sign of life after the deadline, because a slow
    /// reader may still be working through what was said before it.
    overdue: Option<Instant>,
    ended: bool,
}

/// Wraps a command's events.
pub(crate) fn watch(control: Control, meta: Arc<Meta>, exec: Exec, stdin: Option<Bytes>) -> Exec {
    let Exec { id, events, input } = exec;
    let feed = stdin.map(|data| -> BoxFuture<'static, ()> { Box::pin(feed(input.clone(), data)) });
    let overdue = meta.deadline.map(|deadline| meta.begun + deadline + SLACK);
    let watched = Watched { control, meta, events, feed, overdue, ended: false };
    let events = stream::unfold(watched, |mut watched| async move {
        let item = watched.next().await?;
        Some((item, watched))
    });
    Exec { id, events: events.boxed(), input }
}

impl Watched {
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
                    self.control.wake_reconciler();
                    break Ok(ExecEvent::Exit(Exit::Lost));
                }
            }
        };
        match &item {
            Ok(ExecEvent::Exit(exit)) => {
                self.ended = true;
                if self.control.0.recorded.is_first(&self.meta.id) {
                    self.control.record_exit(&self.meta, *exit).await;
                }
            }
            Ok(_) => {
                let alive = Instant::now() + SLACK;
                self.overdue = self.overdue.map(|overdue| overdue.max(alive));
            }
            Err(_) => self.ended = true,
        }
        Some(item)
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
