use std::{
    error::Error as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;
use stacyvm_admission::Policy;
use stacyvm_store::{Durability, EventFilter, Include, Store, WorkerStore as _, contract};
use stacyvm_types::SandboxId;

use super::{CopyError, Existing, OpenError, backup, check, open, restore, with_suffix};
use crate::SqliteStore;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::open(self.path("stacyvm.db")).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The files of a store that was killed: what it had is partly in the log.
    async fn killed(&self, numbers: std::ops::Range<u32>) -> PathBuf {
        let elsewhere = Self::new();
        let store = elsewhere.store();
        admit(&store, numbers).await;
        let (from, to) = (elsewhere.path("stacyvm.db"), self.path("stacyvm.db"));
        for part in ["", "-wal"] {
            fs::copy(with_suffix(&from, part), with_suffix(&to, part)).unwrap();
        }
        to
    }
}

fn id(number: u32) -> SandboxId {
    let mut entropy = [0; 10];
    entropy[..4].copy_from_slice(&number.to_be_bytes());
    SandboxId::from_entropy(entropy)
}

async fn admit(store: &SqliteStore, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let mut new = contract::new_sandbox(0, contract::at(1000));
        new.id = id(number);
        store.beat(contract::beat("w1"), None, contract::at(0)).await.unwrap();
        store.admit(&Policy::default(), new, Durability::Disk, contract::at(0)).await.unwrap();
    }
}

async fn ids(path: &Path) -> Vec<SandboxId> {
    let store = SqliteStore::open(path).unwrap();
    let rows = store.sandboxes(Include::Ended).await.unwrap();
    let mut ids: Vec<_> = rows.into_iter().map(|row| row.spec.id).collect();
    ids.sort();
    ids
}

fn wanted(numbers: std::ops::Range<u32>) -> Vec<SandboxId> {
    numbers.map(id).collect()
}

#[tokio::test]
async fn a_backup_beside_a_writing_store_is_whole_private_and_holds_what_was_answered() {
    let place = Place::new();
    let store = Arc::new(place.store());
    admit(&store, 0..20).await;
    let writing = {
        let store = store.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { admit(&store, 20..120).await });
        tasks
    };
    let (from, to) = (place.path("stacyvm.db"), place.path("copy.db"));
    let report = {
        let to = to.clone();
        tokio::task::spawn_blocking(move || backup(&from, &to, Existing::Keep)).await.unwrap()
    };
    let report = report.unwrap();
    writing.join_all().await;
    assert_eq!(report.problems, Vec::<String>::new());
    let count = report.rows.iter().find(|(table, _)| table == "sandboxes").unwrap().1;
    let mode: String = Connection::open(&to)
        .unwrap()
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "delete", "it needs no log");
    assert!(!place.names().iter().any(|name| name.starts_with("copy.db-")), "one plain file");
    let found = ids(&to).await;
    assert_eq!(found.len() as u64, count);
    assert_eq!(found, wanted(0..u32::try_from(count).unwrap()), "no gap: it is one instant");
    assert!((20..=120).contains(&count), "{count}");
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    // The store went on undisturbed.
    drop(store);
    assert_eq!(ids(&place.path("stacyvm.db")).await, wanted(0..120));
}

#[tokio::test]
async fn a_backup_takes_the_place_of_a_file_only_when_it_may() {
    let place = Place::new();
    admit(&place.store(), 0..3).await;
    let (from, to) = (place.path("stacyvm.db"), place.path("copy.db"));
    fs::write(&to, "precious").unwrap();
    let refused = backup(&from, &to, Existing::Keep).unwrap_err();
    assert!(matches!(refused, CopyError::Exists(_)), "{refused}");
    assert_eq!(fs::read(&to).unwrap(), b"precious");
    backup(&from, &to, Existing::Replace).unwrap();
    assert_eq!(ids(&to).await, wanted(0..3));
    assert!(!place.names().iter().any(|name| name.contains("partial")), "{:?}", place.names());
}

/// The server would go on with a file that has no name any more.
#[tokio::test]
async fn a_backup_never_takes_the_place_of_its_database() {
    let place = Place::new();
    let store = place.store();
    admit(&store, 0..3).await;
    let path = place.path("stacyvm.db");
    let (link, inside) = (place.path("link.db"), place.path("inside"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    std::os::unix::fs::symlink(place.path("."), &inside).unwrap();
    let before = place.names();
    for (from, to) in [
        (&path, path.clone()),
        (&link, path.clone()),
        (&link, link.clone()),
        (&path, inside.join("stacyvm.db")),
        (&path, place.path("stacyvm.db-wal")),
        (&link, place.path("stacyvm.db-lock")),
    ] {
        let refused = backup(from, &to, Existing::Replace).unwrap_err();
        assert!(matches!(refused, CopyError::Own(_)), "{}: {refused}", to.display());
    }
    assert_eq!(place.names(), before);
    drop(store);
    assert_eq!(ids(&path).await, wanted(0..3));
}

/// A file with the name of the backup that came while it was made.
#[tokio::test]
async fn a_name_that_is_taken_meanwhile_is_not_taken_over() {
    let place = Place::new();
    let to = place.path("copy.db");
    let copy = super::Unnamed::beside(&to).unwrap();
    fs::write(&to, "precious").unwrap();
    let refused = copy.name(&to, Existing::Keep).unwrap_err();
    assert!(matches!(refused, CopyError::Exists(_)), "{refused}");
    assert_eq!(place.names(), ["copy.db"]);
    assert_eq!(fs::read(&to).unwrap(), b"precious");
}

/// A process that no system has: above the highest number that Linux gives.
const NOBODY: u32 = (1 << 22) + 1;

#[tokio::test]
async fn what_a_killed_backup_left_is_removed_by_the_next_one() {
    let place = Place::new();
    admit(&place.store(), 0..3).await;
    let from = place.path("stacyvm.db");
    let whole = fs::read(&from).unwrap();
    let left = |name: &str| format!("{name}.partial-{NOBODY}-0");
    for (name, content) in
        [("a.db", &b""[..]), ("b.db", &[0; 64]), ("c.db", &whole[..100]), ("sunday", &whole)]
    {
        fs::write(place.path(&left(name)), content).unwrap();
    }
    let others = [
        (format!("d.db.partial-{}-7", std::process::id()), &b""[..]),
        (left("letter"), b"Dear Sir or Madam"),
        (format!(".partial-{NOBODY}-0"), b""),
        (format!("e.partial-{NOBODY}"), b""),
    ];
    for (name, content) in &others {
        fs::write(place.path(name), content).unwrap();
    }
    let before = place.names();
    {
        let another = super::Presence::tidy(&place.path("absent"));
        let beside = super::Unnamed::beside(&from).unwrap();
        assert_eq!(place.names().len(), others.len() + 3, "{:?}", place.names());
        fs::write(place.path(&left("made-meanwhile")), "").unwrap();
        backup(&from, &place.path("copy.db"), Existing::Keep).unwrap();
        assert!(place.path(&left("made-meanwhile")).exists(), "another copy is being made");
        drop((another, beside));
    }
    backup(&from, &place.path("copy.db"), Existing::Replace).unwrap();
    assert!(!place.path(&left("made-meanwhile")).exists());
    for (name, content) in &others {
        assert_eq!(fs::read(place.path(name)).unwrap(), *content, "{name}");
    }
    assert!(before.len() > place.names().len());
}

/// Looking must not move the log: it holds what a killed server answered.
#[tokio::test]
async fn looking_at_the_files_of_a_killed_server_leaves_them_as_they_are() {
    let place = Place::new();
    let path = place.killed(0..9).await;
    let log = with_suffix(&path, "-wal");
    let before = (fs::read(&path).unwrap(), fs::read(&log).unwrap());
    assert!(!before.1.is_empty());
    let report = check(&path).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert!(report.rows.contains(&("sandboxes".to_owned(), 9)), "{report:?}");
    backup(&path, &place.path("copy.db"), Existing::Keep).unwrap();
    assert_eq!((fs::read(&path).unwrap(), fs::read(&log).unwrap()), before);
    assert_eq!(ids(&place.path("copy.db")).await, wanted(0..9));
    assert_eq!(ids(&path).await, wanted(0..9));
}

#[tokio::test]
async fn damage_is_told_and_not_copied() {
    let place = Place::new();
    let store = place.store();
    admit(&store, 0..200).await;
    drop(store);
    let path = place.path("stacyvm.db");
    let mut bytes = fs::read(&path).unwrap();
    // Rows and indexes alike: a copy makes indexes anew.
    let pages = bytes.len() / 2048;
    bytes[pages / 4 * 2048..pages * 3 / 4 * 2048].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let report = check(&path).unwrap();
    assert!(report.problems.iter().any(|problem| problem.contains("damaged")), "{report:?}");
    let refused = backup(&path, &place.path("copy.db"), Existing::Keep).unwrap_err();
    assert!(matches!(refused, CopyError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("damaged"), "{refused}");
    assert!(!place.names().iter().any(|name| name.contains("copy")), "{:?}", place.names());
}

#[tokio::test]
async fn counts_and_references_that_do_not_add_up_are_told() {
    let place = Place::new();
    let store = place.store();
    admit(&store, 0..3).await;
    drop(store);
    let path = place.path("stacyvm.db");
    let edit = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    edit("UPDATE usage SET active = 7 WHERE scope <> 'worker'");
    edit(
        "PRAGMA foreign_keys = OFF;
         INSERT INTO exec_logs VALUES ('ex-1', 'sb-none', 'x', 0, 'exit', 1, 1);
         UPDATE sandboxes SET phase = 'asleep', cause_kind = 'x', cause_detail = 'x';
         UPDATE counters SET value = 1, reserved = 1",
    );
    let problems = check(&path).unwrap().problems.join("\n");
    for part in [
        "rows of exec_logs name rows of sandboxes that are not there",
        "events have ids that were not given out (2)",
        "a phase that is not known (3)",
        "the count of all live sandboxes is not their number (1)",
        "owners have another number of live sandboxes than is counted for them (1)",
        "sandboxes are counted that are not there (4)",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    assert!(!problems.contains("workers have"), "{problems}");
}

/// What came into the file by another way than ours could act when it is read.
#[tokio::test]
async fn tables_and_triggers_that_are_not_of_the_schema_are_refused() {
    let place = Place::new();
    drop(place.store());
    let path = place.path("stacyvm.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM templates; END")
        .unwrap();
    let refused = restore(&path, &place.path("other.db"), contract::at(0)).unwrap_err();
    assert!(refused.to_string().contains("its tables are not those of schema"), "{refused}");
    assert!(!place.path("other.db").exists());
}

/// What an earlier version typed with other white space is the same table.
#[tokio::test]
async fn a_database_that_an_earlier_version_made_is_in_order() {
    let place = Place::new();
    let path = place.path("stacyvm.db");
    let old = Connection::open(&path).unwrap();
    open::make_own(&old).unwrap();
    old.execute_batch(
        "DROP TABLE stacyvm_migrations;
         CREATE TABLE stacyvm_migrations (number INTEGER NOT NULL PRIMARY KEY,
                    name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT;",
    )
    .unwrap();
    drop(old);
    admit(&place.store(), 0..3).await;
    assert_eq!(check(&path).unwrap().problems, Vec::<String>::new());
    backup(&path, &place.path("backup"), Existing::Keep).unwrap();
    restore(&place.path("backup"), &path, contract::at(9)).unwrap();
    assert_eq!(ids(&path).await, wanted(0..3));
}

#[tokio::test]
async fn a_file_that_is_no_database_of_ours_is_refused_in_a_sentence_and_nothing_changes() {
    let place = Place::new();
    let store = place.store();
    admit(&store, 0..2).await;
    drop(store);
    let target = place.path("stacyvm.db");
    let text = place.path("text");
    fs::write(&text, "not a database, but long enough to be looked at as one".repeat(40)).unwrap();
    let empty = place.path("empty");
    fs::write(&empty, "").unwrap();
    let make = |name: &str, sql: &str| {
        let path = place.path(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        path
    };
    let go = make(
        "go",
        "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, applied_at TEXT);
         CREATE TABLE sandboxes (id TEXT); INSERT INTO schema_migrations VALUES (11, '')",
    );
    let newer = place.path("newer");
    backup(&target, &newer, Existing::Keep).unwrap();
    make("newer", "INSERT INTO stacyvm_migrations VALUES (999, 'later', '00')");
    let directory = place.path("directory");
    fs::create_dir(&directory).unwrap();
    let missing = place.path("missing");
    let before = fs::read(&target).unwrap();
    for (file, sentence) in [
        (&text, "is not a StacyVM database"),
        (&empty, "is not a StacyVM database"),
        (&directory, "is not a StacyVM database"),
        (&go, "a database of the older StacyVM written in Go (schema 11)"),
        (&newer, "has schema 999, written by a newer StacyVM"),
        (&missing, "cannot be opened"),
    ] {
        let refused = restore(file, &target, contract::at(0)).unwrap_err();
        assert!(refused.to_string().contains(sentence), "{sentence}: {refused}");
        let refused = backup(file, &place.path("copy.db"), Existing::Keep).unwrap_err();
        assert!(refused.to_string().contains(sentence), "{sentence}: {refused}");
        let refused = check(file).unwrap_err();
        assert!(refused.to_string().contains(sentence), "{sentence}: {refused}");
    }
    assert_eq!(fs::read(&target).unwrap(), before);
    let strange = |name: &String| name.contains("partial") || name.contains("replaced");
    assert!(!place.names().iter().any(strange), "{:?}", place.names());
}

#[tokio::test]
async fn a_restored_database_takes_the_place_of_the_old_one_which_is_kept_with_its_log() {
    let backups = Place::new();
    {
        let store = backups.store();
        admit(&store, 0..4).await;
    }
    let place = Place::new();
    let path = place.killed(10..18).await;
    let now = contract::at(0);
    let restored = restore(&backups.path("stacyvm.db"), &path, now).unwrap();
    let old = restored.replaced.unwrap();
    assert_eq!(old.file_name().unwrap(), "stacyvm.db.replaced-2023-11-14T221320");
    assert_eq!(ids(&path).await, wanted(0..4));
    assert_eq!(ids(&old).await, wanted(10..18), "also what only its log held");
    let store = SqliteStore::open(&path).unwrap();
    let last = store.last_event().await.unwrap();
    assert!(8 <= last, "ids of events go on above those that were given out: {last}");
    admit(&store, 30..31).await;
    let events = store.events(last, 10, EventFilter::default()).await.unwrap();
    assert_eq!(events.len(), 1);
    drop(store);
    let again = restore(&backups.path("stacyvm.db"), &path, now).unwrap().replaced.unwrap();
    assert_ne!(again, old, "nothing that was kept is written over");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_database_that_a_server_has_is_not_replaced() {
    let place = Place::new();
    let store = place.store();
    admit(&store, 0..2).await;
    let (path, copy) = (place.path("stacyvm.db"), place.path("copy.db"));
    backup(&path, &copy, Existing::Keep).unwrap();
    let refused = restore(&copy, &path, contract::at(0)).unwrap_err();
    assert!(matches!(refused, CopyError::Open(OpenError::InUse(_))), "{refused}");
    assert!(refused.source().is_none());
    admit(&store, 2..3).await;
    drop(store);
    assert_eq!(ids(&path).await, wanted(0..3));
}

#[tokio::test]
async fn a_damaged_database_can_be_replaced_and_an_absent_one_is_made() {
    let backups = Place::new();
    admit(&backups.store(), 0..4).await;
    let from = backups.path("stacyvm.db");
    let place = Place::new();
    let path = place.path("stacyvm.db");
    assert!(restore(&from, &path, contract::at(0)).unwrap().replaced.is_none());
    assert_eq!(ids(&path).await, wanted(0..4));
    fs::write(&path, "what a broken disk leaves").unwrap();
    let old = restore(&from, &path, contract::at(0)).unwrap().replaced.unwrap();
    assert_eq!(ids(&path).await, wanted(0..4));
    assert_eq!(fs::read(old).unwrap(), b"what a broken disk leaves");
}
