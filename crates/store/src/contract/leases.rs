//! Cases about leases: who may change a runtime.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use stacyvm_admission::Usage;
use stacyvm_types::{
    Beat, CauseKind, Generation, Lease, Phase, Resources, Timestamp, Transition, Unfit,
};

use super::{FIRST, NOW, admit, at, beat, cause, id, owner, race, steps, worker};
use crate::{Durability::Disk, Error, Store};

/// The fencing token outlives the lease.
pub async fn ending_releases_the_lease_and_keeps_the_generation(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let stopping = steps(&store, 1, &[Transition::Stop(cause(CauseKind::Requested))]).await;
    assert!(matches!(stopping.phase, Phase::Stopping(_)));
    assert!(store.lease(&id(1)).await.unwrap().is_some());
    let ended = steps(&store, 1, &[Transition::Gone]).await;
    assert_eq!(store.lease(&id(1)).await.unwrap(), None);
    assert_eq!(ended.generation, FIRST);
    let refused = store.acquire_lease(&id(1), &worker("w2"), NOW, at(9)).await;
    let Err(Error::WrongPhase(shown)) = refused else { panic!("{refused:?}") };
    assert_eq!(*shown, ended);
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(ended));
}

/// Also its own worker gets a new generation: what it did before is over.
pub async fn the_holder_acquires_again_with_a_higher_generation(store: Arc<dyn Store>) {
    let before = admit(&store, 1, at(100)).await;
    let lease = store.acquire_lease(&id(1), &worker("w1"), NOW, at(1)).await.unwrap();
    let expected = Lease { holder: worker("w1"), generation: Generation(2), expires_at: at(50) };
    assert_eq!(lease, expected);
    assert_eq!(store.lease(&id(1)).await.unwrap(), Some(expected));
    let row = store.sandbox(&id(1)).await.unwrap().unwrap();
    assert_eq!((row.generation, row.version), (Generation(2), 2));
    assert_eq!((row.updated_at, row.spec, row.phase), (at(1), before.spec, before.phase));
}

/// A lease holds up to, and not at, its end.
pub async fn a_held_lease_is_refused_to_others_until_its_holders_has_lapsed(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let before = store.sandbox(&id(1)).await.unwrap();
    let just_before = stacyvm_types::Timestamp::from_micros(at(50).as_micros() - 1);
    for now in [at(0), just_before] {
        let refused = store.acquire_lease(&id(1), &worker("w2"), NOW, now).await;
        assert!(matches!(refused, Err(Error::LeaseHeld)), "{refused:?}");
    }
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), before);
    assert_eq!(store.lease(&id(1)).await.unwrap().unwrap().holder, worker("w1"));
    let lease = store.acquire_lease(&id(1), &worker("w2"), NOW, at(50)).await.unwrap();
    let expected =
        Lease { holder: worker("w2"), generation: Generation(2), expires_at: Timestamp::MAX };
    assert_eq!(lease, expected);
    let row = store.sandbox(&id(1)).await.unwrap().unwrap();
    assert_eq!(row.spec.worker, worker("w2"), "R4.3: the row names who has it");
}

/// R4.6: until then its holder may not have ended the runtime yet.
pub async fn a_lapsed_lease_is_its_holders_until_the_fence_is_over(store: Arc<dyn Store>) {
    let fence = Duration::from_secs(10);
    admit(&store, 1, at(1000)).await;
    for now in [at(50), Timestamp::from_micros(at(60).as_micros() - 1)] {
        let refused = store.acquire_lease(&id(1), &worker("w2"), fence, now).await;
        assert!(matches!(refused, Err(Error::LeaseHeld)), "{refused:?}");
    }
    store.beat(beat("w1"), Some(Duration::from_secs(50)), at(55)).await.unwrap();
    let refused = store.acquire_lease(&id(1), &worker("w2"), fence, at(60)).await;
    assert!(matches!(refused, Err(Error::LeaseHeld)), "it came back: {refused:?}");
    store.acquire_lease(&id(1), &worker("w2"), fence, at(115)).await.unwrap();
}

/// Whoever is not heard of itself gets nothing.
pub async fn only_a_worker_that_is_heard_of_acquires(store: Arc<dyn Store>) {
    let before = admit(&store, 1, at(1000)).await;
    for (name, expected) in [("w1", Unfit::Stale), ("nobody", Unfit::Unknown)] {
        let refused = store.acquire_lease(&id(1), &worker(name), NOW, at(50)).await;
        assert!(matches!(refused, Err(Error::Unfit(unfit)) if unfit == expected), "{refused:?}");
    }
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(before));
}

/// R3.2: the places of each worker are those of the sandboxes that it has.
pub async fn a_sandbox_takes_its_place_along_to_another_worker(store: Arc<dyn Store>) {
    admit(&store, 1, at(1000)).await;
    let one = Resources { sandboxes: 1, memory_mb: 11, vcpus: 12 };
    let no_room = Beat { capacity: Resources { vcpus: 11, ..one }, ..beat("w3") };
    store.beat(no_room, None, at(49)).await.unwrap();
    let refused = store.acquire_lease(&id(1), &worker("w3"), NOW, at(50)).await;
    assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    store.acquire_lease(&id(1), &worker("w2"), NOW, at(50)).await.unwrap();
    for (name, taken) in [("w1", Resources::default()), ("w2", one)] {
        let standing = store.standing(Some(&owner("ann")), &worker(name)).await.unwrap();
        assert_eq!(standing.usage, Usage { total: 1, owner: 1, worker: taken });
    }
    let stop = Transition::Stop(cause(CauseKind::Requested));
    for transition in [stop, Transition::Gone] {
        let now = at(60);
        store.transition(&id(1), Generation(2), transition, vec![], Disk, now).await.unwrap();
    }
    let standing = store.standing(Some(&owner("ann")), &worker("w2")).await.unwrap();
    assert_eq!(standing.usage, Usage::default());
}

/// The old holder's generation opens nothing any more.
pub async fn a_lapsed_lease_is_taken_over_and_the_old_holder_has_lost_it(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    store.acquire_lease(&id(1), &worker("w2"), NOW, at(60)).await.unwrap();
    let released = store.release_lease(&id(1), &worker("w1"), FIRST).await;
    assert!(matches!(released, Err(Error::LeaseLost)), "{released:?}");
    let moved = store.transition(&id(1), FIRST, Transition::Started, vec![], Disk, at(61)).await;
    assert!(matches!(moved, Err(Error::Fenced)), "{moved:?}");
    assert_eq!(store.lease(&id(1)).await.unwrap().unwrap().holder, worker("w2"));
}

async fn contend(store: &Arc<dyn Store>, sandbox: u8, now: u64) -> Vec<crate::Result<Lease>> {
    for number in 0..16 {
        store.beat(beat(&format!("contender-{number}")), None, at(now)).await.unwrap();
    }
    race((0..16).map(|number| {
        let store = store.clone();
        let holder = worker(&format!("contender-{number}"));
        async move { store.acquire_lease(&id(sandbox), &holder, NOW, at(now)).await }
    }))
    .await
}

fn assert_one_winner(results: &[crate::Result<Lease>]) {
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::LeaseHeld))), "{results:?}");
}

/// Sixteen at once for a free lease.
pub async fn one_of_sixteen_contenders_wins_a_free_lease(store: Arc<dyn Store>) {
    for number in 1..=8 {
        admit(&store, number, at(100)).await;
        store.release_lease(&id(number), &worker("w1"), FIRST).await.unwrap();
        let results = contend(&store, number, 1).await;
        assert_one_winner(&results);
        let winner = results.into_iter().find_map(Result::ok).unwrap();
        assert_eq!(winner.generation, Generation(2));
        assert_eq!(store.lease(&id(number)).await.unwrap(), Some(winner));
    }
}

/// Sixteen at once for a lapsed lease.
pub async fn one_of_sixteen_contenders_takes_over_a_lapsed_lease(store: Arc<dyn Store>) {
    for number in 1..=8 {
        admit(&store, number, at(100)).await;
        assert_one_winner(&contend(&store, number, 50).await);
        let row = store.sandbox(&id(number)).await.unwrap().unwrap();
        assert_eq!((row.generation, row.version), (Generation(2), 2));
    }
}

const MOMENT: Duration = Duration::from_micros(1);

/// Acquires, take-overs and releases from all sides: every generation is new.
pub async fn generations_are_never_given_out_twice(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let given = race((0..8).map(|number| {
        let store = store.clone();
        let holder = worker(&format!("w{number}"));
        async move {
            let mut given = Vec::new();
            for round in 0..20 {
                let now = at(100 + round);
                // Each is heard of for an instant, so that the others may take over in the next.
                store.beat(beat(holder.as_str()), Some(MOMENT), now).await.unwrap();
                let Ok(lease) = store.acquire_lease(&id(1), &holder, NOW, now).await else {
                    continue;
                };
                given.push(lease.generation);
                if round % 2 == 0 {
                    match store.release_lease(&id(1), &holder, lease.generation).await {
                        Ok(()) | Err(Error::LeaseLost) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
            given
        }
    }))
    .await;
    for own in &given {
        assert!(own.is_sorted(), "{own:?}");
    }
    let all: Vec<_> = given.into_iter().flatten().collect();
    let unique: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!(all.len(), unique.len());
    // Not one in each round: a holder that stands still after its heartbeat keeps it from those of
    // its round, and loses it to one of the next.
    assert!(!all.is_empty());
    let row = store.sandbox(&id(1)).await.unwrap().unwrap();
    assert_eq!(Some(&row.generation), unique.last());
}

/// R4.7: as a heartbeat does that was sent at the same time, whichever comes last.
pub async fn a_renewal_keeps_what_the_holder_said_last(store: Arc<dyn Store>) {
    let term = Duration::from_secs(50);
    for number in 1..=2 {
        admit(&store, number, at(1000)).await;
    }
    let news = Beat { draining: true, offers: vec![], ..beat("w1") };
    let said = store.beat(news.clone(), Some(term), at(10)).await.unwrap();
    store.cordon(&worker("w1"), true, at(11)).await.unwrap();
    let lease = store.renew_lease(&id(1), &worker("w1"), term, at(20)).await.unwrap();
    let expected = Lease { holder: worker("w1"), generation: FIRST, expires_at: at(70) };
    assert_eq!(lease, expected);
    assert_eq!(store.lease(&id(2)).await.unwrap(), Some(expected), "and so of its others");
    let row = store.worker(&worker("w1")).await.unwrap().unwrap();
    let renewed = crate::WorkerRow {
        cordoned: true,
        lease_until: at(70),
        heartbeat_at: at(20),
        updated_at: at(11),
        ..said
    };
    assert_eq!(row, renewed);
    let short = Duration::from_secs(1);
    let lease = store.renew_lease(&id(1), &worker("w1"), short, at(21)).await.unwrap();
    assert_eq!(lease.expires_at, at(70), "never for less");

    let results = race((0..16_u64).map(|number| {
        let (store, news) = (store.clone(), news.clone());
        async move {
            if number == 8 {
                let last = Beat { version: "last".to_owned(), ..news };
                return store.beat(last, Some(term), at(30)).await.map(|row| row.lease_until);
            }
            let renewed = store.renew_lease(&id(1), &worker("w1"), term, at(30)).await;
            renewed.map(|lease| lease.expires_at)
        }
    }));
    assert!(results.await.into_iter().all(|until| until.unwrap() == at(80)));
    let row = store.worker(&worker("w1")).await.unwrap().unwrap();
    assert_eq!((row.beat.version.as_str(), row.beat.draining), ("last", true));
}

/// R4.5: up to, and not at, its end; one that holds without end goes on so.
pub async fn only_the_holder_renews_a_lease_and_only_while_it_holds(store: Arc<dyn Store>) {
    let term = Duration::from_secs(50);
    admit(&store, 1, at(1000)).await;
    let before = store.worker(&worker("w1")).await.unwrap();
    for (number, holder, now) in [(1, "w2", 1), (1, "nobody", 1), (9, "w1", 1), (1, "w1", 50)] {
        let refused = store.renew_lease(&id(number), &worker(holder), term, at(now)).await;
        assert!(matches!(refused, Err(Error::LeaseLost)), "{holder}: {refused:?}");
    }
    assert_eq!(store.worker(&worker("w1")).await.unwrap(), before);
    let taken = store.acquire_lease(&id(1), &worker("w2"), NOW, at(50)).await.unwrap();
    let lease = store.renew_lease(&id(1), &worker("w2"), term, at(51)).await.unwrap();
    assert_eq!(lease, taken);
    assert_eq!(lease.expires_at, Timestamp::MAX);
    store.release_lease(&id(1), &worker("w2"), Generation(2)).await.unwrap();
    let refused = store.renew_lease(&id(1), &worker("w2"), term, at(52)).await;
    assert!(matches!(refused, Err(Error::LeaseLost)), "{refused:?}");
}

/// R4.7: whoever takes it for lost may have looked at the registry long ago.
pub async fn nothing_is_lost_while_its_lease_holds(store: Arc<dyn Store>) {
    let before = admit(&store, 1, at(1000)).await;
    let events = store.last_event().await.unwrap();
    let lost = Transition::Lost("its worker is silent".to_owned());
    let lose = async |generation, now| {
        let event = vec![super::event(stacyvm_types::EventKind::ReconcileAction, 1)];
        store.transition(&id(1), generation, lost.clone(), event, Disk, at(now)).await
    };
    let refused = lose(FIRST, 49).await;
    assert!(matches!(refused, Err(Error::LeaseHeld)), "{refused:?}");
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(before.clone()));
    assert_eq!(store.last_event().await.unwrap(), events);
    let refused = lose(Generation(0), 60).await;
    assert!(matches!(refused, Err(Error::Fenced)), "{refused:?}");
    let row = lose(FIRST, 50).await.unwrap();
    assert_eq!(Ok(row.phase.clone()), before.phase.step(lost.clone()));
    store.beat(beat("w1"), None, at(51)).await.unwrap();
    assert_eq!(lose(FIRST, 52).await.unwrap(), row, "a repeat asks for nothing");
}

/// Both must fit; a second release has nothing to give back.
pub async fn releasing_needs_the_holder_and_its_generation(store: Arc<dyn Store>) {
    let before = admit(&store, 1, at(100)).await;
    for (sandbox, holder, generation) in [
        (1, "w2", FIRST),
        (1, "w1", Generation(0)),
        (1, "w1", Generation(2)),
        (1, "w1", Generation(u64::MAX)),
        (9, "w1", FIRST),
    ] {
        let refused = store.release_lease(&id(sandbox), &worker(holder), generation).await;
        assert!(matches!(refused, Err(Error::LeaseLost)), "{refused:?}");
    }
    assert!(store.lease(&id(1)).await.unwrap().is_some());
    store.release_lease(&id(1), &worker("w1"), FIRST).await.unwrap();
    let again = store.release_lease(&id(1), &worker("w1"), FIRST).await;
    assert!(matches!(again, Err(Error::LeaseLost)), "{again:?}");
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(before), "the row is not touched");
}

/// No row, no lease.
pub async fn a_lease_of_an_unknown_sandbox_cannot_be_taken(store: Arc<dyn Store>) {
    let refused = store.acquire_lease(&id(1), &worker("w1"), NOW, at(1)).await;
    assert!(matches!(refused, Err(Error::NotFound)), "{refused:?}");
}
