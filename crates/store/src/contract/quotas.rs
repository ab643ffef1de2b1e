//! Cases about quotas, and about the places that admissions take.

use std::{sync::Arc, time::Duration};

use stacyvm_admission::{Full, Policy, Refusal, Usage, Weight};
use stacyvm_types::{Beat, CauseKind, EventKind, Resources, Transition};

use super::{all_events, at, beat, cause, event, id, new_sandbox, owner, race, steps, worker};
use crate::{
    Durability::{Disk, Kernel},
    Error, NewSandbox, Quota, QuotaCounts, QuotaFields, Standing, Store,
};

fn fields() -> QuotaFields {
    QuotaFields {
        max_sandboxes: Some(3),
        max_ttl: Some(Duration::from_micros(31)),
        max_exec_timeout: Some(Duration::from_micros(32)),
        weight: Weight::new(5),
    }
}

/// What was decided last is what is read, each decision with its events.
pub async fn a_quota_is_decided_replaced_and_removed(store: Arc<dyn Store>) {
    let ann = owner("ann");
    assert_eq!(store.quota(&ann).await.unwrap(), None);
    let nanos = Duration::from_nanos(999);
    let asked = QuotaFields { max_ttl: fields().max_ttl.map(|ttl| ttl + nanos), ..fields() };
    let saved = vec![event(EventKind::QuotaSaved, 1)];
    let made = store.put_quota(&ann, asked, saved.clone(), at(1)).await.unwrap();
    let quota =
        Quota { owner: ann.clone(), fields: fields(), created_at: at(1), updated_at: at(1) };
    assert_eq!(made, quota);
    assert_eq!(store.quota(&ann).await.unwrap(), Some(quota.clone()));

    let nothing = QuotaFields::default();
    let replaced = store.put_quota(&ann, nothing, saved, at(2)).await.unwrap();
    assert_eq!(replaced, Quota { fields: nothing, updated_at: at(2), ..quota });
    assert_eq!(store.quotas().await.unwrap(), [replaced]);

    let deleted = vec![event(EventKind::QuotaDeleted, 1)];
    store.delete_quota(&ann, deleted.clone(), at(3)).await.unwrap();
    assert_eq!(store.quota(&ann).await.unwrap(), None);
    let again = store.delete_quota(&ann, deleted, at(4)).await;
    assert!(matches!(again, Err(Error::NotFound)), "{again:?}");
    let kinds: Vec<_> = all_events(&store).await.into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::QuotaSaved, EventKind::QuotaSaved, EventKind::QuotaDeleted]);
}

/// The list is by owner, and the counts say how many and of which kind.
pub async fn quotas_are_listed_by_owner_and_counted_by_kind(store: Arc<dyn Store>) {
    assert_eq!(store.quota_counts().await.unwrap(), QuotaCounts::default());
    let none = QuotaFields::default();
    for (name, fields) in [
        ("b", fields()),
        ("a", none),
        ("ä", QuotaFields { max_ttl: fields().max_ttl, ..none }),
        ("B", QuotaFields { max_sandboxes: Some(1), ..none }),
    ] {
        store.put_quota(&owner(name), fields, vec![], at(1)).await.unwrap();
    }
    let owners: Vec<_> =
        store.quotas().await.unwrap().into_iter().map(|quota| quota.owner.to_string()).collect();
    assert_eq!(owners, ["B", "a", "b", "ä"]);
    let counts =
        QuotaCounts { total: 4, with_max_sandboxes: 2, with_max_ttl: 2, with_max_exec_timeout: 1 };
    assert_eq!(store.quota_counts().await.unwrap(), counts);
}

/// What that many sandboxes of the contract take.
fn places(sandboxes: u64) -> Resources {
    Resources { sandboxes, memory_mb: 11 * sandboxes, vcpus: 12 * sandboxes }
}

fn of(name: Option<&str>, on: &str, number: u8) -> NewSandbox {
    NewSandbox { owner: name.map(owner), worker: worker(on), ..new_sandbox(number, at(100)) }
}

async fn admit(
    store: &Arc<dyn Store>,
    policy: &Policy,
    new: NewSandbox,
) -> crate::Result<crate::Sandbox> {
    store.admit(policy, new, Kernel, at(0)).await
}

fn full<T: std::fmt::Debug>(result: crate::Result<T>) -> Full {
    match result {
        Err(Error::Full(full)) => full,
        other => panic!("{other:?}"),
    }
}

/// Each limit admits up to itself, refuses without a trace, and admits again after an end; a
/// decided end is not one yet.
pub async fn a_full_limit_admits_again_when_a_sandbox_has_ended(store: Arc<dyn Store>) {
    let cases = [
        (Policy { max_sandboxes: 2, ..Policy::default() }, Full::Total { max: 2 }),
        (Policy { max_per_owner: 2, ..Policy::default() }, Full::Owner { max: 2 }),
    ];
    for ((policy, limit), first) in cases.into_iter().zip([10, 20]) {
        let new = |number| of(Some("ann"), "w1", first + number);
        for number in 0..2 {
            admit(&store, &policy, new(number)).await.unwrap();
        }
        let events = store.last_event().await.unwrap();
        assert_eq!(full(admit(&store, &policy, new(2)).await), limit);
        assert_eq!(store.sandbox(&id(first + 2)).await.unwrap(), None);
        assert_eq!(store.last_event().await.unwrap(), events);

        steps(&store, first, &[Transition::Stop(cause(CauseKind::Requested))]).await;
        assert_eq!(full(admit(&store, &policy, new(2)).await), limit, "its runtime may live");
        steps(&store, first, &[Transition::Gone]).await;
        admit(&store, &policy, new(2)).await.unwrap();
        assert_eq!(full(admit(&store, &policy, new(3)).await), limit, "one place, one sandbox");
        for number in 1..3 {
            let end = [Transition::Stop(cause(CauseKind::Requested)), Transition::Gone];
            steps(&store, first + number, &end).await;
        }
    }
}

/// Others' sandboxes, and those of nobody, do not count for an owner; others' not for a worker.
pub async fn limits_count_what_they_are_about(store: Arc<dyn Store>) {
    let policy = Policy { max_per_owner: 1, ..Policy::default() };
    let max = Resources { sandboxes: 3, ..Resources::default() };
    store.beat(Beat { capacity: max, ..beat("w1") }, None, at(0)).await.unwrap();
    for (number, (name, on)) in
        (0..).zip([(Some("ann"), "w1"), (Some("bob"), "w1"), (None, "w1"), (None, "w2")])
    {
        admit(&store, &policy, of(name, on, number)).await.unwrap();
    }
    assert_eq!(
        full(admit(&store, &policy, of(Some("ann"), "w2", 9)).await),
        Full::Owner { max: 1 }
    );
    assert_eq!(full(admit(&store, &policy, of(None, "w1", 9)).await), Full::Worker { max });
    admit(&store, &policy, of(None, "w2", 9)).await.unwrap();
}

/// A quota replaces the policy's limits for its owner, at once.
pub async fn a_quota_replaces_the_policys_limits_for_its_owner(store: Arc<dyn Store>) {
    let policy =
        Policy { max_per_owner: 1, max_ttl: Some(Duration::from_secs(100)), ..Policy::default() };
    let ann = |number| of(Some("ann"), "w1", number);
    admit(&store, &policy, ann(1)).await.unwrap();
    let two = QuotaFields { max_sandboxes: Some(2), ..QuotaFields::default() };
    store.put_quota(&owner("ann"), two, vec![], at(1)).await.unwrap();
    admit(&store, &policy, ann(2)).await.unwrap();
    assert_eq!(full(admit(&store, &policy, ann(3)).await), Full::Owner { max: 2 });

    let short = QuotaFields { max_ttl: Some(Duration::from_secs(99)), ..QuotaFields::default() };
    store.put_quota(&owner("bob"), short, vec![], at(1)).await.unwrap();
    let refused = admit(&store, &policy, of(Some("bob"), "w1", 4)).await;
    let max = Duration::from_secs(99);
    assert!(matches!(refused, Err(Error::NotAllowed(Refusal::Ttl { max: m })) if m == max));
    admit(&store, &policy, of(None, "w1", 5)).await.unwrap();
    store.delete_quota(&owner("bob"), vec![], at(2)).await.unwrap();
    admit(&store, &policy, of(Some("bob"), "w1", 4)).await.unwrap();
}

/// A retry of an admission that happened must learn so.
pub async fn a_known_id_is_a_conflict_also_where_nothing_is_free(store: Arc<dyn Store>) {
    let policy = Policy { max_sandboxes: 1, ..Policy::default() };
    admit(&store, &policy, of(None, "w1", 1)).await.unwrap();
    let again = admit(&store, &policy, of(None, "w1", 1)).await;
    assert!(matches!(again, Err(Error::Conflict)), "{again:?}");
}

/// R3.2: whatever the concurrency, a limit is met exactly.
pub async fn racing_admissions_meet_the_limit_exactly(store: Arc<dyn Store>) {
    let policy = Policy { max_sandboxes: 20, max_per_owner: 7, ..Policy::default() };
    let results = race((0..64_u8).map(|number| {
        let (store, policy) = (store.clone(), policy.clone());
        let name = ["ann", "bob", "cid", "dan"][usize::from(number % 4)];
        async move {
            let new = of(Some(name), "w1", number);
            store.admit(&policy, new, Disk, at(0)).await.map(|row| row.spec.owner)
        }
    }))
    .await;
    let admitted: Vec<_> = results.into_iter().filter_map(Result::ok).collect();
    assert_eq!(admitted.len(), 20);
    for name in ["ann", "bob", "cid", "dan"] {
        let of_owner = admitted.iter().filter(|o| **o == Some(owner(name))).count();
        assert!(of_owner <= 7, "{name}: {of_owner}");
        let standing = store.standing(Some(&owner(name)), &worker("w1")).await.unwrap();
        let owner = of_owner as u64;
        assert_eq!(standing.usage, Usage { total: 20, owner, worker: places(20) });
    }
}

/// What is known about an owner is its quota and what is taken.
pub async fn a_standing_is_the_quota_and_the_places_taken(store: Arc<dyn Store>) {
    let empty = store.standing(Some(&owner("ann")), &worker("w1")).await.unwrap();
    assert_eq!(empty, Standing::default());
    let open = Policy::default();
    for (number, name, on) in [(1, Some("ann"), "w1"), (2, None, "w1"), (3, Some("ann"), "w2")] {
        admit(&store, &open, of(name, on, number)).await.unwrap();
    }
    let quota = store.put_quota(&owner("ann"), fields(), vec![], at(1)).await.unwrap();
    let standing = store.standing(Some(&owner("ann")), &worker("w1")).await.unwrap();
    let usage = Usage { total: 3, owner: 2, worker: places(2) };
    assert_eq!(standing, Standing { quota: Some(quota), usage });
    let nobody = store.standing(None, &worker("w3")).await.unwrap();
    let usage = Usage { total: 3, owner: 0, worker: places(0) };
    assert_eq!(nobody, Standing { quota: None, usage });
}
