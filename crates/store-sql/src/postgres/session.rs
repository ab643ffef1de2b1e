//! One connection to Postgres, driven by the thread that owns it.
//!
//! The driver is asynchronous and store methods are not: each call runs the driver on this thread
//! until the answer is there. No task is left running between calls.
//!
//! A transaction begins with its first statement, in the same round trip when that is a SELECT. A
//! failure says whether the transaction can have been committed: it cannot until COMMIT was sent.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::future::try_join;
use stacyvm_store::{Error, Result};
use tokio::{runtime::Runtime, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, Connection, Socket, Statement,
    error::SqlState,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use super::{
    LeaseClock,
    settings::Settings,
    text::{self, Found},
    tls::Encrypted,
};
use crate::db::{Hint, Tx, Value, unavailable};

const BEGIN_WRITING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Transactions that change rows and lock what they read for it.
    Write,
    /// Reads that lock nothing.
    Read,
    /// Statements that are no store method's and may take long.
    Migrate,
}

impl Purpose {
    /// The longest that a statement may take, with all that it waits for. The server gives up a
    /// little earlier, so that it, too, knows that the statement is over.
    const fn longest_statement(self) -> Duration {
        match self {
            Self::Write | Self::Read => Duration::from_secs(31),
            Self::Migrate => Duration::from_secs(24 * 60 * 60),
        }
    }

    /// What every connection begins with. A server that stops in the middle of a transaction must
    /// not keep its locks from the others for longer than they have patience, and what is answered
    /// must have reached the disk whatever the database's default is.
    const fn set_up(self) -> &'static str {
        match self {
            Self::Write | Self::Read => {
                "SET statement_timeout = '30s'; SET lock_timeout = '10s'; \
                 SET idle_in_transaction_session_timeout = '5s'; \
                 SET client_min_messages = 'warning'; SET jit = off; \
                 SELECT set_config('synchronous_commit', 'on', false) \
                 WHERE current_setting('synchronous_commit') = 'off'"
            }
            Self::Migrate => {
                "SET statement_timeout = 0; SET lock_timeout = 0; \
                 SET idle_in_transaction_session_timeout = '5s'; SET client_min_messages = 'warning'"
            }
        }
    }
}

/// How a transaction went.
#[derive(Debug)]
pub(super) enum Ended {
    /// It was committed, or had nothing to commit.
    Committed,
    /// The body did not want it; nothing of it was kept.
    Undone,
    /// Nothing of it was kept, for a reason that may be gone the next time.
    Again(Error),
    /// Whether it was committed is not known, or it was not although the body wanted it.
    Failed(Error),
}

/// A transaction's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// Each statement is one by itself.
    No,
    /// Begins with these words when there is a statement.
    Soon(&'static str),
    /// Has begun.
    Yes,
}

/// Whether what a failed statement was for may be tried once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Final,
    Again,
}

/// The connection. `None` inside when there is none at present.
#[derive(Debug)]
pub(crate) struct Session {
    runtime: Runtime,
    settings: Arc<Settings>,
    purpose: Purpose,
    link: RefCell<Option<Link>>,
    open: Cell<Open>,
    /// What the first failure since the transaction began means.
    failed: Cell<Option<Verdict>>,
    tells_events: Cell<bool>,
    tells_places: Cell<bool>,
}

/// What is there while there is a connection.
struct Link {
    client: Client,
    connection: Connection<Socket, Encrypted>,
    statements: HashMap<(&'static str, &'static str), Statement>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("statements", &self.statements.len()).finish_non_exhaustive()
    }
}

impl Session {
    /// A session without a connection.
    pub(super) fn new(settings: Arc<Settings>, purpose: Purpose) -> std::io::Result<Self> {
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            settings,
            purpose,
            link: RefCell::new(None),
            open: Cell::new(Open::No),
            failed: Cell::new(None),
            tells_events: Cell::new(false),
            tells_places: Cell::new(false),
        })
    }

    /// Whether rows that are read to be changed are to be locked.
    pub(crate) fn locks(&self) -> bool {
        self.purpose == Purpose::Write
    }

    /// Whether leases are judged by the database's clock.
    pub(crate) fn has_clock(&self) -> bool {
        self.settings.clock == LeaseClock::Database
    }

    /// Sees to it that there is a connection. Tries once, within that time.
    pub(super) fn connect(&self, within: Duration) -> Result<(), Failure> {
        if self.link.borrow().as_ref().is_some_and(|link| !link.client.is_closed()) {
            return Ok(());
        }
        let connect = async {
            let (client, mut connection) = self.settings.connect().await?;
            drive(&mut connection, client.batch_execute(self.purpose.set_up()), drop).await?;
            Ok(Link { client, connection, statements: HashMap::new() })
        };
        let connected = self.within(within, connect);
        self.settings.note(connected.is_ok());
        let link = connected?;
        *self.link.borrow_mut() = Some(link);
        Ok(())
    }

    /// Runs statements that are no store method's, outside of a transaction.
    pub(super) fn batch(&self, sql: &str) -> Result<(), Failure> {
        self.on_link(async |client, _| client.batch_execute(sql).await)
    }

    /// The rows that a statement which is no store method's finds.
    pub(super) fn rows(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>, Failure> {
        self.on_link(async |client, _| client.query(sql, &[]).await)
    }

    /// The texts that it finds.
    pub(super) fn texts(&self, sql: &str) -> Result<Vec<String>, Failure> {
        let rows = self.rows(sql)?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(Failure::Driver)
    }

    /// The number that it finds.
    pub(super) fn number(&self, sql: &str) -> Result<i64, Failure> {
        let rows = self.rows(sql)?;
        let row = rows.first().ok_or(Failure::Closed)?;
        row.try_get(0).map_err(Failure::Driver)
    }

    /// Runs `body` in a transaction and commits it if `body` says so.
    pub(super) fn transact(&self, body: impl FnOnce(&mut Tx<'_>) -> bool) -> Ended {
        self.failed.set(None);
        self.tells_events.set(false);
        self.tells_places.set(false);
        self.open.set(match self.purpose {
            Purpose::Write => Open::Soon(BEGIN_WRITING),
            Purpose::Read | Purpose::Migrate => Open::No,
        });
        let keep = body(&mut Tx::postgres(self));
        let has_begun = self.open.replace(Open::No) == Open::Yes;
        match self.failed.get() {
            None if keep && has_begun => return self.commit(),
            None if keep => return Ended::Committed,
            _ if has_begun => self.roll_back(),
            _ => {}
        }
        match self.failed.get() {
            Some(Verdict::Again) => Ended::Again(unavailable(Failure::Interrupted)),
            // A body that went on over a failure: the database did not.
            Some(Verdict::Final) if keep => Ended::Failed(unavailable(Failure::Interrupted)),
            Some(Verdict::Final) | None => Ended::Undone,
        }
    }

    fn commit(&self) -> Ended {
        // The same words from one transaction are delivered once.
        let words = match (self.tells_events.get(), self.tells_places.get()) {
            (false, false) => "COMMIT",
            (true, false) => "NOTIFY stacyvm_events; COMMIT",
            (false, true) => "NOTIFY stacyvm_places; COMMIT",
            (true, true) => "NOTIFY stacyvm_events; NOTIFY stacyvm_places; COMMIT",
        };
        match self.batch(words) {
            Ok(()) => Ended::Committed,
            // It was never sent.
            Err(Failure::Gone) => Ended::Again(unavailable(Failure::Gone)),
            Err(failure) if failure.says_undone() => Ended::Again(failure.into_error()),
            Err(failure) => {
                self.hang_up();
                Ended::Failed(unavailable(failure))
            }
        }
    }

    /// Leaves no transaction open; when that cannot be said, no connection.
    fn roll_back(&self) {
        if self.batch("ROLLBACK").is_err() {
            self.hang_up();
        }
    }

    /// Gives the connection up.
    pub(super) fn hang_up(&self) {
        *self.link.borrow_mut() = None;
    }

    /// Runs reads that see one instant.
    pub(crate) fn snapshot<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.open.get() != Open::No {
            return read();
        }
        self.open.set(Open::Soon(BEGIN_SNAPSHOT));
        let result = read();
        if self.open.replace(Open::No) == Open::Yes {
            self.roll_back();
        }
        result
    }

    /// Notes what to tell the other servers with the commit.
    pub(crate) fn tell(&self, hint: Hint) {
        match hint {
            Hint::Events => self.tells_events.set(true),
            Hint::Places => self.tells_places.set(true),
        }
    }

    /// Runs a statement and counts the rows that it changed.
    pub(crate) fn execute(
        &self,
        sql: &'static str,
        suffix: &'static str,
        values: &[Value<'_>],
    ) -> Result<usize> {
        let count = self.run(sql, suffix, async |client, statement| {
            client.execute(statement, &parameters(values)).await
        })?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Runs a statement and collects its rows.
    pub(crate) fn query(
        &self,
        sql: &'static str,
        suffix: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Found>> {
        let rows = self.run(sql, suffix, async |client, statement| {
            client.query(statement, &parameters(values)).await
        })?;
        Ok(rows.into_iter().map(Found::new).collect())
    }

    fn run<T>(
        &self,
        sql: &'static str,
        suffix: &'static str,
        call: impl AsyncFnOnce(&Client, &Statement) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        if self.failed.get().is_some() {
            // The transaction is over: the first failure is the one to tell of.
            return Err(unavailable(Failure::Interrupted));
        }
        let begin = match self.open.get() {
            Open::Soon(words) => Some(words),
            Open::No | Open::Yes => None,
        };
        if begin.is_some() {
            self.open.set(Open::Yes);
        }
        let result = self.on_link(async |client, statements| {
            let statement = match statements.get(&(sql, suffix)) {
                Some(statement) => statement.clone(),
                None => {
                    let statement = client.prepare(&format!("{sql}{suffix}")).await?;
                    statements.insert((sql, suffix), statement.clone());
                    statement
                }
            };
            match begin {
                // Should BEGIN fail, what was sent with it has changed nothing.
                Some(begin) if sql.starts_with("SELECT") => {
                    let begin = client.batch_execute(begin);
                    try_join(begin, call(client, &statement)).await.map(|((), rows)| rows)
                }
                Some(begin) => {
                    client.batch_execute(begin).await?;
                    call(client, &statement).await
                }
                None => call(client, &statement).await,
            }
        });
        result.map_err(|failure| {
            self.failed.set(Some(failure.verdict()));
            failure.into_error()
        })
    }

    /// Runs the driver until the answer is there or the time is over.
    fn within<T>(
        &self,
        time: Duration,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.runtime.block_on(async { timeout(time, answer).await.unwrap_or(Err(Failure::Late)) })
    }

    /// Runs the driver until the answer is there. A connection that does not answer is given up.
    fn on_link<T>(
        &self,
        call: impl AsyncFnOnce(
            &Client,
            &mut HashMap<(&'static str, &'static str), Statement>,
        ) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Failure> {
        let mut link = self.link.borrow_mut();
        let Some(Link { client, connection, statements }) = link.as_mut() else {
            return Err(Failure::Gone);
        };
        let answer = drive(connection, call(client, statements), drop);
        let result = self.within(self.purpose.longest_statement(), answer);
        if result.as_ref().is_err_and(Failure::is_lost) {
            *link = None;
        }
        result
    }
}

fn parameters<'v>(values: &'v [Value<'_>]) -> Vec<&'v (dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

/// Runs a call and the connection that it needs. Messages that nobody asked for go to `hear`.
pub(super) async fn drive<T>(
    connection: &mut Connection<Socket, Encrypted>,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    mut hear: impl FnMut(AsyncMessage),
) -> Result<T, Failure> {
    let mut call = pin!(call);
    poll_fn(|context| {
        loop {
            if let Poll::Ready(result) = call.as_mut().poll(context) {
                return Poll::Ready(result.map_err(Failure::from));
            }
            match connection.poll_message(context) {
                Poll::Ready(Some(Ok(message))) => hear(message),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(None) => return Poll::Ready(Err(Failure::Closed)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Why a statement or a connection failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There is no connection, and nothing was sent.
    #[error("there is no connection to the database")]
    Gone,
    /// The other side closed the connection.
    #[error("the database closed the connection")]
    Closed,
    /// No answer came in time.
    #[error("the database does not answer")]
    Late,
    /// Something before it failed.
    #[error("the database gave up the transaction; nothing of it was kept")]
    Interrupted,
    /// The driver says why.
    #[error("the database refused")]
    Driver(#[source] tokio_postgres::Error),
    /// The server says why.
    #[error("{message}")]
    Server {
        /// Its words, which name objects and never values of ours.
        message: String,
        /// Its code.
        code: SqlState,
    },
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // The driver's own sentence would be "db error", and its source may quote whole rows.
            Some(said) => {
                Self::Server { message: said.message().to_owned(), code: said.code().clone() }
            }
            None if error.is_closed() => Self::Closed,
            None => Self::Driver(error),
        }
    }
}

impl Failure {
    const fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Server { code, .. } => Some(code),
            Self::Gone | Self::Closed | Self::Late | Self::Interrupted | Self::Driver(_) => None,
        }
    }

    /// Whether the connection is of no more use.
    fn is_lost(&self) -> bool {
        let Some(code) = self.code() else { return true };
        let code = code.code();
        // Connection exceptions, the ends of a server, of an idle transaction and of an idle
        // connection; and a server that became a standby, of which another one is the primary.
        code.starts_with("08")
            || ["57P01", "57P02", "57P03", "57P05", "25P03", "25006"].contains(&code)
    }

    /// Whether the database says that it undid the transaction by its own choice.
    fn says_undone(&self) -> bool {
        self.code().is_some_and(|code| {
            *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
        })
    }

    fn verdict(&self) -> Verdict {
        // A plan that does not fit the schema any more: another server has migrated it.
        let is_stale = self.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED);
        match self.is_lost() || self.says_undone() || is_stale {
            true => Verdict::Again,
            false => Verdict::Final,
        }
    }

    /// Whether another attempt to connect would fail in the same way.
    pub(super) fn is_refusal(&self) -> bool {
        let code = self.code().map_or("", SqlState::code);
        // Credentials, names of databases, privileges.
        code.starts_with("28") || code.starts_with("3D") || code.starts_with("42")
    }

    /// What it means to the caller of the store.
    pub(super) fn into_error(self) -> Error {
        match self.code() {
            Some(code) if *code == SqlState::DISK_FULL => Error::DiskFull,
            Some(code) if *code == SqlState::FOREIGN_KEY_VIOLATION => Error::NotFound,
            Some(code) if *code == SqlState::UNIQUE_VIOLATION => Error::Conflict,
            _ => unavailable(self),
        }
    }
}

/// As the statement's own types want it: TEXT and BIGINT, which is all there is.
impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(int) if *kind == Type::INT4 => i32::try_from(*int)?.to_sql(kind, out),
            Self::Int(int) => int.to_sql(kind, out),
            Self::Text(text) => text::encode(text).to_sql(kind, out),
            Self::Made(text) => text::encode(text).to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::TEXT, Type::VARCHAR, Type::UNKNOWN].contains(kind)
    }

    to_sql_checked!();
}
