//! Cases about the registry of workers.

use std::{sync::Arc, time::Duration};

use stacyvm_admission::{Full, Policy};
use stacyvm_types::{CauseKind, Resources, Timestamp, Transition, Unfit};

use super::{FIRST, NOW, admit, at, beat, cause, id, new_sandbox, race, steps, worker};
use crate::{Durability::Disk, Error, NewSandbox, Store, WorkerRow};

const TERM: Option<Duration> = Some(Duration::from_secs(50));

/// R4.1: every word of it, the first instant, and the operator's decision.
pub async fn a_worker_is_remembered_as_it_said_last(store: Arc<dyn Store>) {
    let first = store.beat(beat("a"), TERM, at(1)).await.unwrap();
    let expected = WorkerRow {
        beat: beat("a"),
        cordoned: false,
        lease_until: at(51),
        heartbeat_at: at(1),
        created_at: at(1),
        updated_at: at(1),
    };
    assert_eq!(first, expected);
    let cordoned = store.cordon(&worker("a"), true, at(2)).await.unwrap();
    assert_eq!((cordoned.cordoned, cordoned.updated_at), (true, at(2)));
    let same = store.beat(beat("a"), TERM, at(3)).await.unwrap();
    let renewed = WorkerRow { lease_until: at(53), heartbeat_at: at(3), ..cordoned };
    assert_eq!(same, renewed, "a heartbeat with no news renews and changes nothing else");
    let mut news = beat("a");
    news.offers.clear();
    news.url = None;
    news.draining = true;
    news.capacity = Resources { sandboxes: 1, memory_mb: 2, vcpus: 3 };
    let after = store.beat(news.clone(), None, at(4)).await.unwrap();
    let expected = WorkerRow {
        beat: news,
        lease_until: Timestamp::MAX,
        heartbeat_at: at(4),
        updated_at: at(4),
        ..renewed
    };
    assert_eq!(after, expected);
    assert_eq!(store.worker(&worker("a")).await.unwrap(), Some(expected.clone()));
    let all = store.workers().await.unwrap();
    let ids: Vec<_> = all.iter().map(|(row, _)| row.beat.id.clone()).collect();
    assert_eq!(ids, ["a", "w1", "w2", "w3"].map(worker));
    assert_eq!(all[0], (expected, Resources::default()));
    assert_eq!(store.worker(&worker("b")).await.unwrap(), None);
    let refused = store.cordon(&worker("b"), true, at(5)).await;
    assert!(matches!(refused, Err(Error::NotFound)), "{refused:?}");
}

/// R4.7: one row is renewed, and every lease with it; the generations stay.
pub async fn a_heartbeat_renews_the_leases_of_all_its_sandboxes(store: Arc<dyn Store>) {
    for number in 1..=3 {
        admit(&store, number, at(1000)).await;
    }
    store.beat(beat("w1"), TERM, at(40)).await.unwrap();
    for number in 1..=3 {
        let lease = store.lease(&id(number)).await.unwrap().unwrap();
        assert_eq!((lease.expires_at, lease.generation), (at(90), FIRST));
    }
}

/// R4.2: a copied configuration is an error and not a second owner.
pub async fn another_instance_of_a_name_waits_until_the_first_has_lapsed(store: Arc<dyn Store>) {
    let mut other = beat("w1");
    other.instance = "another".to_owned();
    let just_before = Timestamp::from_micros(at(50).as_micros() - 1);
    for now in [at(1), just_before] {
        let refused = store.beat(other.clone(), TERM, now).await;
        assert!(matches!(refused, Err(Error::LeaseHeld)), "{refused:?}");
    }
    assert_eq!(store.worker(&worker("w1")).await.unwrap().unwrap().beat, beat("w1"));
    store.beat(other.clone(), TERM, at(50)).await.unwrap();
    let refused = store.beat(beat("w1"), TERM, at(51)).await;
    assert!(matches!(refused, Err(Error::LeaseHeld)), "{refused:?}");
    assert_eq!(store.worker(&worker("w1")).await.unwrap().unwrap().beat, other);
}

/// R4.2: sixteen at once, one is it.
pub async fn one_of_many_instances_gets_a_free_name(store: Arc<dyn Store>) {
    for round in 0..8 {
        let name = format!("new-{round}");
        let results = race((0..16).map(|number| {
            let (store, mut one) = (store.clone(), beat(&name));
            one.instance = format!("instance {number}");
            async move { store.beat(one, TERM, at(1)).await }
        }))
        .await;
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
        assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::LeaseHeld))), "{results:?}");
    }
}

/// R5.3: a first heartbeat that is sent once more, perhaps to another server, is no other worker's.
pub async fn a_worker_is_heard_however_often_it_says_its_first_word(store: Arc<dyn Store>) {
    for round in 0..16 {
        let one = beat(&format!("new-{round}"));
        let results = race((0..8).map(|_| {
            let (store, one) = (store.clone(), one.clone());
            async move { store.beat(one, TERM, at(1)).await }
        }))
        .await;
        for row in results {
            assert_eq!(row.unwrap().beat, one);
        }
    }
}

async fn admit_on(store: &Arc<dyn Store>, name: &str, number: u8, now: u64) -> crate::Result<()> {
    let new = NewSandbox { worker: worker(name), ..new_sandbox(number, at(1000)) };
    store.admit(&Policy::default(), new, Disk, at(now)).await.map(drop)
}

fn unfit(result: crate::Result<()>) -> Unfit {
    match result {
        Err(Error::Unfit(unfit)) => unfit,
        other => panic!("{other:?}"),
    }
}

/// R4.4: at its lease's end and not before, and again when it is heard of again.
pub async fn a_worker_that_is_not_heard_of_takes_nothing_new(store: Arc<dyn Store>) {
    let events = store.last_event().await.unwrap();
    assert_eq!(unfit(admit_on(&store, "nobody", 1, 1).await), Unfit::Unknown);
    assert_eq!(unfit(admit_on(&store, "w1", 1, 50).await), Unfit::Stale);
    assert_eq!(store.last_event().await.unwrap(), events);
    assert_eq!(store.standing(None, &worker("w1")).await.unwrap().usage.total, 0);
    admit_on(&store, "w1", 1, 49).await.unwrap();
    store.beat(beat("w1"), TERM, at(60)).await.unwrap();
    admit_on(&store, "w1", 2, 60).await.unwrap();
}

/// R5.7: whether it says so itself or the operator does.
pub async fn a_drained_worker_takes_nothing_new_and_keeps_what_it_has(store: Arc<dyn Store>) {
    admit_on(&store, "w1", 1, 1).await.unwrap();
    store.cordon(&worker("w1"), true, at(2)).await.unwrap();
    assert_eq!(unfit(admit_on(&store, "w1", 2, 2).await), Unfit::Draining);
    store.beat(beat("w1"), TERM, at(3)).await.unwrap();
    assert_eq!(unfit(admit_on(&store, "w1", 2, 3).await), Unfit::Draining, "a heartbeat is no no");
    assert!(store.lease(&id(1)).await.unwrap().unwrap().holds(NOW, at(4)));
    store.cordon(&worker("w1"), false, at(4)).await.unwrap();
    let mut draining = beat("w1");
    draining.draining = true;
    store.beat(draining, TERM, at(5)).await.unwrap();
    assert_eq!(unfit(admit_on(&store, "w1", 2, 5).await), Unfit::Draining);
    store.beat(beat("w1"), TERM, at(6)).await.unwrap();
    admit_on(&store, "w1", 2, 6).await.unwrap();
}

/// R4.4: sandboxes, memory and processors each, and a place that is given back counts at once.
pub async fn a_worker_is_filled_up_to_what_it_can_hold(store: Arc<dyn Store>) {
    // Each sandbox of the contract takes 11 MiB and 12 processors.
    for (name, first, max) in [
        ("by-count", 10, Resources { sandboxes: 2, memory_mb: 0, vcpus: 0 }),
        ("by-memory", 20, Resources { sandboxes: 0, memory_mb: 32, vcpus: 0 }),
        ("by-vcpus", 30, Resources { sandboxes: 9, memory_mb: 99, vcpus: 24 }),
    ] {
        store.beat(beat_with(name, max), None, at(1)).await.unwrap();
        for number in 0..2 {
            admit_on(&store, name, first + number, 1).await.unwrap();
        }
        let refused = admit_on(&store, name, first + 2, 1).await;
        let Err(Error::Full(Full::Worker { max: told })) = refused else { panic!("{refused:?}") };
        assert_eq!(told, max);
        let all = store.workers().await.unwrap();
        let (_, load) = all.iter().find(|(row, _)| row.beat.id == worker(name)).unwrap();
        let taken = store.standing(None, &worker(name)).await.unwrap().usage.worker;
        assert_eq!(*load, taken);
        assert_eq!(taken, Resources { sandboxes: 2, memory_mb: 22, vcpus: 24 });
        let end = [Transition::Stop(cause(CauseKind::Requested)), Transition::Gone];
        steps(&store, first, &end).await;
        admit_on(&store, name, first + 2, 1).await.unwrap();
    }
}

fn beat_with(name: &str, capacity: Resources) -> stacyvm_types::Beat {
    stacyvm_types::Beat { capacity, ..beat(name) }
}

/// R4.1: what it holds may still run.
pub async fn a_worker_that_holds_places_is_not_forgotten(store: Arc<dyn Store>) {
    admit(&store, 1, at(1000)).await;
    let refused = store.remove_worker(&worker("w1")).await;
    assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
    steps(&store, 1, &[Transition::Stop(cause(CauseKind::Requested)), Transition::Gone]).await;
    store.remove_worker(&worker("w1")).await.unwrap();
    assert_eq!(store.worker(&worker("w1")).await.unwrap(), None);
    let refused = store.remove_worker(&worker("w1")).await;
    assert!(matches!(refused, Err(Error::NotFound)), "{refused:?}");
}

/// Those that live, the oldest first, page by page.
pub async fn the_sandboxes_of_a_worker_are_walked_through_by_age(store: Arc<dyn Store>) {
    for number in 1..=5 {
        admit_on(&store, if number == 3 { "w2" } else { "w1" }, number, 10 - u64::from(number / 2))
            .await
            .unwrap();
    }
    steps(&store, 2, &[Transition::Stop(cause(CauseKind::Requested)), Transition::Gone]).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.sandboxes_of(&worker("w1"), after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.created_at, last.spec.id.clone()));
        seen.extend(page.into_iter().map(|row| row.spec.id));
    }
    assert_eq!(seen, [4, 5, 1].map(id));
}
