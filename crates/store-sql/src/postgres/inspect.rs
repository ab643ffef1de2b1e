//! Looking at a database without changing it: whose it is, what is in it, what is wrong with it.

use std::sync::Arc;

use super::{
    OpenError, connect,
    migrate::{self, MIGRATIONS, Origin},
    on_own_thread,
    session::{Failure, Purpose, Session},
    settings::Settings,
};
use crate::{Report, invariants::INVARIANTS};

/// Enough for a server that answers at all.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const TABLES: &str = "SELECT CAST(table_name AS TEXT) FROM information_schema.tables \
    WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' \
    AND table_name <> 'stacyvm_migrations' ORDER BY 1";

/// The database of a DSN and its hosts, and what it holds. Looks at it beside running servers or without one, and changes nothing. All
/// of it is one state, that of the beginning. Blocks as long as reading all tables takes.
pub fn check(dsn: &str) -> Result<(String, Report), OpenError> {
    let settings = Arc::new(Settings::parse(dsn)?);
    on_own_thread(|| {
        let session = connect(&settings, Purpose::Migrate, PATIENCE)?;
        let place = settings.to_string();
        let report = look(&session, &place)?;
        Ok((place, report))
    })
}

fn look(session: &Session, place: &str) -> Result<Report, OpenError> {
    let sql = |failure| migrate::sql(place, failure);
    session.batch(BEGIN).map_err(sql)?;
    match migrate::recognise(session).map_err(sql)? {
        Origin::Ours => {}
        Origin::OlderImplementation(version) => {
            return Err(OpenError::OlderImplementation { place: place.to_owned(), version });
        }
        Origin::Empty | Origin::Foreign => return Err(OpenError::Foreign(place.to_owned())),
    }
    let applied = migrate::applied(session, place, MIGRATIONS)?;
    let schema = applied.last().map_or(0, |(number, _)| *number);
    count(session, schema).map_err(sql)
}

fn count(session: &Session, schema: i64) -> Result<Report, Failure> {
    let size = session.number("SELECT pg_database_size(current_database())")?;
    let mut report =
        Report { size_bytes: size.unsigned_abs(), schema, rows: Vec::new(), problems: Vec::new() };
    for invariant in INVARIANTS.iter().filter(|invariant| invariant.since <= schema) {
        match session.number(invariant.sql)?.unsigned_abs() {
            0 => {}
            count => report.problems.push(format!("{} ({count})", invariant.otherwise)),
        }
    }
    for name in session.texts(TABLES)? {
        let quoted = name.replace('"', "\"\"");
        let count = session.number(&format!("SELECT COUNT(*) FROM \"{quoted}\""))?;
        report.rows.push((name, count.unsigned_abs()));
    }
    Ok(report)
}
