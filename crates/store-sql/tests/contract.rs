//! The store's contract on SQLite, and random histories against the store in memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use stacyvm_admission::Policy;
use stacyvm_store::{Durability, Store, WorkerStore as _, contract, memory::MemoryStore};
use stacyvm_store_sql::{OpenError, SqliteStore};

async fn fresh() -> (Arc<dyn Store>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("stacyvm.db")).unwrap();
    (Arc::new(store), directory)
}

stacyvm_store::store_contract!(fresh);

/// The seeds are fixed but for the last, which is new each time; a failure names its seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_on_memory_and_sqlite_agree_step_by_step() {
    let new_seed = RandomState::new().hash_one("seed");
    for seed in (1..=12).chain([new_seed]) {
        let (store, _directory) = fresh().await;
        contract::agree::agree(Arc::new(MemoryStore::new()), store, seed, 250).await;
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let store = SqliteStore::open(&path).unwrap();
    store.beat(contract::beat("w1"), None, contract::at(0)).await.unwrap();
    let new = contract::new_sandbox(1, contract::at(100));
    let row =
        store.admit(&Policy::default(), new, Durability::Disk, contract::at(0)).await.unwrap();
    let template = store.create_template(contract::new_template("base")).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.sandbox(&contract::id(1)).await.unwrap(), Some(row));
    assert_eq!(store.template("base").await.unwrap(), Some(template));
    assert_eq!(store.last_event().await.unwrap(), 1);
}

/// Rows are read from memory, which is only right while nobody else writes the file.
#[tokio::test]
async fn a_file_is_one_stores_however_it_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let link = directory.path().join("link.db");
    let first = SqliteStore::open(&path).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for name in [&path, &link] {
        let refused = SqliteStore::open(name).unwrap_err();
        assert!(matches!(refused, OpenError::InUse(_)), "{refused:?}");
    }
    first.beat(contract::beat("w1"), None, contract::at(0)).await.unwrap();
    let new = contract::new_sandbox(1, contract::at(100));
    first.admit(&Policy::default(), new, Durability::Disk, contract::at(0)).await.unwrap();
    drop(first);
    let next = SqliteStore::open(&link).unwrap();
    assert!(next.sandbox(&contract::id(1)).await.unwrap().is_some());
}
