//! The schema: made, brought up to date, refused, checked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Barrier},
    thread,
};

use stacyvm_store_sql::{
    PostgresOpenError, PostgresStore, STATEMENTS, SqliteStore, check_postgres,
};

use crate::world::World;

/// Every text that a store method runs, as the database reads it.
pub(crate) fn every_statement_prepares(world: Arc<World>) {
    let database = world.fresh();
    for (name, sql) in STATEMENTS {
        let prepare = format!("PREPARE statement AS {sql}; DEALLOCATE statement");
        let prepared = world.server.query(&database.name, &prepare);
        prepared.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}

/// Tables with their columns, and which of these may be NULL.
type Tables = BTreeMap<String, BTreeMap<String, bool>>;

pub(crate) fn both_databases_have_the_same_tables_and_columns(world: Arc<World>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    drop(SqliteStore::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    let mut columns = connection
        .prepare(
            "SELECT t.name, c.name, c.\"notnull\" = 0 FROM sqlite_schema AS t, \
             pragma_table_info(t.name) AS c WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'",
        )
        .unwrap();
    let rows = columns.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let mut sqlite = Tables::new();
    for row in rows {
        let (table, column, nullable): (String, String, bool) = row.unwrap();
        sqlite.entry(table).or_default().insert(column, nullable);
    }
    let found = world.fresh().query(
        "SELECT table_name || ' ' || column_name || ' ' || is_nullable \
         FROM information_schema.columns WHERE table_schema = 'public'",
    );
    let mut postgres = Tables::new();
    for row in found {
        let [table, column, nullable]: [&str; 3] =
            row.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let columns = postgres.entry(table.to_owned()).or_default();
        columns.insert(column.to_owned(), nullable == "YES");
    }
    assert_eq!(sqlite, postgres);
}

pub(crate) fn starters_at_once_all_find_the_store_ready(world: Arc<World>) {
    let database = world.empty();
    let start = Barrier::new(6);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                start.wait();
                drop(database.open());
            });
        }
    });
    let applied = database.query("SELECT COUNT(*) FROM stacyvm_migrations");
    let numbers = database.query("SELECT MAX(number) FROM stacyvm_migrations");
    assert_eq!(applied, numbers);
}

fn refused(database: &crate::world::Database<'_>) -> PostgresOpenError {
    PostgresStore::open(&database.dsn()).expect_err("it must be refused")
}

pub(crate) fn a_newer_an_edited_and_a_foreign_schema_are_refused_and_left_alone(world: Arc<World>) {
    let newer = world.fresh();
    newer.execute("INSERT INTO stacyvm_migrations VALUES (999, 'later', '00')");
    let said = refused(&newer);
    assert!(matches!(said, PostgresOpenError::Newer { found: 999, .. }), "{said:?}");

    let edited = world.fresh();
    edited.execute("UPDATE stacyvm_migrations SET checksum = '00' WHERE number = 2");
    let said = refused(&edited);
    assert!(matches!(said, PostgresOpenError::Changed { number: 2, .. }), "{said:?}");

    let foreign = world.empty();
    foreign.execute("CREATE TABLE theirs (x TEXT)");
    let said = refused(&foreign);
    assert!(matches!(said, PostgresOpenError::Foreign(_)), "{said:?}");
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(foreign.query(tables), ["theirs"]);

    let older = world.empty();
    older.execute(
        "CREATE TABLE sandboxes (id TEXT); CREATE TABLE schema_migrations (version INT); \
         INSERT INTO schema_migrations VALUES (3), (11)",
    );
    let said = refused(&older);
    assert!(matches!(said, PostgresOpenError::OlderImplementation { version: 11, .. }), "{said:?}");
}

pub(crate) fn a_step_that_fails_is_undone_and_tried_again_at_the_next_start(world: Arc<World>) {
    let database = world.empty();
    // In the way of the table of the second step.
    database.execute("CREATE VIEW quotas AS SELECT 1 AS one");
    let said = refused(&database);
    assert!(matches!(said, PostgresOpenError::Step { number: 2, .. }), "{said:?}");
    assert_eq!(database.query("SELECT MAX(number) FROM stacyvm_migrations"), ["1"]);
    database.execute("DROP VIEW quotas");
    drop(database.open());
}

/// FNV-1a, as the store keeps it with each step.
fn checksum(text: &str) -> String {
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{sum:016x}")
}

/// The upgrade is rehearsed: a database that the first step left, filled, becomes one of today in
/// which everything adds up.
pub(crate) fn a_filled_database_is_brought_up_to_date(world: Arc<World>) {
    let database = world.empty();
    let first =
        include_str!("../../migrations/postgres/0001_sandboxes_leases_events_templates.sql");
    database.execute(first);
    database.execute(&format!(
        "CREATE TABLE stacyvm_migrations (number BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, \
         checksum TEXT NOT NULL); \
         INSERT INTO stacyvm_migrations VALUES (1, 'sandboxes_leases_events_templates', '{}')",
        checksum(first)
    ));
    // Of three in a row one has ended; one in five is nobody's; ten workers.
    database.execute(
        "INSERT INTO sandboxes (id, owner, provider, worker, image, memory_mb, vcpus, pids, disk_mb, \
            metadata, env, expires_at_us, latest_end_us, phase, cause_kind, cause_detail, generation, version, \
            created_at_us, updated_at_us, stopping_at_us, ended_at_us) \
         SELECT 'sb-' || LPAD(TO_HEX(n), 20, '0'), CASE WHEN n % 5 = 0 THEN NULL ELSE 'o' || n % 70 END, \
            'mock', 'w' || n % 10, 'host', 1, 1, 1, 1, '{}', '{}', 1000000 + n, 1000000 + n, \
            CASE WHEN n % 3 = 0 THEN 'ended' ELSE 'running' END, \
            CASE WHEN n % 3 = 0 THEN 'requested' END, CASE WHEN n % 3 = 0 THEN 'x' END, \
            1, 1, n, n, CASE WHEN n % 3 = 0 THEN n END, CASE WHEN n % 3 = 0 THEN n END \
         FROM generate_series(1, 20000) AS n; \
         INSERT INTO exec_logs SELECT 'ex-' || LPAD(TO_HEX(n), 20, '0'), \
            'sb-' || LPAD(TO_HEX(n), 20, '0'), 'true', 0, 'exit', 1, n \
         FROM generate_series(1, 20000) AS n; \
         INSERT INTO events SELECT n, 'sandbox.created', NULL, NULL, n, '{}' \
         FROM generate_series(1, 20000) AS n; \
         UPDATE counters SET value = 20000",
    );
    drop(database.open());
    let (_, report) = check_postgres(&database.dsn()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    for table in ["sandboxes", "exec_logs", "events"] {
        let count = report.rows.iter().find(|(name, _)| name == table).map(|(_, count)| *count);
        assert_eq!(count, Some(20_000), "{table}");
    }
    let live = database.query("SELECT active FROM usage WHERE scope = 'all'");
    assert_eq!(live, database.query("SELECT COUNT(*) FROM sandboxes WHERE phase = 'running'"));
}

pub(crate) fn the_check_names_what_does_not_add_up(world: Arc<World>) {
    let database = world.fresh();
    let (place, report) = check_postgres(&database.dsn()).unwrap();
    assert!(place.starts_with(&database.name), "{place}");
    assert_eq!(report.problems, Vec::<String>::new());
    database.execute("UPDATE usage SET active = 7 WHERE scope = 'all'");
    let (_, report) = check_postgres(&database.dsn()).unwrap();
    assert_eq!(report.problems, ["the count of all live sandboxes is not their number (1)"]);
    let empty = world.empty();
    let said = check_postgres(&empty.dsn()).unwrap_err();
    assert!(matches!(said, PostgresOpenError::Foreign(_)), "{said:?}");
}
