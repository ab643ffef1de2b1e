//! The store in a SQLite file.

mod audit;
mod copy;
mod idempotency;
mod inspect;
mod keys;
mod observe;
mod open;
mod quotas;
mod readers;
mod recent;
mod retention;
mod syncer;
mod workers;
mod writer;

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use stacyvm_admission::Policy;
use stacyvm_store::{
    Durability, EventFilter, ExecLog, Include, NewEvent, NewSandbox, Result, Sandbox, Store,
    Template, TemplateChange, Timings,
};
use stacyvm_types::{Event, Generation, Lease, SandboxId, Timestamp, Transition, WorkerId};

#[cfg(test)]
pub(crate) use self::open::migrate_for_tests;
pub use self::{
    copy::{CopyError, Existing, Restored, backup, restore},
    inspect::{Report, check},
    open::OpenError,
};
use self::{
    readers::Readers,
    recent::Recent,
    syncer::{Syncer, Tail},
    writer::{About, Needs, Writer},
};
use crate::{db::Tx, events, leases, sandboxes, templates};

/// A store in one SQLite file, for one server.
///
/// What a method answered has reached the disk, or what it was asked to reach. Dropping the store
/// lets queued changes finish, which blocks for as long as their commit takes.
#[derive(Debug)]
pub struct SqliteStore {
    // Dropped first: the writer is then the last connection, and leaves one tidy file behind.
    readers: Readers,
    syncer: Syncer,
    writer: Writer,
    tail: Arc<Tail>,
    recent: Arc<Recent>,
    timings: Arc<Timings>,
    /// Dropped last: whoever opens the file next finds it at rest.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store at `path`, making it and its directory for their owner only, and bringing
    /// an older schema up to date. A file that another store has open is refused. Blocks; meant for
    /// the start of the program.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let connection = open::writer(path)?;
        let lock = open::lock(path)?;
        let timings = Arc::<Timings>::default();
        let readers = Readers::open(path, timings.clone())?;
        let log = open::log(path)?;
        let thread = |source| OpenError::File { path: path.to_owned(), source };
        let (tail, recent) = (Arc::<Tail>::default(), Arc::<Recent>::default());
        let syncer = Syncer::start(log, tail.clone()).map_err(thread)?;
        let writer = Writer::start(connection, tail.clone(), recent.clone(), timings.clone())
            .map_err(thread)?;
        Ok(Self { readers, syncer, writer, tail, recent, timings, _lock: lock })
    }
}

/// What a call that answers with the whole row is about.
fn whole(id: &SandboxId) -> About<Sandbox> {
    About { id: id.clone(), after: |row| Some(row) }
}

#[async_trait]
impl Store for SqliteStore {
    async fn admit(
        &self,
        policy: &Policy,
        new: NewSandbox,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let about = whole(&new.id);
        let policy = policy.clone();
        self.writer
            .change(Needs::of(durability, 1), about, move |tx| {
                sandboxes::admit(tx, &policy, new, now)
            })
            .await
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>> {
        match self.recent.get(id) {
            Some(row) => Ok(Some(row)),
            None => self.readers.point(|tx| sandboxes::one(tx, id)).await,
        }
    }

    async fn sandboxes(&self, include: Include) -> Result<Vec<Sandbox>> {
        self.readers.scan(move |tx| sandboxes::list(tx, include)).await
    }

    async fn expired(&self, now: Timestamp, limit: u32) -> Result<Vec<Sandbox>> {
        self.readers.scan(move |tx| sandboxes::expired(tx, now, limit)).await
    }

    async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        self.readers.point(sandboxes::next_expiry).await
    }

    async fn transition(
        &self,
        id: &SandboxId,
        generation: Generation,
        transition: Transition,
        events: Vec<NewEvent>,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let id = id.clone();
        let needs = Needs::of(durability, events.len());
        self.writer
            .change(needs, whole(&id), move |tx| {
                sandboxes::transition(tx, &id, generation, transition, events, now)
            })
            .await
    }

    async fn extend(
        &self,
        id: &SandboxId,
        expires_at: Timestamp,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let id = id.clone();
        self.writer
            .change(Needs::Disk, whole(&id), move |tx| {
                sandboxes::extend(tx, &id, expires_at, events, now)
            })
            .await
    }

    async fn acquire_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        fence: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        let (id, holder) = (id.clone(), holder.clone());
        let about = About { id: id.clone(), after: |_: &Lease| None };
        let body = move |tx: &mut Tx<'_>| leases::acquire(tx, &id, holder, fence, now);
        self.writer.change(Needs::Disk, about, body).await
    }

    async fn still_creating(&self, id: &SandboxId, now: Timestamp) -> Result<Sandbox> {
        let id = id.clone();
        let needs = Needs::of(Durability::Kernel, 0);
        self.writer
            .change(needs, whole(&id), move |tx| sandboxes::still_creating(tx, &id, now))
            .await
    }

    async fn renew_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        term: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        let (id, holder) = (id.clone(), holder.clone());
        self.writer.run(move |tx| leases::renew(tx, &id, holder, term, now)).await
    }

    async fn release_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        generation: Generation,
    ) -> Result<()> {
        let (id, holder) = (id.clone(), holder.clone());
        self.writer.run(move |tx| leases::release(tx, &id, &holder, generation)).await
    }

    async fn lease(&self, id: &SandboxId) -> Result<Option<Lease>> {
        self.readers.point(|tx| leases::one(tx, id)).await
    }

    async fn append_events(&self, events: Vec<NewEvent>, now: Timestamp) -> Result<()> {
        self.writer.run(move |tx| events::append(tx, events, now)).await
    }

    async fn events(&self, after: u64, limit: u32, filter: EventFilter) -> Result<Vec<Event>> {
        self.readers.scan(move |tx| events::list(tx, after, limit, &filter)).await
    }

    async fn last_event(&self) -> Result<u64> {
        self.readers.point(events::last).await
    }

    async fn log_exec(&self, log: ExecLog) -> Result<()> {
        self.writer.run(move |tx| events::log_exec(tx, &log)).await
    }

    async fn exec_logs(&self, id: &SandboxId, limit: u32) -> Result<Vec<ExecLog>> {
        let id = id.clone();
        self.readers.scan(move |tx| events::exec_logs(tx, &id, limit)).await
    }

    async fn template(&self, name: &str) -> Result<Option<Template>> {
        self.readers.point(|tx| templates::one(tx, name)).await
    }

    async fn templates(&self) -> Result<Vec<Template>> {
        self.readers.scan(templates::list).await
    }

    async fn create_template(&self, template: Template) -> Result<Template> {
        self.writer.run(move |tx| templates::create(tx, template)).await
    }

    async fn update_template(
        &self,
        name: &str,
        change: TemplateChange,
        now: Timestamp,
    ) -> Result<Template> {
        let name = name.to_owned();
        self.writer.run(move |tx| templates::update(tx, &name, change, now)).await
    }

    async fn delete_template(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.writer.run(move |tx| templates::delete(tx, &name)).await
    }

    async fn sync(&self) -> Result<()> {
        if self.tail.is_synced() {
            return Ok(());
        }
        if self.tail.is_torn() {
            // Starts the log over first, and is then synced itself.
            return self.writer.run(|_| Ok(())).await;
        }
        self.syncer.sync().await
    }

    async fn ping(&self) -> Result<()> {
        self.readers.point(|tx| events::last(tx).map(drop)).await
    }
}
