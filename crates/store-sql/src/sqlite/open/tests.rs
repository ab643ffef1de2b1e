use std::{
    error::Error as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
};

use rusqlite::Connection;

use super::{MIGRATIONS, OpenError, PAGE, migrate_one, reader, writer};
use crate::migrations::Migration;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn file_in(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("stacyvm.db")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> T {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
}

fn migrate(path: &Path, migrations: &[Migration]) -> Result<(), OpenError> {
    let sql = |source| OpenError::Sql { path: path.to_owned(), source };
    let mut connection = Connection::open(path).unwrap();
    while migrate_one(&mut connection, path, migrations, &sql)? {}
    Ok(())
}

#[test]
fn a_new_store_is_readable_by_its_owner_only() {
    let directory = directory();
    let path = directory.path().join("a/b/stacyvm.db");
    let connection = writer(&path).unwrap();
    connection.execute("UPDATE counters SET value = 0", []).unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(path.parent().unwrap().parent().unwrap()), 0o700);
    for file in fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_store_that_others_could_read_is_closed_to_them() {
    let directory = directory();
    let path = file_in(&directory);
    drop(writer(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(writer(&path).unwrap());
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn the_connections_are_durable_strict_and_marked_as_ours() {
    let directory = directory();
    let path = file_in(&directory);
    let writing = writer(&path).unwrap();
    assert_eq!(pragma::<String>(&writing, "journal_mode"), "wal");
    assert_eq!(pragma::<i64>(&writing, "synchronous"), 2);
    assert_eq!(pragma::<i64>(&writing, "foreign_keys"), 1);
    assert_eq!(pragma::<i64>(&writing, "busy_timeout"), 5_000);
    assert_eq!(pragma::<i32>(&writing, "application_id"), 0x5356_4d31);
    let not_strict: i64 = writing
        .query_row(
            "SELECT COUNT(*) FROM pragma_table_list WHERE type = 'table' AND strict = 0 \
             AND name NOT LIKE 'sqlite_%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(not_strict, 0);
    let reading = reader(&path).unwrap();
    assert!(reading.execute("DELETE FROM counters", []).is_err(), "readers cannot write");
}

#[test]
fn a_second_open_finds_nothing_to_migrate() {
    let directory = directory();
    let path = file_in(&directory);
    drop(writer(&path).unwrap());
    let connection = writer(&path).unwrap();
    let applied: i64 = connection
        .query_row("SELECT COUNT(*) FROM stacyvm_migrations", [], |row| row.get(0))
        .unwrap();
    assert_eq!(applied, i64::try_from(MIGRATIONS.len()).unwrap());
}

#[test]
fn two_starters_at_once_both_find_the_store_ready() {
    for _ in 0..10 {
        let directory = directory();
        let path = file_in(&directory);
        let start = Barrier::new(6);
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    start.wait();
                    let connection = writer(&path).unwrap();
                    assert_eq!(pragma::<String>(&connection, "journal_mode"), "wal");
                });
            }
        });
    }
}

#[test]
fn a_newer_schema_is_refused_in_a_sentence() {
    let directory = directory();
    let path = file_in(&directory);
    let connection = writer(&path).unwrap();
    connection.execute("INSERT INTO stacyvm_migrations VALUES (999, 'later', '00')", []).unwrap();
    drop(connection);
    let newest = MIGRATIONS.last().unwrap().number;
    let refused = writer(&path).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 999, .. }), "{refused:?}");
    assert_eq!(
        refused.to_string(),
        format!(
            "{} has schema 999, written by a newer StacyVM, and this version knows schemas up to \
             {newest}: start the newer version, or restore a backup from before the upgrade",
            path.display()
        )
    );
}

#[test]
fn an_edited_step_is_refused() {
    let directory = directory();
    let path = file_in(&directory);
    drop(writer(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE stacyvm_migrations SET checksum = '00'", []).unwrap();
    drop(connection);
    let refused = writer(&path).unwrap_err();
    assert!(matches!(refused, OpenError::Changed { number: 1, .. }), "{refused:?}");
}

#[test]
fn a_step_that_fails_leaves_the_schema_before_it() {
    let directory = directory();
    let path = file_in(&directory);
    let steps = |second| {
        let first = Migration { number: 1, name: "one", sql: "CREATE TABLE a (x TEXT) STRICT;" };
        [first, Migration { number: 2, name: "two", sql: second }]
    };
    let broken = steps("CREATE TABLE b (x TEXT) STRICT; CREATE TABLE a (x TEXT) STRICT;");
    migrate(&path, &broken).unwrap_err();
    let tables = |path: &Path| -> Vec<String> {
        let connection = Connection::open(path).unwrap();
        let mut names = connection.prepare("SELECT name FROM sqlite_schema ORDER BY 1").unwrap();
        names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(tables(&path), ["a", "stacyvm_migrations"]);
    migrate(&path, &steps("CREATE TABLE c (x TEXT) STRICT;")).unwrap();
    assert_eq!(tables(&path), ["a", "c", "stacyvm_migrations"]);
}

fn make_go_database(path: &Path) {
    Connection::open(path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, applied_at TEXT);
             CREATE TABLE sandboxes (id TEXT PRIMARY KEY, state TEXT);
             INSERT INTO schema_migrations (version) VALUES (1), (2), (11);",
        )
        .unwrap();
}

#[test]
fn a_database_of_the_go_implementation_is_recognised_and_left_alone() {
    let directory = directory();
    let path = file_in(&directory);
    make_go_database(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let before = fs::read(&path).unwrap();
    let refused = writer(&path).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "{} is a database of the older StacyVM written in Go (schema 11), which this version \
             cannot read: choose another data directory; the file was left as it is",
            path.display()
        )
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(mode(&path), 0o644);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no other file appeared");
}
#[test]
fn a_new_file_has_short_pages_and_an_old_one_keeps_its_own() {
    let directory = directory();
    let (new, old) = (directory.path().join("new"), directory.path().join("old"));
    let connection = Connection::open(&old).unwrap();
    connection.pragma_update(None, "page_size", 4096).unwrap();
    drop(connection);
    migrate(&old, MIGRATIONS).unwrap();
    for (path, page) in [(new, PAGE), (old, 4096)] {
        drop(writer(&path).unwrap());
        let connection = writer(&path).unwrap();
        assert_eq!(pragma::<i64>(&connection, "page_size"), page);
        assert_eq!(pragma::<String>(&connection, "journal_mode"), "wal");
    }
}

#[test]
fn somebody_elses_file_is_refused_and_left_alone() {
    let directory = directory();
    let other_tables = directory.path().join("tables");
    Connection::open(&other_tables).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let other_mark = directory.path().join("mark");
    Connection::open(&other_mark)
        .unwrap()
        .execute_batch("PRAGMA application_id = 7; CREATE TABLE t (x)")
        .unwrap();
    let no_database = directory.path().join("text");
    fs::write(&no_database, "just a text, but long enough to have a header ".repeat(50)).unwrap();
    for path in [other_tables, other_mark, no_database] {
        let before = fs::read(&path).unwrap();
        let refused = writer(&path).unwrap_err();
        assert!(matches!(refused, OpenError::Foreign(_)), "{refused:?}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn an_error_says_where_and_links_to_why() {
    let directory = directory();
    let in_the_way = directory.path().join("file");
    fs::write(&in_the_way, "").unwrap();
    let refused = writer(&in_the_way.join("stacyvm.db")).unwrap_err();
    assert_eq!(refused.to_string(), format!("the store {} cannot be opened", in_the_way.display()));
    assert!(refused.source().is_some());
}
