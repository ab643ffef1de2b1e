//! Looking at a database file without touching it: what it is, whether it is whole, what is in it.
//!
//! A reader of a file in WAL mode takes its place in the shared memory beside it, which the server
//! uses too, and nothing else: it is opened read-only, so it can neither checkpoint nor remove the
//! log when it closes, also as the last one, and the kernel takes its locks back when it is killed.
//! All it costs the server is that the log grows until it is done.

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::open::{self, MIGRATIONS, OpenError, Origin};
use crate::{invariants::INVARIANTS, migrations::Migration};

/// Lines of SQLite's own check that are told.
const MOST_LINES: usize = 20;

/// What a database file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its size in bytes, without its log.
    pub size_bytes: u64,
    /// The last step of its schema.
    pub schema: i64,
    /// Its tables with the number of their rows, by name; the one of the schema's steps left out.
    pub rows: Vec<(String, u64)>,
    /// What is wrong with it, one sentence each. Empty is a database that can be relied on.
    pub problems: Vec<String>,
}

/// Opens a file only for looking.
pub(super) fn reader(path: &Path) -> Result<Connection, OpenError> {
    let file = |source| OpenError::File { path: path.to_owned(), source };
    if !path.metadata().map_err(file)?.is_file() {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    let sql = |source| open::sql_error(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(open::BUSY).map_err(sql)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sql)?;
    // The file may be anybody's.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(sql)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(sql)?;
    connection.pragma_update(None, "cell_size_check", true).map_err(sql)?;
    Ok(connection)
}

/// The steps of the schema that a file has; refuses one that is not ours, or is too new.
pub(super) fn steps(
    connection: &Connection,
    path: &Path,
) -> Result<&'static [Migration], OpenError> {
    let sql = |source| open::sql_error(path, source);
    match open::recognise(connection).map_err(sql)? {
        Origin::Ours => {}
        Origin::OlderImplementation(version) => {
            return Err(OpenError::OlderImplementation { path: path.to_owned(), version });
        }
        Origin::Empty | Origin::Foreign => return Err(OpenError::Foreign(path.to_owned())),
    }
    let applied = open::applied(connection).map_err(sql)?;
    open::known(path, MIGRATIONS, &applied)?;
    MIGRATIONS.get(..applied.len()).ok_or_else(|| OpenError::Foreign(path.to_owned()))
}

/// Looks at the database in `path`, beside a running server or without one, and changes nothing. All
/// of it is one state, that of the beginning. Blocks as long as reading the whole file takes.
pub fn check(path: &Path) -> Result<Report, OpenError> {
    let mut report = Report { size_bytes: 0, schema: 0, rows: Vec::new(), problems: Vec::new() };
    match look_at(path, &mut report) {
        Err(OpenError::Sql { source, .. }) if is_damage(&source) => {
            report.problems.push("the file is damaged: parts of it cannot be read".to_owned());
            Ok(report)
        }
        looked => looked.map(|()| report),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

fn look_at(path: &Path, report: &mut Report) -> Result<(), OpenError> {
    let connection = reader(path)?;
    let sql = |source| open::sql_error(path, source);
    connection.execute_batch("BEGIN").map_err(sql)?;
    let steps = steps(&connection, path)?;
    report.schema = steps.last().map_or(0, |step| step.number);
    look(&connection, steps, report).map_err(sql)
}

fn look(
    connection: &Connection,
    steps: &'static [Migration],
    report: &mut Report,
) -> rusqlite::Result<()> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let pages = number("PRAGMA page_count")?.saturating_mul(number("PRAGMA page_size")?);
    report.size_bytes = pages.unsigned_abs();
    let tables = schema(connection)?;
    if tables != expected(steps)? {
        let message = format!("its tables are not those of schema {}", report.schema);
        report.problems.push(message);
        return Ok(());
    }
    let mut lines = connection.prepare(&format!("PRAGMA integrity_check({MOST_LINES})"))?;
    let lines = lines.query_map([], |row| row.get::<_, String>(0))?;
    for line in lines.collect::<rusqlite::Result<Vec<_>>>()? {
        if line != "ok" {
            report.problems.push(format!("the file is damaged: {}", line.trim()));
        }
    }
    let mut strays = connection.prepare("PRAGMA foreign_key_check")?;
    let strays: BTreeSet<(String, String)> = strays
        .query_map([], |row| Ok((row.get(0)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (table, parent) in strays {
        report.problems.push(format!("rows of {table} name rows of {parent} that are not there"));
    }
    for invariant in INVARIANTS.iter().filter(|invariant| invariant.since <= report.schema) {
        match number(invariant.sql)?.unsigned_abs() {
            0 => {}
            count => report.problems.push(format!("{} ({count})", invariant.otherwise)),
        }
    }
    for Object { kind, name, .. } in tables {
        if kind == "table" && !name.starts_with("sqlite_") && name != "stacyvm_migrations" {
            // A name of ours: the tables are those that we made.
            let count = number(&format!("SELECT COUNT(*) FROM \"{name}\""))?;
            report.rows.push((name, count.unsigned_abs()));
        }
    }
    Ok(())
}

/// One table, index or other part of a schema.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    kind: String,
    name: String,
    table: String,
    sql: Option<String>,
}

fn schema(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    let mut parts = connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")?;
    let parts = parts.query_map([], |row| {
        let sql: Option<String> = row.get(3)?;
        // The database keeps a statement as it was typed, by whichever version made the table.
        let sql = sql.map(|sql| sql.split_whitespace().collect::<Vec<_>>().join(" "));
        Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql })
    })?;
    parts.collect()
}

/// The schema that these steps make.
fn expected(steps: &'static [Migration]) -> rusqlite::Result<Vec<Object>> {
    let fresh = Connection::open_in_memory()?;
    open::make_own(&fresh)?;
    for step in steps {
        fresh.execute_batch(step.sql)?;
    }
    schema(&fresh)
}
