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

/// An open transaction, or for a single read the connection that makes its own.
#[derive(Debug)]
pub(crate) struct Tx<'c> {
    connection: &'c Connection,
    dialect: Dialect,
}

/// The words in which the databases differ.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dialect {
    /// One writer at a time: a write transaction has locked everything already.
    Sqlite,
}

impl Dialect {
    /// Locks the rows that a SELECT finds until the transaction ends.
    const fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
        }
    }
}

impl<'c> Tx<'c> {
    /// The executor over a SQLite connection.
    pub(crate) const fn sqlite(connection: &'c Connection) -> Self {
        Self { connection, dialect: Dialect::Sqlite }
    }

    /// Runs reads that must see one instant. A transaction that is open already is one.
    pub(crate) fn snapshot<T>(&self, read: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let transaction = self.connection.unchecked_transaction().map_err(sql_error)?;
        let result = read(self);
        transaction.finish().map_err(sql_error)?;
        result
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

    /// Locks the rows that this SELECT finds.
    pub(crate) const fn for_update(mut self) -> Self {
        self.suffix = self.tx.dialect.for_update();
        self
    }

    /// Runs it and counts the rows that it changed.
    pub(crate) fn execute(self) -> Result<usize> {
        self.on_statement(|statement| statement.raw_execute().map_err(sql_error))
    }

    /// Its first row, if there is one.
    pub(crate) fn first<T>(
        self,
        read: impl FnOnce(&mut Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.on_statement(|statement| {
            let mut rows = statement.raw_query();
            match rows.next().map_err(sql_error)? {
                Some(row) => read(&mut Row { row, next: 0 }).map(Some),
                None => Ok(None),
            }
        })
    }

    /// All of its rows.
    pub(crate) fn all<T>(self, read: impl Fn(&mut Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        self.on_statement(|statement| {
            let mut rows = statement.raw_query();
            let mut all = Vec::new();
            while let Some(row) = rows.next().map_err(sql_error)? {
                all.push(read(&mut Row { row, next: 0 })?);
            }
            Ok(all)
        })
    }

    fn on_statement<T>(
        self,
        run: impl FnOnce(&mut rusqlite::CachedStatement<'_>) -> Result<T>,
    ) -> Result<T> {
        let connection = self.tx.connection;
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
    row: &'r rusqlite::Row<'r>,
    next: usize,
}

impl<'r> Row<'r> {
    fn column(&mut self) -> Result<ValueRef<'r>> {
        let index = self.next;
        self.next += 1;
        self.row.get_ref(index).map_err(sql_error)
    }

    /// The next column, a TEXT.
    pub(crate) fn text(&mut self) -> Result<&'r str> {
        self.optional_text()?.ok_or_else(|| unavailable(Corrupt("a NULL where a text must be")))
    }

    /// The next column, a TEXT or NULL.
    pub(crate) fn optional_text(&mut self) -> Result<Option<&'r str>> {
        self.column()?
            .as_str_or_null()
            .map_err(|_| unavailable(Corrupt("something else where a text must be")))
    }

    /// The next column, a BIGINT in the range of `T`.
    pub(crate) fn int<T: TryFrom<i64>>(&mut self) -> Result<T> {
        self.optional_int()?.ok_or_else(|| unavailable(Corrupt("a NULL where a number must be")))
    }

    /// The next column, a BIGINT in the range of `T` or NULL.
    pub(crate) fn optional_int<T: TryFrom<i64>>(&mut self) -> Result<Option<T>> {
        let int = self
            .column()?
            .as_i64_or_null()
            .map_err(|_| unavailable(Corrupt("something else where a number must be")))?;
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
