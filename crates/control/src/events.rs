//! The event log: reading it, and writing what belongs to no change of a row.
//!
//! Events of a row's change are appended in that change's own transaction. Those of commands and
//! files go through a bounded queue that one task drains in batches, so that a command's path holds
//! no write. When the store is slower than the commands the queue fills and senders wait: an event
//! is never dropped for being one too many. What a crash of the server loses is at most this queue.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use stacyvm_store::{self as store, EventFilter, ExecLog, NewEvent, Sandbox, Store};
use stacyvm_types::{Event, EventKind, time::Clock};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Control, Error, Parts, Result};

const QUEUE: usize = 1024;
const BATCH: usize = 256;
/// How long a command that is about to start waits for a place in the queue.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the first record of a batch waits for others: under load one commit then carries many
/// commands, and no single command pays for a commit of its own beside it.
const LINGER: Duration = Duration::from_millis(10);
/// How long the queue must have been empty before the writer leaves a stopping server.
const LULL: Duration = Duration::from_millis(250);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How often a stopping server tries to write before it gives up.
const TRIES_WHEN_STOPPING: u32 = 4;

/// Something to write down.
#[derive(Debug)]
pub(crate) enum Record {
    /// An event.
    Event(NewEvent),
    /// A finished command.
    Exec(ExecLog),
}

/// The way into the queue.
pub(crate) struct Recorder {
    queue: mpsc::Sender<Record>,
    log: Log,
}

#[derive(Clone)]
struct Log {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    signal: Arc<watch::Sender<u64>>,
    stopping: CancellationToken,
}

impl Recorder {
    pub(crate) fn start(parts: &Parts) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        let log = Log {
            store: parts.store.clone(),
            clock: parts.clock.clone(),
            signal: Arc::new(watch::Sender::new(0)),
            stopping: parts.stopping.clone(),
        };
        parts.tasks.spawn(log.clone().write_all(records));
        Self { queue, log }
    }

    /// Queues a record, waiting while the queue is full.
    pub(crate) async fn record(&self, record: Record) {
        if let Err(closed) = self.queue.send(record).await {
            // The writer has left a stopping server: this late one writes for itself.
            self.log.write(vec![closed.0]).await;
        }
    }

    /// Queues a record before something happens that it tells of; when the queue stays full it
    /// must not happen.
    pub(crate) async fn record_first(&self, record: Record) -> Result<()> {
        timeout(PATIENCE, self.record(record)).await.map_err(|_| {
            Error::unavailable("the store is too slow to record commands now; try again")
        })
    }

    /// Tells followers that events were appended.
    pub(crate) fn appended(&self) {
        self.log.signal.send_modify(|count| *count += 1);
    }
}

impl Log {
    async fn write_all(self, mut records: mpsc::Receiver<Record>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let leave = async {
                self.stopping.cancelled().await;
                sleep(LULL).await;
            };
            tokio::select! {
                biased;
                count = records.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.stopping.run_until_cancelled(sleep(LINGER)).await;
                    while batch.len() < BATCH && let Ok(record) = records.try_recv() {
                        batch.push(record);
                    }
                }
                () = leave => records.close(),
            }
            self.write(std::mem::take(&mut batch)).await;
        }
    }

    async fn write(&self, batch: Vec<Record>) {
        let mut events = Vec::new();
        let mut execs = Vec::new();
        for record in batch {
            match record {
                Record::Event(event) => events.push(event),
                Record::Exec(exec) => execs.push(exec),
            }
        }
        let mut pause = FIRST_RETRY;
        let mut tries = 0;
        loop {
            (events, execs) = tokio::join!(self.append(events), self.log_execs(execs));
            if events.is_empty() && execs.is_empty() {
                return;
            }
            tries += 1;
            if self.stopping.is_cancelled() && TRIES_WHEN_STOPPING <= tries {
                tracing::error!(
                    events = events.len(),
                    execs = execs.len(),
                    "the store did not take the last events before the server stopped"
                );
                return;
            }
            sleep(pause).await;
            pause = LAST_RETRY.min(pause * 2);
        }
    }

    /// Appends events; what is worth another try comes back.
    async fn append(&self, events: Vec<NewEvent>) -> Vec<NewEvent> {
        if events.is_empty() {
            return events;
        }
        match self.store.append_events(events.clone(), self.clock.now()).await {
            Ok(()) => {
                self.signal.send_modify(|count| *count += 1);
                Vec::new()
            }
            Err(error) if worth_retrying(&error) => {
                tracing::warn!(%error, events = events.len(), "events wait for the store");
                events
            }
            Err(error) => {
                tracing::error!(%error, events = events.len(), "the store refused events");
                Vec::new()
            }
        }
    }

    async fn log_execs(&self, execs: Vec<ExecLog>) -> Vec<ExecLog> {
        let results = join_all(execs.iter().map(|exec| self.store.log_exec(exec.clone()))).await;
        execs
            .into_iter()
            .zip(results)
            .filter_map(|(exec, result)| match result {
                // A conflict is the same command, seen to its end twice.
                Ok(()) | Err(store::Error::Conflict) => None,
                Err(error) if worth_retrying(&error) => Some(exec),
                Err(error) => {
                    tracing::error!(%error, exec.id = %exec.id, "the store refused a command's record");
                    None
                }
            })
            .collect()
    }
}

const fn worth_retrying(error: &store::Error) -> bool {
    matches!(error, store::Error::Unavailable(_) | store::Error::DiskFull)
}

/// An event about a sandbox.
pub(crate) fn about<const N: usize>(
    row: &Sandbox,
    kind: EventKind,
    data: [(&str, String); N],
) -> NewEvent {
    NewEvent {
        kind,
        sandbox: Some(row.spec.id.clone()),
        owner: row.spec.owner.clone(),
        data: data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

/// An event about no sandbox in particular.
pub(crate) fn general<const N: usize>(kind: EventKind, data: [(&str, String); N]) -> NewEvent {
    let data: BTreeMap<_, _> =
        data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    NewEvent { kind, sandbox: None, owner: None, data }
}

impl Control {
    /// Events with an id above `after`, in order, at most `limit`, that the caller may see.
    pub async fn events(&self, after: u64, limit: u32, filter: EventFilter) -> Result<Vec<Event>> {
        let filter = self.visible_events(filter)?;
        self.store().events(after, limit, filter).await.map_err(Error::from_store)
    }

    /// The id of the newest event, 0 when there is none.
    pub async fn last_event(&self) -> Result<u64> {
        self.store().last_event().await.map_err(Error::from_store)
    }

    /// Changes whenever this process appended events: a hint to read them, nothing more.
    pub fn event_signal(&self) -> watch::Receiver<u64> {
        self.0.recorder.log.signal.subscribe()
    }

    /// Clients that follow the log here.
    pub(crate) fn event_followers(&self) -> usize {
        self.0.recorder.log.signal.receiver_count()
    }

    /// Records that wait to be written.
    pub(crate) fn event_backlog(&self) -> usize {
        self.0.recorder.queue.max_capacity() - self.0.recorder.queue.capacity()
    }

    pub(crate) async fn record_event(&self, event: NewEvent) {
        self.0.recorder.record(Record::Event(event)).await;
    }
}
