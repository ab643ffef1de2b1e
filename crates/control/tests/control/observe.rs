//! What operators see, and that seeing it never hangs.

use std::{sync::atomic::Ordering, time::Duration};

use stacyvm_control::{Caller, Error, SpawnRequest};
use stacyvm_types::OwnerId;
use tokio::time::{Instant, sleep};

use crate::world::{World, request};

/// R2.7: whoever asks gets the answer from before while a look hangs, and the bad one after it.
#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_keeps_nobody_waiting() {
    let world = World::new();
    let server = world.start().await;
    assert!(server.control.ready().await.is_ready());
    world.fake.is_silent.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(5)).await;
    let begun = Instant::now();
    let providers = server.control.providers().await;
    assert!(begun.elapsed() <= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(providers[0].probe.usable, "nothing else is known yet");
    let begun = Instant::now();
    let overview = server.control.overview().await;
    assert!(begun.elapsed() <= Duration::from_millis(100), "{:?}", begun.elapsed());
    assert_eq!(overview.providers.len(), 1);
    sleep(Duration::from_secs(3)).await;
    let readiness = server.control.ready().await;
    assert!(!readiness.is_ready() && readiness.store.is_ok());
    assert_eq!(readiness.providers[0].probe.summary, "it did not answer within 2 s");
}

/// R2.7: also the first look is bounded.
#[tokio::test(start_paused = true)]
async fn a_provider_that_never_answered_is_reported_so() {
    let world = World::new();
    world.fake.is_silent.store(true, Ordering::SeqCst);
    let server = world.start().await;
    let begun = Instant::now();
    assert!(!server.control.ready().await.is_ready());
    assert!(begun.elapsed() <= Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// R2.7: many who ask at once cause one look.
#[tokio::test(start_paused = true)]
async fn looks_are_shared_and_kept_for_a_moment() {
    let world = World::new();
    let server = world.start().await;
    let all = (0..32).map(|_| server.control.providers());
    let answers = futures_util::future::join_all(all).await;
    assert!(answers.iter().all(|reports| reports[0].default && reports[0].probe.usable));
    assert_eq!(world.fake.looks.load(Ordering::SeqCst), 1);
    sleep(Duration::from_secs(3)).await;
    server.control.overview().await;
    assert_eq!(world.fake.looks.load(Ordering::SeqCst), 2);
}

/// R2.4: a count is shared too, and is fresh again soon.
#[tokio::test(start_paused = true)]
async fn sandboxes_are_counted_by_state_provider_and_worker() {
    let world = World::new();
    let server = world.start().await;
    server.control.spawn(request()).await.unwrap();
    let (_, census) = server.control.overview().await.census.unwrap();
    assert_eq!((census.total, census.by_state.get("running")), (1, Some(&1)));
    assert_eq!(census.by_provider.get("fake"), Some(&1));
    assert_eq!(census.by_worker.get("local"), Some(&1));
    assert_eq!(census.leases.total, 1);
    server.control.spawn(request()).await.unwrap();
    let (age, old) = server.control.overview().await.census.unwrap();
    assert_eq!(old.total, 1, "counted {age:?} ago");
    sleep(Duration::from_secs(6)).await;
    let (_, census) = server.control.overview().await.census.unwrap();
    assert_eq!(census.total, 2);
}

/// R2.7: who asks about a provider again and again has its sandboxes counted once in a while.
#[tokio::test(start_paused = true)]
async fn sandboxes_of_a_provider_are_counted_once_for_all_who_ask() {
    let world = World::new();
    let gate = crate::gate::Gate::open();
    let server = world.server(&gate);
    let of = |name: &str| Some(OwnerId::parse(name).unwrap());
    for owner in [of("ann"), of("ann"), of("bob"), None] {
        server.control.spawn(SpawnRequest { owner, ..request() }).await.unwrap();
    }
    let caller = |only| Caller { actor: "key:k".to_owned(), only };
    let ann = server.control.on_behalf_of(caller(of("ann")));
    let cid = server.control.on_behalf_of(caller(of("cid")));
    for is_down in [false, true] {
        gate.store_is_down.store(is_down, Ordering::SeqCst);
        for (control, count) in [(&server.control, 4), (&ann, 2), (&cid, 0)] {
            assert_eq!(control.sandboxes_of_provider("fake").await.unwrap(), count);
            assert_eq!(control.sandboxes_of_provider("none").await.unwrap(), 0);
        }
    }
    sleep(Duration::from_secs(61)).await;
    let unknown = server.control.sandboxes_of_provider("fake").await;
    assert!(matches!(unknown, Err(Error::Unavailable(_))), "{unknown:?}");
}

/// R2.8: a store that is away is said to be away, and what it said last is not for ever.
#[tokio::test(start_paused = true)]
async fn a_count_is_given_for_a_minute_after_the_store_is_gone() {
    let world = World::new();
    let gate = crate::gate::Gate::open();
    let server = world.server(&gate);
    assert!(server.control.overview().await.census.is_some());
    gate.store_is_down.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(50)).await;
    assert!(server.control.overview().await.census.is_some());
    sleep(Duration::from_secs(20)).await;
    let overview = server.control.overview().await;
    assert!(overview.census.is_none() && overview.events.total.is_none());
    assert!(server.control.store_answers().await.is_err());
}
