//! A server, and databases that a test has for itself.

use std::sync::Arc;

use stacyvm_admission::Policy;
use stacyvm_postgres_fixture::{Disk, Server};
use stacyvm_store::{Durability, NewSandbox, Result, Sandbox, Store, contract};
use stacyvm_store_sql::{LeaseClock, PostgresStore};
use stacyvm_types::OwnerId;
use tokio::runtime::{Builder, Runtime};

/// The server that most tests share.
pub(crate) struct World {
    pub(crate) server: Server,
    /// A database with the newest schema and nothing in it.
    template: String,
}

/// A database that goes away with it.
pub(crate) struct Database<'w> {
    pub(crate) server: &'w Server,
    pub(crate) name: String,
}

impl World {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let server = Server::start(Disk::Unsynced)?;
        let template = server.create_database()?;
        drop(PostgresStore::open(&server.dsn(&template))?);
        Ok(Self { server, template })
    }

    /// A database with the newest schema and nothing in it.
    pub(crate) fn fresh(&self) -> Database<'_> {
        let name = self.server.create_like(&self.template).unwrap();
        Database { server: &self.server, name }
    }

    /// A database without a schema.
    pub(crate) fn empty(&self) -> Database<'_> {
        Database { server: &self.server, name: self.server.create_database().unwrap() }
    }

    /// Runs a test on a store in a database of its own.
    pub(crate) fn on_fresh<F: Future<Output = ()>>(&self, test: impl FnOnce(Arc<dyn Store>) -> F) {
        let database = self.fresh();
        let store: Arc<dyn Store> = Arc::new(database.open_by_callers_clock());
        runtime().block_on(test(store));
    }
}

impl Database<'_> {
    pub(crate) fn dsn(&self) -> String {
        self.server.dsn(&self.name)
    }

    /// A store as a server opens it.
    pub(crate) fn open(&self) -> PostgresStore {
        PostgresStore::open(&self.dsn()).unwrap()
    }

    /// A store that judges leases by the time that the test says.
    pub(crate) fn open_by_callers_clock(&self) -> PostgresStore {
        PostgresStore::open_with(&self.dsn(), LeaseClock::Callers).unwrap()
    }

    pub(crate) fn execute(&self, sql: &str) {
        self.server.execute(&self.name, sql).unwrap();
    }

    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        self.server.query(&self.name, sql).unwrap()
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // A server that a test has stopped takes its databases along.
        let _dropped = self.server.drop_database(&self.name);
    }
}

/// Admits a sandbox of `w1` that ends at second 100.
pub(crate) async fn admit(store: &dyn Store, number: u8) -> Sandbox {
    let policy = Policy::default();
    admit_within(store, &policy, number, &contract::owner("ann")).await.unwrap()
}

/// The same within limits, for an owner.
pub(crate) async fn admit_within(
    store: &dyn Store,
    policy: &Policy,
    number: u8,
    owner: &OwnerId,
) -> Result<Sandbox> {
    let new = contract::new_sandbox(number, contract::at(100));
    let new = NewSandbox { owner: Some(owner.clone()), ..new };
    store.admit(policy, new, Durability::Disk, contract::at(0)).await
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}
