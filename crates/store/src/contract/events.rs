//! Cases about the event log.

use std::sync::Arc;

use stacyvm_admission::Policy;
use stacyvm_types::{EventKind, Transition};

use super::{FIRST, admit, all_events, at, event, id, map, new_sandbox, owner, race};
use crate::{Durability::Disk, EventFilter, Include, NewEvent, Store};

/// Paging by the last id seen.
pub async fn events_are_read_in_order_after_an_id_up_to_a_limit(store: Arc<dyn Store>) {
    assert_eq!(store.last_event().await.unwrap(), 0);
    assert_eq!(all_events(&store).await, []);
    store.append_events(vec![], at(1)).await.unwrap();
    assert_eq!(store.last_event().await.unwrap(), 0);
    let batch = |n: u8| (0..n).map(|i| event(EventKind::FileRead, i)).collect::<Vec<_>>();
    store.append_events(batch(3), at(1)).await.unwrap();
    store.append_events(batch(2), at(2)).await.unwrap();
    assert_eq!(store.last_event().await.unwrap(), 5);
    let ids = async |after, limit| {
        let events = store.events(after, limit, EventFilter::default()).await.unwrap();
        events.into_iter().map(|event| event.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(0, 10).await, [1, 2, 3, 4, 5]);
    assert_eq!(ids(0, 2).await, [1, 2]);
    assert_eq!(ids(2, 2).await, [3, 4]);
    assert_eq!(ids(4, 10).await, [5]);
    assert_eq!(ids(5, 10).await, []);
    assert_eq!(ids(u64::MAX, 10).await, []);
    assert_eq!(ids(0, 0).await, []);
    let all = all_events(&store).await;
    assert_eq!((all[0].at, all[4].at), (at(1), at(2)));
    assert_eq!(all[4].sandbox, Some(id(1)), "order within a call is kept");
}

/// Fields that are set must all match; `after` and `limit` count what matches.
pub async fn filters_match_sandbox_owner_and_kind(store: Arc<dyn Store>) {
    let new = |kind, sandbox: Option<u8>, owned: Option<&str>| NewEvent {
        kind,
        sandbox: sandbox.map(id),
        owner: owned.map(owner),
        data: map(&[]),
    };
    let events = vec![
        new(EventKind::SandboxCreated, Some(1), Some("ann")),
        new(EventKind::SandboxCreated, Some(2), Some("bob")),
        new(EventKind::ExecStarted, Some(1), Some("ann")),
        new(EventKind::ProviderFailed, None, None),
        new(EventKind::ExecStarted, Some(1), Some("bob")),
        new(EventKind::SandboxExpired, Some(1), None),
    ];
    store.append_events(events, at(1)).await.unwrap();
    let ids = async |after, limit, sandbox: Option<u8>, owned: Option<&str>, kinds: &[_]| {
        let filter = EventFilter {
            sandbox: sandbox.map(id),
            owner: owned.map(owner),
            kinds: kinds.to_vec(),
        };
        let events = store.events(after, limit, filter).await.unwrap();
        events.into_iter().map(|event| event.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(0, 9, Some(1), None, &[]).await, [1, 3, 5, 6]);
    assert_eq!(ids(0, 9, None, Some("bob"), &[]).await, [2, 5]);
    assert_eq!(ids(0, 9, Some(1), Some("bob"), &[]).await, [5]);
    assert_eq!(ids(0, 9, None, None, &[EventKind::SandboxCreated]).await, [1, 2]);
    let two = [EventKind::ExecStarted, EventKind::ProviderFailed];
    assert_eq!(ids(0, 9, None, None, &two).await, [3, 4, 5]);
    assert_eq!(ids(3, 1, None, None, &two).await, [4]);
    assert_eq!(ids(0, 9, Some(1), Some("ann"), &two).await, [3]);
    assert_eq!(ids(0, 9, None, None, EventKind::ALL).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(ids(0, 9, Some(3), None, &[]).await, []);
}

/// Ids rise by one, whoever appends.
pub async fn concurrent_events_get_gapless_ids(store: Arc<dyn Store>) {
    race((1..=16).map(|number| {
        let store = store.clone();
        async move {
            store
                .admit(&Policy::default(), new_sandbox(number, at(100)), Disk, at(0))
                .await
                .unwrap();
            // A refused call in between must not use up an id.
            store
                .admit(&Policy::default(), new_sandbox(number, at(100)), Disk, at(0))
                .await
                .unwrap_err();
            let pair = vec![event(EventKind::FileRead, number); 2];
            store.append_events(pair, at(1)).await.unwrap();
        }
    }))
    .await;
    let ids: Vec<_> = all_events(&store).await.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=48).collect::<Vec<_>>());
    assert_eq!(store.last_event().await.unwrap(), 48);
}

/// What was read is never added to behind the reader's back, also while others write.
pub async fn a_reader_that_follows_the_log_sees_every_event_once_in_order(store: Arc<dyn Store>) {
    const WRITERS: u8 = 6;
    const EACH: u64 = 25;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..EACH {
                let events = vec![event(EventKind::FileWritten, number)];
                store.append_events(events, at(1)).await.unwrap();
            }
        });
    }
    let mut seen = Vec::new();
    let mut pages_after_the_last_writer = 0;
    while seen.len() < usize::from(WRITERS) * 25 {
        // A store that loses events must fail here and not make the reader wait for ever.
        while writers.try_join_next().is_some() {}
        pages_after_the_last_writer += usize::from(writers.is_empty());
        assert!(pages_after_the_last_writer < 100, "only {seen:?} can be read");
        let after = seen.last().copied().unwrap_or(0);
        let page = store.events(after, 7, EventFilter::default()).await.unwrap();
        assert!(page.len() <= 7);
        seen.extend(page.into_iter().map(|event| event.id));
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    assert_eq!(seen, (1..=u64::from(WRITERS) * EACH).collect::<Vec<_>>());
}

/// Change and event are one: both or neither.
pub async fn a_failed_change_leaves_no_event(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let events = || vec![event(EventKind::SandboxDestroyed, 1)];
    store.transition(&id(1), FIRST, Transition::Resumed, events(), Disk, at(1)).await.unwrap_err();
    store.extend(&id(1), at(200), events(), at(100)).await.unwrap_err();
    assert_eq!(store.last_event().await.unwrap(), 1);
    assert_eq!(store.sandboxes(Include::Live).await.unwrap().len(), 1);
}

/// Quotes, NUL, line separators and wildcards are only bytes.
pub async fn texts_are_kept_byte_for_byte(store: Arc<dyn Store>) {
    let odd = "'; DROP TABLE events; -- \" \\ \u{0} \n \u{2028} % _ ü 🦀";
    let mut new = new_sandbox(1, at(100));
    new.image = odd.to_owned();
    new.metadata = map(&[(odd, odd)]);
    new.env = map(&[(odd, odd)]);
    store.admit(&Policy::default(), new.clone(), Disk, at(0)).await.unwrap();
    assert_eq!(store.sandbox(&id(1)).await.unwrap().unwrap().spec, new);
    let events = all_events(&store).await;
    assert_eq!(events[0].data["image"], odd);
}
