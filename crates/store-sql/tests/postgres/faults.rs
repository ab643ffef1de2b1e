//! Connections that break, and a server that goes away and comes back.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use stacyvm_postgres_fixture::{Disk, Server, Stop};
use stacyvm_store::{Error, EventFilter, NewEvent, QuotaStore as _, Store, contract};
use stacyvm_store_sql::{PostgresStore, check_postgres};
use stacyvm_types::EventKind;
use tokio::task::JoinSet;

use crate::world::{World, runtime};

/// Clients that write numbered events until they are told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    /// How many were answered well.
    written: Arc<AtomicU64>,
    set: JoinSet<Written>,
}

/// What one client knows.
#[derive(Default)]
struct Written {
    /// Numbers that were answered well.
    well: BTreeSet<u64>,
    /// Numbers of which nobody knows.
    unknown: BTreeSet<u64>,
}

fn numbered(number: u64) -> NewEvent {
    let data = contract::map(&[("number", &number.to_string())]);
    NewEvent { data, ..contract::event(EventKind::ExecStarted, 1) }
}

impl Writers {
    fn start(store: &Arc<PostgresStore>, clients: u64) -> Self {
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut set = JoinSet::new();
        for client in 0..clients {
            let (store, stop, written) = (store.clone(), stop.clone(), written.clone());
            set.spawn(async move {
                let mut known = Written::default();
                for number in (0..).map(|n| n * clients + client) {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    match store.append_events(vec![numbered(number)], contract::at(0)).await {
                        Ok(()) => {
                            known.well.insert(number);
                            written.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(Error::Unavailable(_)) => _ = known.unknown.insert(number),
                        Err(other) => panic!("{other:?}"),
                    }
                }
                known
            });
        }
        Self { stop, written, set }
    }

    /// Waits until that many more were answered well.
    async fn wait_for(&self, more: u64) {
        let wanted = self.written.load(Ordering::SeqCst) + more;
        while self.written.load(Ordering::SeqCst) < wanted {
            tokio::task::yield_now().await;
        }
    }

    async fn finish(mut self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Written::default();
        while let Some(known) = self.set.join_next().await {
            let known = known.unwrap();
            all.well.extend(known.well);
            all.unknown.extend(known.unknown);
        }
        all
    }
}

/// What was answered well is there, what is there was written once, and ids leave nothing out.
async fn must_agree(store: &PostgresStore, written: &Written) {
    let events = store.events(0, u32::MAX, EventFilter::default()).await.unwrap();
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    let mut found = BTreeSet::new();
    for event in &events {
        let number: u64 = event.data["number"].parse().unwrap();
        assert!(found.insert(number), "number {number} was written twice");
        let known = written.well.contains(&number) || written.unknown.contains(&number);
        assert!(known, "number {number} was refused and is there");
    }
    let lost: Vec<_> = written.well.difference(&found).collect();
    assert_eq!(lost, Vec::<&u64>::new());
}

pub(crate) fn broken_connections_lose_nothing_and_write_nothing_twice(world: Arc<World>) {
    let database = world.fresh();
    let store = Arc::new(database.open());
    runtime().block_on(async {
        let writers = Writers::start(&store, 8);
        for _ in 0..30 {
            writers.wait_for(20).await;
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            );
        }
        writers.wait_for(20).await;
        let written = writers.finish().await;
        must_agree(&store, &written).await;
    });
    assert_eq!(check_postgres(&database.dsn()).unwrap().1.problems, Vec::<String>::new());
}

/// With a server that syncs, as it is to survive its crash.
pub(crate) fn a_restart_of_the_database_needs_none_of_ours(_: Arc<World>) {
    let server = Server::start(Disk::Synced).unwrap();
    let database = server.create_database().unwrap();
    let store = Arc::new(PostgresStore::open(&server.dsn(&database)).unwrap());
    runtime().block_on(async {
        let writers = Writers::start(&store, 8);
        for how in [Stop::Fast, Stop::Immediate] {
            writers.wait_for(50).await;
            server.stop(how).unwrap();
            server.run().unwrap();
            let back = Instant::now();
            writers.wait_for(1).await;
            eprintln!("the first success came {:?} after the database was back", back.elapsed());
        }
        writers.wait_for(50).await;
        let written = writers.finish().await;
        must_agree(&store, &written).await;
    });
}

/// Not after a long wait, and as a failure that says that nothing is known.
pub(crate) fn calls_fail_clearly_while_the_database_is_away(_: Arc<World>) {
    let server = Server::start(Disk::Unsynced).unwrap();
    let database = server.create_database().unwrap();
    let store = PostgresStore::open(&server.dsn(&database)).unwrap();
    runtime().block_on(async {
        store.ping().await.unwrap();
        server.stop(Stop::Fast).unwrap();
        for _ in 0..3 {
            let failed = store.ping().await;
            assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
            let failed = store.append_events(vec![numbered(1)], contract::at(0)).await;
            assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
        }
        server.run().unwrap();
        store.ping().await.unwrap();
        store.append_events(vec![numbered(2)], contract::at(0)).await.unwrap();
        assert_eq!(store.last_event().await.unwrap(), 1);
    });
}

pub(crate) fn a_call_whose_caller_went_away_finishes(world: Arc<World>) {
    world.on_fresh(|store| async move {
        let call = store.append_events(vec![numbered(1)], contract::at(0));
        let mut call = Box::pin(call);
        // Once polled it is queued.
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(call.as_mut().poll(context).is_pending())
        });
        assert!(polled.await);
        drop(call);
        while store.last_event().await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    });
}

/// The database undoes one of two that wait for each other; if it is ours, it is run again.
pub(crate) fn a_deadlock_is_nobodys_failure(world: Arc<World>) {
    let database = world.fresh();
    let store = Arc::new(database.open());
    runtime().block_on(async {
        let quota = stacyvm_store::QuotaFields::default();
        let ann = contract::owner("ann");
        store.put_quota(&ann, quota, vec![], contract::at(0)).await.unwrap();
        // Takes the counter of events, and then what the store takes before it.
        let other = "BEGIN; UPDATE counters SET value = value WHERE name = 'event'; \
             SELECT pg_sleep(0.3); UPDATE quotas SET weight = NULL; COMMIT";
        let sleeping = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' \
             AND query LIKE '%pg_sleep(0.3)%' AND pid <> pg_backend_pid()";
        let put = store.put_quota(&ann, quota, vec![numbered(1)], contract::at(1));
        std::thread::scope(|scope| {
            // Which of the two is undone is the database's choice.
            scope.spawn(|| database.server.execute(&database.name, other).ok());
            while database.query(sleeping).is_empty() {}
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(put))
        })
        .unwrap();
        assert_eq!(store.last_event().await.unwrap(), 1);
    });
}
