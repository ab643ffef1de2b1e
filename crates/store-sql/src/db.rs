//! The executor: the little that store methods need of a database, the same for each database.
//!
//! It is synchronous. A store method is a plain function over [`Tx`]; which thread runs it, and
//! when its transaction commits, is the business of the database's arm.

use std::{error::Error as StdError, sync::Arc};

use rusqlite::{
    Connection,
    types::{ToSqlOutput, Value as SqliteValue, ValueRef},
};
use stacyvm_store::{Error, Result};
use stacyvm_types::Timestamp;

use crate::postgres::{Found, Session};

/// An open transaction, or for a single read the connection that makes its own.
#[derive(Debug)]
pub(crate) struct Tx<'c>(On<'c>);

/// The database that a transaction is on.
#[derive(Debug, Clone, Copy)]
enum On<'c> {
    Sqlite(&'c Connection),
    Postgres(&'c Session),
}

/// Locks the rows that a SELECT finds until the transaction ends. Not against rows that name them:
/// no key of a row ever changes. SQLite has one writer at a time, who has locked everything already.
const FOR_UPDATE: &str = " FOR NO KEY UPDATE";

/// The same for whoever holds other rows already, in no order that others keep: rows that are locked
/// are not found.
const FOR_UPDATE_UNLESS_LOCKED: &str = " FOR UPDATE SKIP LOCKED";

/// The instant at which it is asked, and not the one at which the transaction began: what it is
/// compared with was read after waiting for a lock.
const POSTGRES_NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";

const POSTGRES_ALONE: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

/// Something that other servers on the same database wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Events were appended.
    Events,
    /// A place became free, or a limit changed.
    Places,
}

impl<'c> Tx<'c> {
    /// The executor over a SQLite connection.
    pub(crate) const fn sqlite(connection: &'c Connection) -> Self {
        Self(On::Sqlite(connection))
    }

    /// The executor over a connection to Postgres.
    pub(crate) const fn postgres(session: &'c Session) -> Self {
        Self(On::Postgres(session))
    }

    /// Runs reads that must see one instant. A transaction that is open already is one.
    pub(crate) fn snapshot<T>(&self, read: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        match self.0 {
            On::Sqlite(connection) => {
                let transaction = connection.unchecked_transaction().map_err(sql_error)?;
                let result = read(self);
                transaction.finish().map_err(sql_error)?;
                result
            }
            On::Postgres(session) => session.snapshot(|| read(self)),
        }
    }

    /// The instant by the clock that leases are judged by: `now`, where there is none but the
    /// caller's. It is asked for after what it is compared with was locked.
    pub(crate) fn time(&self, now: Timestamp) -> Result<Timestamp> {
        match self.0 {
            On::Postgres(session) if session.has_clock() => {
                self.query(POSTGRES_NOW).first(|row| row.instant())?.ok_or_else(unknown_word)
            }
            On::Postgres(_) | On::Sqlite(_) => Ok(now),
        }
    }

    /// Waits until no other transaction has asked for the same, and keeps others that do waiting
    /// until this one ends. For rows that may not be there yet and so cannot be locked.
    pub(crate) fn alone_about(&self, what: &'static str, which: &str) -> Result<()> {
        match self.0 {
            On::Sqlite(_) => Ok(()),
            On::Postgres(_) => {
                self.query(POSTGRES_ALONE).bind(format!("{what} {which}")).execute().map(drop)
            }
        }
    }

    /// Tells the other servers when the transaction is committed, if there can be others.
    pub(crate) fn tell(&self, hint: Hint) {
        match self.0 {
            On::Sqlite(_) => {}
            On::Postgres(session) => session.tell(hint),
        }
    }

    /// Starts a statement.
    pub(crate) const fn query(&self, sql: &'static str) -> Query<'_> {
        Query { tx: self, sql, suffix: "", values: Vec::new() }
    }
}

/// A statement and its values so far.
#[derive(Debug)]
pub(crate) struct Query<'t> {
    tx: &'t Tx<'t>,
    sql: &'static str,
    suffix: &'static str,
    values: Vec<Value<'t>>,
}

impl<'t> Query<'t> {
    /// Gives `$1`, `$2` and so on their values, in this order.
    pub(crate) fn bind(mut self, value: impl Into<Value<'t>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Locks the rows that this SELECT finds, in a transaction that changes rows.
    pub(crate) fn for_update(mut self) -> Self {
        self.suffix = match self.tx.0 {
            On::Postgres(session) if session.locks() => FOR_UPDATE,
            On::Postgres(_) | On::Sqlite(_) => "",
        };
        self
    }

    /// Locks the rows that this SELECT finds, and finds none that somebody else has locked.
    pub(crate) fn for_update_unless_locked(mut self) -> Self {
        self.suffix = match self.tx.0 {
            On::Postgres(_) => FOR_UPDATE_UNLESS_LOCKED,
            On::Sqlite(_) => "",
        };
        self
    }

    /// Runs it and counts the rows that it changed.
    pub(crate) fn execute(self) -> Result<usize> {
        match self.tx.0 {
            On::Sqlite(connection) => self
                .on_statement(connection, |statement| statement.raw_execute().map_err(sql_error)),
            On::Postgres(session) => session.execute(self.sql, self.suffix, &self.values),
        }
    }

    /// Its first row, if there is one.
    pub(crate) fn first<T>(
        self,
        read: impl FnOnce(&mut Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.tx.0 {
            On::Sqlite(connection) => self.on_statement(connection, |statement| {
                let mut rows = statement.raw_query();
                match rows.next().map_err(sql_error)? {
                    Some(row) => read(&mut Row::sqlite(row)).map(Some),
                    None => Ok(None),
                }
            }),
            On::Postgres(session) => {
                let rows = session.query(self.sql, self.suffix, &self.values)?;
                rows.first().map(|row| read(&mut Row::postgres(row))).transpose()
            }
        }
    }

    /// All of its rows.
    pub(crate) fn all<T>(self, read: impl Fn(&mut Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        let mut all = Vec::new();
        self.each(|row| {
            all.push(read(row)?);
            Ok(())
        })?;
        Ok(all)
    }

    /// Looks at each of its rows, keeping none.
    pub(crate) fn each(self, mut look: impl FnMut(&mut Row<'_>) -> Result<()>) -> Result<()> {
        match self.tx.0 {
            On::Sqlite(connection) => self.on_statement(connection, |statement| {
                let mut rows = statement.raw_query();
                while let Some(row) = rows.next().map_err(sql_error)? {
                    look(&mut Row::sqlite(row))?;
                }
                Ok(())
            }),
            On::Postgres(session) => {
                let rows = session.query(self.sql, self.suffix, &self.values)?;
                rows.iter().try_for_each(|row| look(&mut Row::postgres(row)))
            }
        }
    }

    fn on_statement<T>(
        self,
        connection: &Connection,
        run: impl FnOnce(&mut rusqlite::CachedStatement<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut statement = match self.suffix {
            "" => connection.prepare_cached(self.sql),
            suffix => connection.prepare_cached(&format!("{}{suffix}", self.sql)),
        }
        .map_err(sql_error)?;
        // SQLite numbers `$n` by first appearance, not by `n`, and shows the name.
        for index in 1..=statement.parameter_count() {
            let number = statement.parameter_name(index).and_then(|name| name[1..].parse().ok());
            let value = number.and_then(|n: usize| self.values.get(n.checked_sub(1)?));
            let Some(value) = value else {
                return Err(unavailable(Corrupt("a placeholder without a value")));
            };
            statement.raw_bind_parameter(index, value).map_err(sql_error)?;
        }
        run(&mut statement)
    }
}

/// A value of one of the portable column types.
#[derive(Debug)]
pub(crate) enum Value<'v> {
    /// No value.
    Null,
    /// A BIGINT.
    Int(i64),
    /// A TEXT.
    Text(&'v str),
    /// A TEXT that was made for the statement.
    Made(String),
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(SqliteValue::Null),
            Self::Int(int) => ToSqlOutput::Owned(SqliteValue::Integer(*int)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Made(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Made(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl From<i32> for Value<'_> {
    fn from(int: i32) -> Self {
        Self::Int(int.into())
    }
}

impl<'v, T: Into<Value<'v>>> From<Option<T>> for Value<'v> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<u32> for Value<'_> {
    fn from(int: u32) -> Self {
        Self::Int(int.into())
    }
}

/// Counters stop at the largest BIGINT: no row has a larger one, so none is found by it.
impl From<u64> for Value<'_> {
    fn from(int: u64) -> Self {
        Self::Int(i64::try_from(int).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for Value<'_> {
    fn from(at: Timestamp) -> Self {
        Self::Int(at.as_micros())
    }
}

/// A row, read column by column from the left.
#[derive(Debug)]
pub(crate) struct Row<'r> {
    row: Source<'r>,
    next: usize,
}

#[derive(Debug)]
enum Source<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r Found),
}

impl<'r> Row<'r> {
    const fn sqlite(row: &'r rusqlite::Row<'r>) -> Self {
        Self { row: Source::Sqlite(row), next: 0 }
    }

    const fn postgres(row: &'r Found) -> Self {
        Self { row: Source::Postgres(row), next: 0 }
    }

    fn take(&mut self) -> usize {
        let index = self.next;
        self.next += 1;
        index
    }

    /// The next column, a TEXT.
    pub(crate) fn text(&mut self) -> Result<&'r str> {
        self.optional_text()?.ok_or_else(|| unavailable(Corrupt("a NULL where a text must be")))
    }

    /// The next column, a TEXT or NULL.
    pub(crate) fn optional_text(&mut self) -> Result<Option<&'r str>> {
        let index = self.take();
        let text = match self.row {
            Source::Sqlite(row) => row.get_ref(index).map_err(sql_error)?.as_str_or_null().ok(),
            Source::Postgres(row) => row.text(index),
        };
        text.ok_or_else(|| unavailable(Corrupt("something else where a text must be")))
    }

    /// The next column, a BIGINT in the range of `T`.
    pub(crate) fn int<T: TryFrom<i64>>(&mut self) -> Result<T> {
        self.optional_int()?.ok_or_else(|| unavailable(Corrupt("a NULL where a number must be")))
    }

    /// The next column, a BIGINT in the range of `T` or NULL.
    pub(crate) fn optional_int<T: TryFrom<i64>>(&mut self) -> Result<Option<T>> {
        let index = self.take();
        let int = match self.row {
            Source::Sqlite(row) => row.get_ref(index).map_err(sql_error)?.as_i64_or_null().ok(),
            Source::Postgres(row) => row.int(index),
        };
        let int: Option<i64> =
            int.ok_or_else(|| unavailable(Corrupt("something else where a number must be")))?;
        int.map(|int| T::try_from(int).map_err(|_| unavailable(Corrupt("a number out of range"))))
            .transpose()
    }

    /// The next column, an instant.
    pub(crate) fn instant(&mut self) -> Result<Timestamp> {
        self.int().map(Timestamp::from_micros)
    }

    /// The next column, a TEXT that `parse` must understand.
    pub(crate) fn parsed<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        parse(self.text()?).ok_or_else(unknown_word)
    }

    /// The next column, a TEXT that holds JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        serde_json::from_str(self.text()?).map_err(unavailable)
    }
}

/// The JSON text of a map or list of texts.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(unavailable)
}

/// A row that does not say what the schema promises.
#[derive(Debug, thiserror::Error)]
#[error("the database holds {0}")]
struct Corrupt(&'static str);

/// The counter that the schema made is not there.
pub(crate) fn missing_counter() -> Error {
    unavailable(Corrupt("no counter of events"))
}

/// A row says something that this version does not know.
pub(crate) fn unknown_word() -> Error {
    unavailable(Corrupt("a word that is not known"))
}

/// Checks that a change guarded by a version changed its row. The row is locked when its version
/// is read, so anything else is a fault of the database or of this crate.
pub(crate) fn one_row(changed: usize) -> Result<()> {
    match changed {
        1 => Ok(()),
        _ => Err(unavailable(Corrupt("a row that changed under its lock"))),
    }
}

/// The store cannot answer, for this reason.
pub(crate) fn unavailable(source: impl StdError + Send + Sync + 'static) -> Error {
    Error::Unavailable(Box::new(source))
}

/// What a failed statement means to the caller of the store.
pub(crate) fn sql_error(error: rusqlite::Error) -> Error {
    shared_sql_error(&Arc::new(error))
}

/// The same for a failure that several callers share.
pub(crate) fn shared_sql_error(error: &Arc<rusqlite::Error>) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Error::DiskFull,
        _ => Error::Unavailable(Box::new(Arc::clone(error))),
    }
}
