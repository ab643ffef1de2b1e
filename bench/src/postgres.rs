//! How fast admissions are decided over Postgres, with one server and with two that share it, and
//! how soon the store answers again after the database was restarted. The database is started here,
//! with what Postgres promises by default, on the disk of the temporary directory.

use std::time::Instant;

use anyhow::Result;
use stacyvm_admission::Policy;
use stacyvm_control::Rules;
use stacyvm_postgres_fixture::{Disk, Server, Stop};
use stacyvm_store::Store as _;
use stacyvm_store_sql::PostgresStore;

use crate::{
    admission::{CLIENTS, Plane, Rate, plane_over, rate},
    stats::{Samples, show},
};

/// Restarts of the database.
const RESTARTS: usize = 10;

/// Measures and prints.
#[expect(clippy::print_stdout, reason = "the figures are the output")]
pub(crate) fn run(seconds: f64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // A control plane starts its tasks where it is made.
    let _inside = runtime.enter();
    let dir = tempfile::tempdir()?;
    let server = Server::start(Disk::Synced)?;
    let database = server.create_database()?;
    let policy = Policy { max_sandboxes: 10_000_000, max_per_owner: 100_000, ..Policy::default() };
    let open = |name: &str| -> Result<Plane> {
        let store = PostgresStore::open(&server.socket_dsn(&database))?;
        let rules = Rules { policy: policy.clone(), ..Rules::default() };
        plane_over(store, &dir.path().join(name), rules)
    };
    let one = open("one")?;
    runtime.block_on(async {
        one.control.join().await?;
        let mut alone = Rate::default();
        alone.add(rate(&one.control, seconds).await?);
        println!("{CLIENTS} clients, one server on Postgres: {alone}");
        anyhow::Ok(())
    })?;
    one.stopping.cancel();
    drop(one);

    let store = PostgresStore::open(&server.socket_dsn(&database))?;
    let mut back = Samples::default();
    runtime.block_on(async {
        for _ in 0..RESTARTS {
            store.ping().await?;
            server.stop(Stop::Fast)?;
            server.run()?;
            let accepts = Instant::now();
            while store.ping().await.is_err() {}
            back.push(accepts.elapsed());
        }
        anyhow::Ok(())
    })?;
    println!(
        "{RESTARTS} restarts of the database: it is read again p50 {}, p99 {} after it accepts \
         connections",
        show(back.p50()),
        show(back.p99())
    );
    Ok(())
}
