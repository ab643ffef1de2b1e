//! Opening the file: whose it is, who may read it, and which schema it has.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::{
    migrations::{self, Migration, Misfit, checksum},
    sql,
};

/// Marks the file as ours: "SVM1".
const APPLICATION_ID: i32 = 0x5356_4d31;
/// How long a starter waits for another one, and a writer for a checkpoint by another process.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// Bytes of a page of a new file. A row that is put between others costs the log a whole page for
/// each index that it is in, and a page must have room for four rows with all that they usually say.
pub(super) const PAGE: i64 = 2048;
/// Enough for every statement of this crate.
const CACHED_STATEMENTS: usize = 128;

/// The schema, step by step. A step that was released is never changed, only followed.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "sandboxes_leases_events_templates",
        sql: include_str!("../../migrations/sqlite/0001_sandboxes_leases_events_templates.sql"),
    },
    Migration {
        number: 2,
        name: "quotas",
        sql: include_str!("../../migrations/sqlite/0002_quotas.sql"),
    },
    Migration {
        number: 3,
        name: "api_keys",
        sql: include_str!("../../migrations/sqlite/0003_api_keys.sql"),
    },
    Migration {
        number: 4,
        name: "audit_and_retention",
        sql: include_str!("../../migrations/sqlite/0004_audit_and_retention.sql"),
    },
    Migration {
        number: 5,
        name: "idempotency_keys",
        sql: include_str!("../../migrations/sqlite/0005_idempotency_keys.sql"),
    },
    Migration {
        number: 6,
        name: "exec_ids",
        sql: include_str!("../../migrations/sqlite/0006_exec_ids.sql"),
    },
    Migration {
        number: 7,
        name: "workers",
        sql: include_str!("../../migrations/sqlite/0007_workers.sql"),
    },
    Migration {
        number: 8,
        name: "idempotency_bodies",
        sql: include_str!("../../migrations/sqlite/0008_idempotency_bodies.sql"),
    },
];

/// Why the store could not be opened. Each is a sentence for the person who started it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its directory cannot be made or opened.
    #[error("the store {} cannot be opened", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another store has the file.
    #[error("another server uses the store {}: stop it, or give this one its own", .0.display())]
    InUse(PathBuf),
    /// The file is something else.
    #[error("{} is not a StacyVM database, and was left as it is", .0.display())]
    Foreign(PathBuf),
    /// The file was written by the older Go implementation.
    #[error(
        "{} is a database of the older StacyVM written in Go (schema {version}), which this \
         version cannot read: choose another data directory; the file was left as it is",
        path.display()
    )]
    OlderImplementation {
        /// The file.
        path: PathBuf,
        /// Its schema version there.
        version: i64,
    },
    /// The file has a schema that this version does not know.
    #[error(
        "{} has schema {found}, written by a newer StacyVM, and this version knows schemas up to \
         {known}: start the newer version, or restore a backup from before the upgrade",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this version knows.
        known: i64,
    },
    /// A step of the schema is not the one that was applied.
    #[error(
        "{} was made with another schema step {number}: it comes from a build that was never \
         released, or was changed by hand",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// The step.
        number: i64,
    },
    /// The database failed.
    #[error("the store {} cannot be opened", path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: rusqlite::Error,
    },
}

/// Opens the file for writing, creating and migrating it as needed.
pub(super) fn writer(path: &Path) -> Result<Connection, OpenError> {
    create_private(path)?;
    let sql = |source| sql_error(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY).map_err(sql)?;
    // Does nothing to a file that has pages already.
    connection.pragma_update(None, "page_size", PAGE).map_err(sql)?;
    while migrate_one(&mut connection, path, MIGRATIONS, &sql)? {}
    restrict(path)?;
    use_wal(&connection).map_err(sql)?;
    configure(&connection).map_err(sql)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(sql)?;
    // Does nothing after an orderly stop.
    connection.execute(sql::SKIP_RESERVED_EVENT_IDS, []).map_err(sql)?;
    // The writer's thread checkpoints, when nobody waits for it.
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(sql)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20).map_err(sql)?;
    Ok(connection)
}

/// What a failure of SQLite says about the file.
pub(super) fn sql_error(path: &Path, source: rusqlite::Error) -> OpenError {
    match source {
        rusqlite::Error::SqliteFailure(error, _) if error.code == ErrorCode::NotADatabase => {
            OpenError::Foreign(path.to_owned())
        }
        source => OpenError::Sql { path: path.to_owned(), source },
    }
}

/// Opens the file for reading; a writer must have it open.
pub(super) fn reader(path: &Path) -> Result<Connection, OpenError> {
    let sql = |source| OpenError::Sql { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY).map_err(sql)?;
    configure(&connection).map_err(sql)?;
    connection.pragma_update(None, "query_only", true).map_err(sql)?;
    Ok(connection)
}

/// Opens the log that a writer has open, for syncing it.
pub(super) fn log(path: &Path) -> Result<File, OpenError> {
    let file = |source| OpenError::File { path: path.to_owned(), source };
    OpenOptions::new().read(true).write(true).open(beside(path, "-wal")?).map_err(file)
}

/// Holds the file for this store, until what is returned is dropped: rows that were written last
/// are read from memory, so nobody else may write it.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let file = |source| OpenError::File { path: path.to_owned(), source };
    // Beside the file and not on it: closing any descriptor of the file would drop SQLite's locks.
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(beside(path, "-lock")?)
        .map_err(file)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(file(source)),
    }
}

/// A name beside the file. As SQLite does it: after the file itself, and not after a link to it.
fn beside(path: &Path, suffix: &str) -> Result<PathBuf, OpenError> {
    let found = fs::canonicalize(path);
    let mut name =
        found.map_err(|source| OpenError::File { path: path.to_owned(), source })?.into_os_string();
    name.push(suffix);
    Ok(name.into())
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Changing the journal needs the file alone for a moment, and SQLite does not always wait for it.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let give_up = Instant::now() + BUSY;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < give_up =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

/// Makes the file for its owner only, and its directory where it is missing.
fn create_private(path: &Path) -> Result<(), OpenError> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    if let Some(directory) = directory {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| OpenError::File { path: directory.to_owned(), source })?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| OpenError::File { path: path.to_owned(), source })
}

/// A file of ours that was made readable to others is closed again.
fn restrict(path: &Path) -> Result<(), OpenError> {
    let file = |source| OpenError::File { path: path.to_owned(), source };
    if fs::metadata(path).map_err(file)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(file)
}

/// Applies the next step of the schema in a transaction of its own. False when there is none left.
///
/// The write lock is taken before anything is looked at, so two starters take turns, and what is
/// refused is left untouched.
fn migrate_one(
    connection: &mut Connection,
    path: &Path,
    migrations: &[Migration],
    sql: &dyn Fn(rusqlite::Error) -> OpenError,
) -> Result<bool, OpenError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    match recognise(&tx).map_err(sql)? {
        Origin::Empty => make_own(&tx).map_err(sql)?,
        Origin::Ours => {}
        Origin::OlderImplementation(version) => {
            return Err(OpenError::OlderImplementation { path: path.to_owned(), version });
        }
        Origin::Foreign => return Err(OpenError::Foreign(path.to_owned())),
    }
    let applied = applied(&tx).map_err(sql)?;
    known(path, migrations, &applied)?;
    let Some(next) = migrations.get(applied.len()) else { return Ok(false) };
    tx.execute_batch(next.sql).map_err(sql)?;
    tx.execute(
        "INSERT INTO stacyvm_migrations (number, name, checksum) VALUES (?1, ?2, ?3)",
        (next.number, next.name, checksum(next.sql)),
    )
    .map_err(sql)?;
    tx.commit().map_err(sql)?;
    Ok(true)
}

/// Marks an empty database as ours.
pub(super) fn make_own(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID};
         CREATE TABLE stacyvm_migrations (number INTEGER NOT NULL PRIMARY KEY,
            name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT;"
    ))
}

/// Refuses steps that were applied and are not the first ones of these.
pub(super) fn known(
    path: &Path,
    migrations: &[Migration],
    applied: &[(i64, String)],
) -> Result<(), OpenError> {
    migrations::fit(migrations, applied).map_err(|misfit| match misfit {
        Misfit::Newer { found, known } => OpenError::Newer { path: path.to_owned(), found, known },
        Misfit::Changed { number } => OpenError::Changed { path: path.to_owned(), number },
    })
}

pub(super) enum Origin {
    Empty,
    Ours,
    OlderImplementation(i64),
    Foreign,
}

/// Whose database this is.
pub(super) fn recognise(connection: &Connection) -> rusqlite::Result<Origin> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let tables: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    Ok(match application {
        APPLICATION_ID if has("stacyvm_migrations") => Origin::Ours,
        0 if tables.is_empty() => Origin::Empty,
        0 if has("sandboxes") && has("schema_migrations") => {
            let version =
                connection
                    .query_row("SELECT MAX(version) FROM schema_migrations", [], |row| row.get(0));
            version.map_or(Origin::Foreign, Origin::OlderImplementation)
        }
        _ => Origin::Foreign,
    })
}

/// The steps of the schema that were applied, with their checksums.
pub(super) fn applied(connection: &Connection) -> rusqlite::Result<Vec<(i64, String)>> {
    connection
        .prepare("SELECT number, checksum FROM stacyvm_migrations ORDER BY number")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Gives an empty database the newest schema.
#[cfg(test)]
pub(crate) fn migrate_for_tests(connection: &Connection) {
    for migration in MIGRATIONS {
        connection.execute_batch(migration.sql).unwrap();
    }
}

#[cfg(test)]
mod tests;
