//! The schema in Postgres: the same steps with the same numbers as in SQLite.
//!
//! Each step is applied in a transaction of its own under a lock of the database, so that servers
//! which start together take turns, and what is refused is left untouched.

use super::{
    OpenError,
    session::{Failure, Session},
};
use crate::migrations::{self, Migration, Misfit, checksum};

/// The schema, step by step. A step that was released is never changed, only followed.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "sandboxes_leases_events_templates",
        sql: include_str!("../../migrations/postgres/0001_sandboxes_leases_events_templates.sql"),
    },
    Migration {
        number: 2,
        name: "quotas",
        sql: include_str!("../../migrations/postgres/0002_quotas.sql"),
    },
    Migration {
        number: 3,
        name: "api_keys",
        sql: include_str!("../../migrations/postgres/0003_api_keys.sql"),
    },
    Migration {
        number: 4,
        name: "audit_and_retention",
        sql: include_str!("../../migrations/postgres/0004_audit_and_retention.sql"),
    },
    Migration {
        number: 5,
        name: "idempotency_keys",
        sql: include_str!("../../migrations/postgres/0005_idempotency_keys.sql"),
    },
    Migration {
        number: 6,
        name: "exec_ids",
        sql: include_str!("../../migrations/postgres/0006_exec_ids.sql"),
    },
    Migration {
        number: 7,
        name: "workers",
        sql: include_str!("../../migrations/postgres/0007_workers.sql"),
    },
    Migration {
        number: 8,
        name: "idempotency_bodies",
        sql: include_str!("../../migrations/postgres/0008_idempotency_bodies.sql"),
    },
];

/// The key of the lock is "SVM1", as the mark of a SQLite file.
const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock(1398164785)";
const TABLES: &str = "SELECT CAST(table_name AS TEXT) FROM information_schema.tables \
    WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY 1";
const MAKE_OWN: &str = "CREATE TABLE stacyvm_migrations (number BIGINT NOT NULL PRIMARY KEY, \
    name TEXT NOT NULL, checksum TEXT NOT NULL)";
const APPLIED: &str = "SELECT number, checksum FROM stacyvm_migrations ORDER BY number";
const OLDER_VERSION: &str =
    "SELECT CAST(COALESCE(MAX(version), 0) AS BIGINT) FROM schema_migrations";

/// Whose tables there are in the schema that the connection works in.
pub(super) enum Origin {
    Empty,
    Ours,
    OlderImplementation(i64),
    Foreign,
}

/// Brings the schema up to date.
pub(super) fn migrate(
    session: &Session,
    place: &str,
    migrations: &[Migration],
) -> Result<(), OpenError> {
    loop {
        session.batch(BEGIN).map_err(|failure| sql(place, failure))?;
        let applied = apply_next(session, place, migrations);
        let end = if applied.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = session.batch(end).map_err(|failure| sql(place, failure));
        let went_on = applied?;
        ended?;
        if !went_on {
            return Ok(());
        }
    }
}

/// Applies the next step in the open transaction. False when there is none left.
fn apply_next(session: &Session, place: &str, migrations: &[Migration]) -> Result<bool, OpenError> {
    let applied = match recognise(session).map_err(|failure| sql(place, failure))? {
        Origin::Empty => {
            session.batch(MAKE_OWN).map_err(|failure| sql(place, failure))?;
            Vec::new()
        }
        Origin::Ours => applied(session, place, migrations)?,
        Origin::OlderImplementation(version) => {
            return Err(OpenError::OlderImplementation { place: place.to_owned(), version });
        }
        Origin::Foreign => return Err(OpenError::Foreign(place.to_owned())),
    };
    let Some(next) = migrations.get(applied.len()) else { return Ok(false) };
    // Names are ours and sums are hexadecimal: neither needs to be quoted.
    let note = format!(
        "INSERT INTO stacyvm_migrations (number, name, checksum) VALUES ({}, '{}', '{}')",
        next.number,
        next.name,
        checksum(next.sql)
    );
    let step = |failure| OpenError::Step {
        place: place.to_owned(),
        number: next.number,
        source: Box::new(failure) as Box<dyn std::error::Error + Send + Sync>,
    };
    session.batch(next.sql).map_err(step)?;
    session.batch(&note).map_err(step)?;
    Ok(true)
}

pub(super) fn recognise(session: &Session) -> Result<Origin, Failure> {
    let tables = session.texts(TABLES)?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    Ok(match () {
        () if has("stacyvm_migrations") => Origin::Ours,
        () if tables.is_empty() => Origin::Empty,
        () if has("sandboxes") && has("schema_migrations") => {
            Origin::OlderImplementation(session.number(OLDER_VERSION)?)
        }
        () => Origin::Foreign,
    })
}

/// The steps that were applied, with their checksums; refuses ones that are not known.
pub(super) fn applied(
    session: &Session,
    place: &str,
    migrations: &[Migration],
) -> Result<Vec<(i64, String)>, OpenError> {
    let rows = session.rows(APPLIED).map_err(|failure| sql(place, failure))?;
    let read = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let applied: Vec<(i64, String)> = rows
        .iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|error| sql(place, Failure::Driver(error)))?;
    migrations::fit(migrations, &applied).map_err(|misfit| match misfit {
        Misfit::Newer { found, known } => {
            OpenError::Newer { place: place.to_owned(), found, known }
        }
        Misfit::Changed { number } => OpenError::Changed { place: place.to_owned(), number },
    })?;
    Ok(applied)
}

pub(super) fn sql(place: &str, failure: Failure) -> OpenError {
    OpenError::Sql { place: place.to_owned(), source: Box::new(failure) }
}
