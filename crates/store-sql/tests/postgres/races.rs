//! Many servers on one database at once.

use std::{sync::Arc, time::Duration};

use stacyvm_admission::Policy;
use stacyvm_store::{
    Begun, Durability::Disk, Error, EventFilter, Include, NewKey, QuotaFields, Store,
    WorkerStore as _, contract, retention::Walk,
};
use stacyvm_store_sql::check_postgres;
use stacyvm_types::{
    CauseKind, EventKind, Generation, Lease, Timestamp, Transition, Unfit, WorkerId,
};
use tokio::task::JoinSet;

use crate::world::{Database, World, admit, admit_within, runtime};

/// How often each race is run.
const ROUNDS: u32 = 1_000;

/// Stores of two servers. The tests turn the hands of the clock that leases are judged by.
fn two_servers(database: &Database<'_>) -> [Arc<dyn Store>; 2] {
    [Arc::new(database.open_by_callers_clock()), Arc::new(database.open_by_callers_clock())]
}

const CONTENDERS: usize = 6;

fn contender(number: usize) -> WorkerId {
    contract::worker(&format!("contender-{number}"))
}

/// All contend at once, half of them on each server. The one that won, and the lease that it got.
async fn contend(stores: &[Arc<dyn Store>; 2], now: Timestamp) -> Lease {
    let mut set = JoinSet::new();
    for number in 0..CONTENDERS {
        let store = stores[number % 2].clone();
        let id = contract::id(1);
        set.spawn(
            async move { store.acquire_lease(&id, &contender(number), contract::NOW, now).await },
        );
    }
    let results = set.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let refused = |result: &_| matches!(result, Ok(_) | Err(Error::LeaseHeld));
    assert!(results.iter().all(refused), "{results:?}");
    results.into_iter().find_map(Result::ok).unwrap()
}

/// R6.3: a free lease has exactly one winner, however often it is fought for.
pub(crate) fn a_free_lease_has_one_winner_each_time(world: Arc<World>) {
    let database = world.fresh();
    let stores = two_servers(&database);
    runtime().block_on(async {
        contract::register(&stores[0]).await;
        admit(&*stores[0], 1).await;
        let (mut holder, mut generation) = (contract::worker("w1"), contract::FIRST);
        for number in 0..CONTENDERS {
            let beat = contract::beat(contender(number).as_str());
            stores[0].beat(beat, None, contract::at(0)).await.unwrap();
        }
        for _ in 0..ROUNDS {
            stores[0].release_lease(&contract::id(1), &holder, generation).await.unwrap();
            let lease = contend(&stores, contract::at(1)).await;
            assert_eq!(lease.generation, Generation(generation.0 + 1));
            (holder, generation) = (lease.holder, lease.generation);
        }
    });
    assert_eq!(check_postgres(&database.dsn()).unwrap().1.problems, Vec::<String>::new());
}

/// R6.3: so has one that has lapsed, while every contender renews its own.
pub(crate) fn a_lapsed_lease_has_one_winner_each_time(world: Arc<World>) {
    let database = world.fresh();
    let stores = two_servers(&database);
    runtime().block_on(async {
        contract::register(&stores[0]).await;
        let mut last = admit(&*stores[0], 1).await.generation;
        for round in 0..u64::from(ROUNDS) {
            let now = contract::at(100 + round);
            // Each is heard of for an instant, so that the others may take over in the next round.
            let mut set = JoinSet::new();
            for number in 0..CONTENDERS {
                let store = stores[number % 2].clone();
                let beat = contract::beat(contender(number).as_str());
                set.spawn(async move {
                    store.beat(beat, Some(Duration::from_micros(1)), now).await.unwrap();
                });
            }
            set.join_all().await;
            let lease = contend(&stores, now).await;
            assert_eq!(lease.generation, Generation(last.0 + 1));
            last = lease.generation;
        }
    });
    assert_eq!(check_postgres(&database.dsn()).unwrap().1.problems, Vec::<String>::new());
}

/// R4.5: what servers think of the time changes no lease.
pub(crate) fn leases_are_judged_by_the_databases_clock(world: Arc<World>) {
    let database = world.fresh();
    let store = database.open();
    runtime().block_on(async {
        let hour = Some(Duration::from_secs(3600));
        let (long_ago, far_off) = (contract::at(0), contract::at(10_000_000_000));
        let row = store.beat(contract::beat("w1"), hour, long_ago).await.unwrap();
        store.beat(contract::beat("w2"), hour, far_off).await.unwrap();
        let heard = store.time(long_ago).await.unwrap().saturating_since(row.heartbeat_at);
        assert!(heard < Duration::from_secs(600), "{heard:?}");
        admit(&store, 1).await;
        let (id, w2) = (contract::id(1), contract::worker("w2"));
        let refused = store.acquire_lease(&id, &w2, contract::NOW, far_off).await;
        assert!(matches!(refused, Err(Error::LeaseHeld)), "{refused:?}");
        // A lease of no length has lapsed when it is looked at, whatever the caller says.
        store.beat(contract::beat("w1"), Some(Duration::ZERO), far_off).await.unwrap();
        let lease = store.acquire_lease(&id, &w2, contract::NOW, long_ago).await.unwrap();
        assert_eq!(lease.generation, Generation(2));
        let policy = Policy::default();
        let refused = admit_within(&store, &policy, 2, &contract::owner("ann")).await;
        assert!(matches!(refused, Err(Error::Unfit(Unfit::Stale))), "{refused:?}");
    });
}

/// Changes of every kind from two servers, each taking its locks in the order that the store keeps:
/// all of them end, and everything adds up.
pub(crate) fn changes_of_every_kind_meet_and_everything_adds_up(world: Arc<World>) {
    const SANDBOXES: u8 = 40;
    let database = world.fresh();
    let stores = two_servers(&database);
    let policy = Policy { max_sandboxes: 12, max_per_owner: 5, ..Policy::default() };
    runtime().block_on(async {
        contract::register(&stores[0]).await;
        let mut set = JoinSet::new();
        for (server, store) in stores.iter().enumerate() {
            for client in 0..4_u8 {
                let (store, policy) = (store.clone(), policy.clone());
                set.spawn(async move {
                    let name = contract::owner(["ann", "bob"][usize::from(client % 2)]);
                    for number in 0..SANDBOXES {
                        // Both servers work on the same sandboxes.
                        let admitted = admit_within(&*store, &policy, number, &name).await;
                        match admitted {
                            Ok(_) | Err(Error::Conflict | Error::Full(_)) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                        let event = || vec![contract::event(EventKind::ExecStarted, number)];
                        for step in [
                            Transition::Started,
                            Transition::Stop(contract::cause(CauseKind::Requested)),
                            Transition::Gone,
                        ] {
                            let id = contract::id(number);
                            let (first, at) = (contract::FIRST, contract::at(1));
                            match store.transition(&id, first, step, event(), Disk, at).await {
                                Ok(_) | Err(Error::NotFound | Error::Refused(_)) => {}
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                        let fields =
                            QuotaFields { max_sandboxes: Some(5), ..QuotaFields::default() };
                        store.put_quota(&name, fields, event(), contract::at(1)).await.unwrap();
                        if server == 0 && client == 0 {
                            let walk = Walk::START;
                            store.prune_sandboxes(contract::at(1), walk, 10).await.unwrap();
                            store.prune_events(contract::at(1), 10).await.unwrap();
                        }
                    }
                });
            }
        }
        while let Some(ended) = set.join_next().await {
            ended.unwrap();
        }
        // What was never admitted because there was no place may be left over; nothing else is.
        let live = stores[0].sandboxes(Include::Live).await.unwrap();
        let standing = stores[1].standing(None, &contract::worker("w1")).await.unwrap();
        let live = live.len() as u64;
        assert_eq!((standing.usage.total, standing.usage.worker.sandboxes), (live, live));
        let events = stores[0].events(0, u32::MAX, EventFilter::default()).await.unwrap();
        assert_eq!(stores[1].last_event().await.unwrap(), events.last().unwrap().id);
        assert!(events.is_sorted_by_key(|event| event.id));
    });
    drop(stores);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(database.query(deadlocks), ["0"], "{}", world.server.log());
    assert_eq!(check_postgres(&database.dsn()).unwrap().1.problems, Vec::<String>::new());
}

/// Whoever follows the log by its last id misses nothing, although others commit meanwhile.
pub(crate) fn a_follower_on_another_server_sees_every_event_once_in_order(world: Arc<World>) {
    let database = world.fresh();
    let (one, other) = (Arc::new(database.open()), database.open());
    runtime().block_on(async {
        let mut set = JoinSet::new();
        for _ in 0..8 {
            let store = one.clone();
            set.spawn(async move {
                for _ in 0..50 {
                    let event = contract::event(EventKind::ExecStarted, 1);
                    store.append_events(vec![event.clone(), event], contract::at(0)).await.unwrap();
                }
            });
        }
        let mut last = 0;
        while last < 800 {
            for event in other.events(last, 100, EventFilter::default()).await.unwrap() {
                assert_eq!(event.id, last + 1);
                last = event.id;
            }
        }
        set.join_all().await;
    });
}

/// One of many that bring the same new key gets the turn, also while keys are forgotten.
pub(crate) fn one_of_many_servers_gets_the_turn_of_a_key(world: Arc<World>) {
    let database = world.fresh();
    let stores = two_servers(&database);
    runtime().block_on(async {
        for round in 0..ROUNDS / 4 {
            let mut set = JoinSet::new();
            for contender in 0..6 {
                let store = stores[contender % 2].clone();
                set.spawn(async move {
                    let key = NewKey {
                        id: format!("key-{round}"),
                        fingerprint: "same".to_owned(),
                        resource: "sb".to_owned(),
                        holder: contract::worker(&format!("server-{contender}")),
                        held_until: contract::at(1_000),
                    };
                    store.begin_key(key, Disk, contract::at(1)).await.unwrap()
                });
            }
            // Those of earlier rounds are forgotten meanwhile.
            stores[0].prune_keys(contract::at(1), 10).await.unwrap();
            let begun = set.join_all().await;
            let turns = begun.iter().filter(|begun| matches!(begun, Begun::Yours(_))).count();
            assert_eq!(turns, 1, "{begun:?}");
        }
    });
}
