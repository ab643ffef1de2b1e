//! The store in Postgres, for any number of servers.
//!
//! Store methods run on threads that own a connection each ([`pool`], [`session`]); a call is a
//! transaction at READ COMMITTED. Transactions of several connections meet in rows, and what each
//! method relies on is held by locks, always taken in this order:
//!
//! 1. the row of a sandbox: one for each call; a walk that forgets takes several and waits for none.
//!    An admission inserts it before anything else,
//! 2. the row of a worker: that of the old holder, where a lease changes hands or is renewed,
//! 3. the counts of places: that of all first, then the owner's, then the worker's,
//! 4. other rows of their own: a quota, a template, a key, a turn,
//! 5. the counter of events, which orders appends by commit.
//!
//! So whoever waits for a row holds only rows before it, and no circle can close; where a delete
//! takes rows in an order that only the database knows, one of two is undone by the database and run
//! again. Which row is locked says the body, with `for_update`; a row that may not be there is held
//! by the insert that finds it missing, or by a lock on its name (`alone_about`), which comes before
//! all rows.
//!
//! Everything that is answered has reached the disk: other hosts may hold runtimes that outlive this
//! one, so [`Durability::Kernel`](stacyvm_store::Durability::Kernel) is `Disk` here.

mod audit;
mod idempotency;
mod inspect;
mod keys;
mod listen;
mod migrate;
mod observe;
mod pool;
mod quotas;
mod retention;
mod session;
mod settings;
mod text;
mod tls;
mod workers;

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use stacyvm_admission::Policy;
use stacyvm_store::{
    Durability, EventFilter, ExecLog, Hints, Include, NewEvent, NewSandbox, Result, Sandbox, Store,
    Template, TemplateChange, Timings,
};
use stacyvm_types::{
    Event, Generation, Lease, SandboxId, Timestamp, Transition, WorkerId,
    time::{Clock as _, SystemClock},
};

pub use self::{inspect::check, settings::DsnError};
use self::{
    listen::Listener,
    pool::Pool,
    session::{Failure, Purpose},
    settings::Settings,
};
pub(crate) use self::{session::Session, text::Found};
use crate::{db::Tx, events, leases, sandboxes, templates};

/// Connections that change rows. Most changes of several sandboxes wait for each other at the count
/// of places or of events, so more would only wait there.
const WRITERS: usize = 8;
/// Connections for reads of few rows.
const POINTS: usize = 4;
/// Connections for reads of any size, so that those cannot hold up the others.
const SCANS: usize = 2;
/// How long a start waits for a database that does not accept connections yet.
const START: Duration = Duration::from_secs(10);
/// How far apart clocks may be without a word.
const MOST_APART: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// By which clock leases are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "callers-clock"),
    expect(unreachable_pub, reason = "tests choose it, and nobody else")
)]
pub enum LeaseClock {
    /// The database's, which is one for all servers.
    Database,
    /// That of each caller, for tests that turn its hands.
    #[cfg(feature = "callers-clock")]
    Callers,
}

/// Why the store could not be opened. Each is a sentence for the person who started it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The DSN cannot be used.
    #[error("database.dsn cannot be used")]
    Dsn(#[from] DsnError),
    /// Nobody answers there, or refuses us.
    #[error("the Postgres database {place} cannot be reached")]
    Unreachable {
        /// The database and its hosts.
        place: String,
        /// What was said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The schema holds other tables.
    #[error(
        "the Postgres database {0} holds tables that are not StacyVM's, and was left as it is: use \
         a database or a schema of its own"
    )]
    Foreign(String),
    /// The tables are those of the older Go implementation.
    #[error(
        "the Postgres database {place} is one of the older StacyVM written in Go (schema {version}), \
         which this version cannot read: use another database; it was left as it is"
    )]
    OlderImplementation {
        /// The database and its hosts.
        place: String,
        /// Its schema version there.
        version: i64,
    },
    /// The schema is one that this version does not know.
    #[error(
        "the Postgres database {place} has schema {found}, written by a newer StacyVM, and this \
         version knows schemas up to {known}: start the newer version, or restore a backup from \
         before the upgrade"
    )]
    Newer {
        /// The database and its hosts.
        place: String,
        /// Its schema.
        found: i64,
        /// The newest schema that this version knows.
        known: i64,
    },
    /// A step of the schema is not the one that was applied.
    #[error(
        "the Postgres database {place} was made with another schema step {number}: it comes from a \
         build that was never released, or was changed by hand"
    )]
    Changed {
        /// The database and its hosts.
        place: String,
        /// The step.
        number: i64,
    },
    /// A step of the schema could not be applied.
    #[error("schema step {number} of the Postgres database {place} failed; it was undone")]
    Step {
        /// The database and its hosts.
        place: String,
        /// The step.
        number: i64,
        /// What the database said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database failed.
    #[error("the Postgres database {place} failed")]
    Sql {
        /// The database and its hosts.
        place: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A thread could not be started.
    #[error("a thread of the store could not be started")]
    Thread(#[from] io::Error),
}

/// A store in a Postgres database, which other servers may use too.
///
/// Dropping it lets queued changes finish, which blocks for as long as that takes.
#[derive(Debug)]
pub struct PostgresStore {
    writers: Pool,
    points: Pool,
    scans: Pool,
    listener: Listener,
    timings: Arc<Timings>,
}

impl PostgresStore {
    /// Opens the store in the database of the DSN, bringing its schema up to date. Blocks for as
    /// long as that takes; meant for the start of the program.
    pub fn open(dsn: &str) -> Result<Self, OpenError> {
        Self::with_settings(Settings::parse(dsn)?)
    }

    /// As [`Self::open`], with another clock to judge leases by.
    #[cfg(feature = "callers-clock")]
    pub fn open_with(dsn: &str, clock: LeaseClock) -> Result<Self, OpenError> {
        let mut settings = Settings::parse(dsn)?;
        settings.clock = clock;
        Self::with_settings(settings)
    }

    fn with_settings(settings: Settings) -> Result<Self, OpenError> {
        let settings = Arc::new(settings);
        on_own_thread(|| {
            let session = connect(&settings, Purpose::Migrate, START)?;
            migrate::migrate(&session, &settings.to_string(), migrate::MIGRATIONS)?;
            compare_clocks(&session);
            Ok(())
        })?;
        Ok(Self {
            writers: Pool::start(&settings, Purpose::Write, "store-writer", WRITERS)?,
            points: Pool::start(&settings, Purpose::Read, "store-reader", POINTS)?,
            scans: Pool::start(&settings, Purpose::Read, "store-scanner", SCANS)?,
            listener: Listener::start(settings)?,
            timings: Arc::default(),
        })
    }

    /// Runs a change and answers once it is committed.
    async fn change<T, F>(&self, body: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let _timed = self.timings.write();
        self.writers.run(body).await
    }

    /// Runs a read that touches few rows.
    async fn point<T, F>(&self, mut read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let _timed = self.timings.read();
        self.points.run(move |tx| read(tx)).await
    }

    /// Runs a read of any size.
    async fn scan<T, F>(&self, mut read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let _timed = self.timings.scan();
        self.scans.run(move |tx| read(tx)).await
    }
}

/// Runs something that drives a connection. The caller's thread may be one that runs tasks, which
/// must not be blocked in that way.
fn on_own_thread<T: Send>(
    run: impl FnOnce() -> Result<T, OpenError> + Send,
) -> Result<T, OpenError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A connection, trying for that long.
fn connect(
    settings: &Arc<Settings>,
    purpose: Purpose,
    patience: Duration,
) -> Result<Session, OpenError> {
    let session = Session::new(settings.clone(), purpose)?;
    let give_up = Instant::now() + patience;
    loop {
        match session.connect(patience) {
            Ok(()) => return Ok(session),
            Err(failure) if failure.is_refusal() || give_up < Instant::now() => {
                return Err(unreachable(settings, failure));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Says so when this host's clock is not the database's: what is compared with one is not always
/// written down by the other.
fn compare_clocks(session: &Session) {
    let ours = SystemClock.now();
    let Ok(theirs) = Tx::postgres(session).time(ours) else { return };
    let apart = ours.saturating_since(theirs).max(theirs.saturating_since(ours));
    if MOST_APART < apart {
        let apart = apart.as_secs();
        tracing::warn!("the clock of this host and that of the database are {apart} seconds apart");
    }
}

fn unreachable(settings: &Settings, failure: Failure) -> OpenError {
    OpenError::Unreachable { place: settings.to_string(), source: Box::new(failure) }
}

#[async_trait]
impl Store for PostgresStore {
    async fn admit(
        &self,
        policy: &Policy,
        new: NewSandbox,
        _durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let policy = policy.clone();
        self.change(move |tx| sandboxes::admit(tx, &policy, new.clone(), now)).await
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>> {
        let id = id.clone();
        self.point(move |tx| sandboxes::one(tx, &id)).await
    }

    async fn sandboxes(&self, include: Include) -> Result<Vec<Sandbox>> {
        self.scan(move |tx| sandboxes::list(tx, include)).await
    }

    async fn expired(&self, now: Timestamp, limit: u32) -> Result<Vec<Sandbox>> {
        self.scan(move |tx| sandboxes::expired(tx, now, limit)).await
    }

    async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        self.point(sandboxes::next_expiry).await
    }

    async fn transition(
        &self,
        id: &SandboxId,
        generation: Generation,
        transition: Transition,
        events: Vec<NewEvent>,
        _durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox> {
        let id = id.clone();
        self.change(move |tx| {
            let (transition, events) = (transition.clone(), events.clone());
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
        self.change(move |tx| sandboxes::extend(tx, &id, expires_at, events.clone(), now)).await
    }

    async fn acquire_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        fence: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        let (id, holder) = (id.clone(), holder.clone());
        self.change(move |tx| leases::acquire(tx, &id, holder.clone(), fence, now)).await
    }

    async fn still_creating(&self, id: &SandboxId, now: Timestamp) -> Result<Sandbox> {
        let id = id.clone();
        self.change(move |tx| sandboxes::still_creating(tx, &id, now)).await
    }

    async fn renew_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        term: Duration,
        now: Timestamp,
    ) -> Result<Lease> {
        let (id, holder) = (id.clone(), holder.clone());
        self.change(move |tx| leases::renew(tx, &id, holder.clone(), term, now)).await
    }

    async fn release_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        generation: Generation,
    ) -> Result<()> {
        let (id, holder) = (id.clone(), holder.clone());
        self.change(move |tx| leases::release(tx, &id, &holder, generation)).await
    }

    async fn lease(&self, id: &SandboxId) -> Result<Option<Lease>> {
        let id = id.clone();
        self.point(move |tx| leases::one(tx, &id)).await
    }

    async fn append_events(&self, events: Vec<NewEvent>, now: Timestamp) -> Result<()> {
        self.change(move |tx| events::append(tx, events.clone(), now)).await
    }

    async fn events(&self, after: u64, limit: u32, filter: EventFilter) -> Result<Vec<Event>> {
        self.scan(move |tx| events::list(tx, after, limit, &filter)).await
    }

    async fn last_event(&self) -> Result<u64> {
        self.point(events::last).await
    }

    async fn log_exec(&self, log: ExecLog) -> Result<()> {
        self.change(move |tx| events::log_exec(tx, &log)).await
    }

    async fn exec_logs(&self, id: &SandboxId, limit: u32) -> Result<Vec<ExecLog>> {
        let id = id.clone();
        self.scan(move |tx| events::exec_logs(tx, &id, limit)).await
    }

    async fn template(&self, name: &str) -> Result<Option<Template>> {
        let name = name.to_owned();
        self.point(move |tx| templates::one(tx, &name)).await
    }

    async fn templates(&self) -> Result<Vec<Template>> {
        self.scan(templates::list).await
    }

    async fn create_template(&self, template: Template) -> Result<Template> {
        self.change(move |tx| templates::create(tx, template.clone())).await
    }

    async fn update_template(
        &self,
        name: &str,
        change: TemplateChange,
        now: Timestamp,
    ) -> Result<Template> {
        let name = name.to_owned();
        self.change(move |tx| templates::update(tx, &name, change.clone(), now)).await
    }

    async fn delete_template(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.change(move |tx| templates::delete(tx, &name)).await
    }

    /// What was answered was committed, and a commit has reached the disk.
    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        self.point(|tx| events::last(tx).map(drop)).await
    }

    fn hints(&self) -> Option<Hints> {
        Some(self.listener.hints())
    }
}
