//! Many servers on one database at once.

use std::sync::Arc;

use stacyvm_admission::{Policy, Usage};
use stacyvm_store::{
    Begun, Durability::Disk, Error, EventFilter, IdempotencyStore as _, Include, NewKey,
    QuotaFields, QuotaStore as _, RetentionStore as _, Store, contract, retention::Walk,
};
use stacyvm_store_sql::check_postgres;
use stacyvm_types::{CauseKind, EventKind, Transition};
use tokio::task::JoinSet;

use crate::world::{World, admit_within, runtime};

/// How often each race is run.
const ROUNDS: u32 = 1_000;

/// Changes of every kind from two servers, each taking its locks in the order that the store keeps:
/// all of them end, and everything adds up.
pub(crate) fn changes_of_every_kind_meet_and_everything_adds_up(world: Arc<World>) {
    const SANDBOXES: u8 = 40;
    let database = world.fresh();
    let stores = [Arc::new(database.open()), Arc::new(database.open())];
    let policy = Policy { max_sandboxes: 12, max_per_owner: 5, ..Policy::default() };
    runtime().block_on(async {
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
        assert_eq!(standing.usage, Usage { total: live, owner: 0, worker: live });
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
    let stores = [Arc::new(database.open()), Arc::new(database.open())];
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
