//! The event log: reading it, and writing what belongs to no change of a row.
//!
//! Events of a row's change are appended in that change's own transaction. Those of commands and
//! files, and audit records, go through a bounded queue that one task drains in batches, so that a command's path holds
//! no write. When the store is slower than the commands the queue fills and senders wait: an event
//! is never dropped for being one too many. What a crash of the server loses is at most this queue.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use stacyvm_store::{
    self as store, EventFilter, ExecLog, NewEvent, Sandbox, Store,
    audit::{AdminRecord, OperationRecord},
};
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
    /// An operation's outcome.
    Operation(OperationRecord),
    /// A request to an admin route.
    Admin(AdminRecord),
}

impl Record {
    /// What it is about, without what callers wrote.
    fn gist(&self) -> String {
        match self {
            Self::Event(event) => event.kind.as_str().to_owned(),
            Self::Exec(exec) => exec.id.to_string(),
            Self::Operation(record) => {
                format!("{} {} by {}", record.outcome.as_str(), record.action, record.actor)
            }
            Self::Admin(record) => {
                format!("{} {} by {}", record.status, record.method, record.actor)
            }
        }
    }
}

/// Records on their way to the store, by kind.
#[derive(Default)]
struct Batch {
    events: Vec<NewEvent>,
    execs: Vec<ExecLog>,
    operations: Vec<OperationRecord>,
    admin: Vec<AdminRecord>,
}

impl Batch {
    fn of(records: Vec<Record>) -> Self {
        let mut batch = Self::default();
        for record in records {
            match record {
                Record::Event(event) => batch.events.push(event),
                Record::Exec(exec) => batch.execs.push(exec),
                Record::Operation(operation) => batch.operations.push(operation),
                Record::Admin(request) => batch.admin.push(request),
            }
        }
        batch
    }

    const fn len(&self) -> usize {
        self.events.len() + self.execs.len() + self.operations.len() + self.admin.len()
    }
}

/// The way into the queue.
pub(crate) struct Recorder {
    queue: mpsc::Sender<Record>,
    log: Log,
}

/// Room in the queue.
pub(crate) struct Places<'r> {
    /// `None` when the writer has left a stopping server.
    places: Option<mpsc::PermitIterator<'r, Record>>,
    log: &'r Log,
}

impl Places<'_> {
    /// Queues that many records. Waits only where nobody else writes any more.
    pub(crate) async fn fill(self, records: Vec<Record>) {
        match self.places {
            Some(places) => places.zip(records).for_each(|(place, record)| place.send(record)),
            None => self.log.write(records).await,
        }
    }
}

#[derive(Clone)]
struct Log {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    signal: Arc<watch::Sender<u64>>,
    stopping: CancellationToken,
}

impl Recorder {
    pub(crate) fn start(parts: &Parts, clock: Arc<dyn Clock>) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        let log = Log {
            store: parts.store.clone(),
            clock,
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

    /// Queues a record of something that has happened. When the queue stays full for long, the
    /// server's log gets the gist of it instead: a store that does not answer must not hold up
    /// every request.
    pub(crate) async fn record_soon(&self, record: Record) {
        match timeout(PATIENCE, self.queue.reserve()).await {
            Ok(Ok(place)) => place.send(record),
            Ok(Err(_)) => self.log.write(vec![record]).await,
            Err(_) => tracing::error!(lost = record.gist(), "the store is too slow for a record"),
        }
    }

    /// Waits for room for that many records.
    pub(crate) async fn places(&self, count: usize) -> Places<'_> {
        Places { places: self.queue.reserve_many(count).await.ok(), log: &self.log }
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

    async fn write(&self, records: Vec<Record>) {
        let mut batch = Batch::of(records);
        let mut pause = FIRST_RETRY;
        let mut tries = 0;
        loop {
            let (events, execs, operations, admin) = tokio::join!(
                self.append(batch.events),
                self.log_execs(batch.execs),
                self.keep(batch.operations, |records| self.store.record_operations(records)),
                self.keep(batch.admin, |records| self.store.record_admin_requests(records)),
            );
            batch = Batch { events, execs, operations, admin };
            if batch.len() == 0 {
                return;
            }
            tries += 1;
            if self.stopping.is_cancelled() && TRIES_WHEN_STOPPING <= tries {
                tracing::error!(
                    events = batch.events.len(),
                    execs = batch.execs.len(),
                    audit = batch.operations.len() + batch.admin.len(),
                    "the store did not take the last records before the server stopped"
                );
                return;
            }
            sleep(pause).await;
            pause = LAST_RETRY.min(pause * 2);
        }
    }

    /// Writes audit records to the disk; what is worth another try comes back. Repeating one changes
    /// nothing.
    async fn keep<'s, T: Clone>(
        &'s self,
        records: Vec<T>,
        write: impl FnOnce(Vec<T>) -> BoxFuture<'s, store::Result<()>>,
    ) -> Vec<T> {
        if records.is_empty() {
            return records;
        }
        let kept = match write(records.clone()).await {
            Ok(()) => self.store.sync().await,
            error => error,
        };
        match kept {
            Ok(()) => Vec::new(),
            Err(error) if worth_retrying(&error) => {
                tracing::warn!(%error, audit = records.len(), "audit records wait for the store");
                records
            }
            Err(error) => {
                tracing::error!(%error, audit = records.len(), "the store refused audit records");
                Vec::new()
            }
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
    /// The id up to which events were forgotten, 0 when none was.
    pub async fn forgotten_events(&self) -> Result<u64> {
        self.store().pruned_events().await.map_err(Error::from_store)
    }

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
