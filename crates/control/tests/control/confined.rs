//! Callers for whom one owner's sandboxes exist, and keys.

use std::{sync::atomic::Ordering, time::Duration};

use stacyvm_control::{Caller, Control, Error, NewKey, SpawnRequest};
use stacyvm_store::{EventFilter, Include, KeyState};
use stacyvm_types::{OwnerId, Phase, Role};

use crate::{
    gate::Gate,
    world::{World, ttl},
};

const SECOND: Duration = Duration::from_secs(1);

fn owner(name: &str) -> OwnerId {
    OwnerId::parse(name).unwrap()
}

fn only(control: &Control, name: &str) -> Control {
    control.on_behalf_of(Caller { actor: format!("key:{name}"), only: Some(owner(name)) })
}

fn forbidden<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Forbidden(_))), "{result:?}");
}

/// R9.4 in part: the owner comes from the caller, whatever the request says.
#[tokio::test(start_paused = true)]
async fn what_a_confined_caller_makes_belongs_to_its_owner() {
    let world = World::new();
    let server = world.server(&Gate::open());
    let ann = only(&server.control, "ann");
    let made = ann.spawn(ttl(60)).await.unwrap();
    assert_eq!(made.spec.owner, Some(owner("ann")));
    let named = |name| SpawnRequest { owner: Some(owner(name)), ..ttl(60) };
    assert_eq!(ann.spawn(named("ann")).await.unwrap().spec.owner, Some(owner("ann")));
    forbidden(ann.spawn(named("bob")).await);
    forbidden(ann.admission(named("bob"), false).await);
    forbidden(ann.whole_server());
    assert!(server.control.whole_server().is_ok());
    assert_eq!(world.fake.count(), 2);
}

/// R9.4 in part: others, and those of nobody, are unknown to it; also to its prune.
#[tokio::test(start_paused = true)]
async fn a_confined_caller_prunes_and_destroys_its_own_sandboxes_only() {
    let world = World::new();
    let server = world.server(&Gate::open());
    let (ann, bob) = (only(&server.control, "ann"), only(&server.control, "bob"));
    let of_ann = ann.spawn(ttl(5)).await.unwrap().spec.id;
    let of_bob = bob.spawn(ttl(5)).await.unwrap().spec.id;
    let of_nobody = server.control.spawn(ttl(5)).await.unwrap().spec.id;
    for foreign in [&of_bob, &of_nobody] {
        assert!(matches!(ann.get(foreign).await, Err(Error::NoSandbox(_))));
        assert!(matches!(ann.get_any(foreign).await, Err(Error::NoSandbox(_))));
        assert!(matches!(ann.extend(foreign, SECOND).await, Err(Error::NoSandbox(_))));
        assert!(ann.destroy(foreign).await.is_ok(), "as of an unknown id");
    }
    assert_eq!(world.fake.count(), 3);
    world.clock.advance(6 * SECOND);
    assert_eq!(ann.prune().await.unwrap(), 1);
    assert_eq!(ann.prune().await.unwrap(), 0);
    assert_eq!(world.fake.count(), 2);
    let rows = ann.list(Include::Ended).await.unwrap();
    assert_eq!(rows.iter().map(|row| &row.spec.id).collect::<Vec<_>>(), [&of_ann]);
    let left = server.control.get_any(&of_bob).await.unwrap();
    assert!(matches!(left.phase, Phase::Running), "{left:?}");
    assert_eq!(server.control.prune().await.unwrap(), 2);
}

/// R2.5: events of others, and those of no owner, are not told.
#[tokio::test(start_paused = true)]
async fn a_confined_caller_reads_events_of_its_owner_only() {
    let world = World::new();
    let server = world.server(&Gate::open());
    let (ann, bob) = (only(&server.control, "ann"), only(&server.control, "bob"));
    for control in [&ann, &bob, &server.control] {
        control.spawn(ttl(60)).await.unwrap();
    }
    let events = ann.events(0, 100, EventFilter::default()).await.unwrap();
    assert!(!events.is_empty());
    assert!(events.iter().all(|event| event.owner == Some(owner("ann"))), "{events:?}");
    let of_bob = EventFilter { owner: Some(owner("bob")), ..EventFilter::default() };
    forbidden(ann.events(0, 100, of_bob).await);
}

/// R9.2: several, expiring, revocable, and their use is noted.
#[tokio::test(start_paused = true)]
async fn a_key_is_recognised_until_it_expires_or_is_revoked() {
    let world = World::new();
    let server = world.server(&Gate::open());
    let control = &server.control;
    assert!(!control.has_keys().await.unwrap());
    let new = |name: &str, ttl| NewKey {
        name: name.to_owned(),
        role: Role::Api,
        owner: None,
        speaks_for_others: false,
        ttl,
    };
    let short = control.create_key(new("short", Some(5 * SECOND))).await.unwrap();
    let long = control.create_key(new("long", None)).await.unwrap();
    assert!(matches!(control.create_key(new("long", None)).await, Err(Error::Conflict(_))));
    assert_eq!(control.recognise(&short.text).await.unwrap().unwrap().name, "short");
    let mixed = short.text.replace(&short.text[25..], &long.text[25..]);
    assert!(control.recognise(&mixed).await.unwrap().is_err(), "another key's secret");
    world.clock.advance(5 * SECOND);
    assert!(control.recognise(&short.text).await.unwrap().is_err());
    assert_eq!(control.recognise(&long.text).await.unwrap().unwrap().name, "long");
    // Nobody waits for the note of a use: it is there when the other tasks have run.
    while control.keys().await.unwrap().iter().any(|key| key.last_used_at.is_none()) {
        tokio::task::yield_now().await;
    }
    control.revoke_key(&long.key.id).await.unwrap();
    assert!(control.recognise(&long.text).await.unwrap().is_err());
    let states: Vec<_> = control
        .keys()
        .await
        .unwrap()
        .into_iter()
        .map(|key| (key.state(control.time()), key.last_used_at.is_some()))
        .collect();
    assert_eq!(states, [(KeyState::Revoked, true), (KeyState::Expired, true)]);
    assert!(control.has_keys().await.unwrap(), "a revoked key is one that was there");
}

/// R3.7: where wrong keys come in masses, none of them costs a look of its own at the store.
#[tokio::test(start_paused = true)]
async fn wrong_keys_are_told_by_one_list_for_all_of_them() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    let control = &server.control;
    let new = |name: &str| NewKey {
        name: name.to_owned(),
        role: Role::Api,
        owner: None,
        speaks_for_others: false,
        ttl: None,
    };
    let (good, gone) = (new("good"), new("gone"));
    let good = control.create_key(good).await.unwrap();
    let gone = control.create_key(gone).await.unwrap();
    let listed = async |text: &str| control.recognise_listed(text).await.unwrap().is_ok();
    assert!(listed(&good.text).await && listed(&gone.text).await);
    gate.store_is_down.store(true, Ordering::SeqCst);
    let mixed = good.text.replace(&good.text[25..], &gone.text[25..]);
    for number in 0..100 {
        let wrong = format!("svm_{number:020}_{}", &good.text[25..]);
        assert!(!listed(&wrong).await && !listed(&mixed).await && !listed("wrong").await);
    }
    assert!(control.recognise_listed(&good.text).await.is_err(), "a good one is looked up");
    gate.store_is_down.store(false, Ordering::SeqCst);
    control.revoke_key(&gone.key.id).await.unwrap();
    assert!(listed(&good.text).await && !listed(&gone.text).await);
    let made = control.create_key(new("made")).await.unwrap();
    assert!(listed(&made.text).await, "a key counts at once");
}
