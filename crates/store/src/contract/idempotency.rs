//! Cases about idempotency keys.

use std::{collections::BTreeSet, sync::Arc};

use stacyvm_types::Timestamp;

use super::{at, race, worker};
use crate::{Allowance, Answer, Begun, Durability::Disk, Error, NewKey, Store, Turn};

/// A key that is to be held by `w1` until second 60, with a resource of its own.
pub fn new_key(id: &str, fingerprint: &str, resource: &str) -> NewKey {
    NewKey {
        id: id.to_owned(),
        fingerprint: fingerprint.to_owned(),
        resource: resource.to_owned(),
        holder: worker("w1"),
        held_until: at(60),
    }
}

/// An answer with a body.
pub fn answer(body: &str) -> Answer {
    Answer { status: 201, content_type: "application/json".to_owned(), body: Some(body.to_owned()) }
}

async fn begin(store: &Arc<dyn Store>, key: NewKey, now: Timestamp) -> Begun {
    store.begin_key(key, Disk, now).await.unwrap()
}

fn turn(resource: &str, attempt: u64, second: u64) -> Turn {
    Turn { resource: resource.to_owned(), attempt, begun_at: at(second) }
}

/// The first caller gets the turn, with the resource that it chose.
pub async fn a_new_key_gives_the_turn_to_who_brings_it(store: Arc<dyn Store>) {
    let begun = begin(&store, new_key("k", "f", "r1"), at(1)).await;
    assert_eq!(begun, Begun::Yours(turn("r1", 1, 1)));
    let other = begin(&store, new_key("k2", "g", "r2"), at(2)).await;
    assert_eq!(other, Begun::Yours(turn("r2", 1, 2)), "keys are independent");
}

/// Before it is done and after.
pub async fn a_key_with_another_fingerprint_is_a_mismatch(store: Arc<dyn Store>) {
    begin(&store, new_key("k", "f", "r1"), at(1)).await;
    assert_eq!(begin(&store, new_key("k", "g", "r2"), at(2)).await, Begun::Mismatch);
    store.finish_key("k", 1, answer("{}"), None).await.unwrap();
    assert_eq!(begin(&store, new_key("k", "g", "r2"), at(3)).await, Begun::Mismatch);
}

/// The same holder again is its successor; another one waits until the time is over.
pub async fn a_turn_goes_on_with_its_resource_at_its_holder_or_when_its_time_is_over(
    store: Arc<dyn Store>,
) {
    begin(&store, new_key("k", "f", "r1"), at(1)).await;
    let again = begin(&store, new_key("k", "f", "r2"), at(2)).await;
    assert_eq!(again, Begun::Yours(turn("r1", 2, 1)));
    let other = NewKey { holder: worker("w2"), held_until: at(90), ..new_key("k", "f", "r3") };
    assert_eq!(begin(&store, other.clone(), at(59)).await, Begun::Held);
    let late = begin(&store, other, at(60)).await;
    assert_eq!(late, Begun::Yours(turn("r1", 3, 1)));
    assert_eq!(begin(&store, new_key("k", "f", "r4"), at(89)).await, Begun::Held);
}

/// Anybody may take it then.
pub async fn a_released_turn_is_free_at_once(store: Arc<dyn Store>) {
    begin(&store, new_key("k", "f", "r1"), at(1)).await;
    store.release_key("k", 1).await.unwrap();
    let other = NewKey { holder: worker("w2"), ..new_key("k", "f", "r2") };
    assert_eq!(begin(&store, other, at(2)).await, Begun::Yours(turn("r1", 2, 1)));
}

/// Byte for byte, to every holder, and never another one.
pub async fn a_kept_answer_is_given_back_and_never_changes(store: Arc<dyn Store>) {
    begin(&store, new_key("k", "f", "r1"), at(1)).await;
    let kept = answer("{\"a\":\"\u{2028}é😀\\u0000\"}\n");
    store.finish_key("k", 1, kept.clone(), None).await.unwrap();
    let other = NewKey { holder: worker("w2"), ..new_key("k", "f", "r2") };
    let done = Begun::Done(turn("r1", 1, 1), kept);
    assert_eq!(begin(&store, other.clone(), at(2)).await, done);
    let refused = store.finish_key("k", 1, answer("other"), None).await;
    assert!(matches!(refused, Err(Error::LeaseLost)), "{refused:?}");
    store.release_key("k", 1).await.unwrap();
    assert_eq!(begin(&store, other, at(3)).await, done);
    let bodiless = Answer { body: None, ..answer("") };
    begin(&store, new_key("b", "f", "r1"), at(1)).await;
    store.finish_key("b", 1, bodiless.clone(), None).await.unwrap();
    let done = begin(&store, new_key("b", "f", "r2"), at(2)).await;
    assert_eq!(done, Begun::Done(turn("r1", 1, 1), bodiless));
}

/// Each caller has its own; what is forgotten makes room, and an answer without a body takes none.
pub async fn bodies_of_one_caller_take_no_more_than_its_allowance(store: Arc<dyn Store>) {
    let of = |caller: &str| Some(Allowance { caller: caller.to_owned(), bytes: 10 });
    let finish = async |id: &str, body: Option<&str>, allowance: Option<Allowance>, second| {
        begin(&store, new_key(id, "f", "r"), at(second)).await;
        let answer = Answer { body: body.map(str::to_owned), ..answer("") };
        store.finish_key(id, 1, answer, allowance).await.unwrap();
        match begin(&store, new_key(id, "f", "r"), at(second)).await {
            Begun::Done(_, answer) => answer.body.as_deref() == body,
            other => panic!("{other:?}"),
        }
    };
    assert!(finish("a", Some("six__6"), of("ann"), 1).await);
    assert!(!finish("b", Some("five5"), of("ann"), 2).await, "eleven are too many");
    assert!(finish("c", Some("é__"), of("ann"), 2).await, "ten bytes are not");
    assert!(!finish("d", Some("1"), of("ann"), 2).await);
    assert!(finish("e", None, of("ann"), 2).await);
    assert!(finish("f", Some("five5"), of("bob"), 2).await, "another caller has its own");
    assert!(finish("g", Some("five5"), None, 2).await, "what is not counted is kept");
    let refused = store.finish_key("a", 1, answer("1"), of("cid")).await;
    assert!(matches!(refused, Err(Error::LeaseLost)), "{refused:?}");
    assert!(finish("h", Some("ten_____10"), of("cid"), 2).await, "what was refused took nothing");
    assert_eq!(store.prune_keys(at(2), 9).await.unwrap(), 1);
    assert!(finish("i", Some("six__6"), of("ann"), 3).await, "what is forgotten makes room");
    assert!(!finish("j", Some("1"), of("ann"), 3).await);
}

/// The one that was taken over says nothing any more.
pub async fn only_the_last_turn_says_how_it_went(store: Arc<dyn Store>) {
    begin(&store, new_key("k", "f", "r1"), at(1)).await;
    begin(&store, new_key("k", "f", "r2"), at(2)).await;
    for late in [
        store.finish_key("k", 1, answer("late"), None).await,
        store.renew_key("k", 1, "late").await,
        store.finish_key("nobody", 1, answer("late"), None).await,
    ] {
        assert!(matches!(late, Err(Error::LeaseLost)), "{late:?}");
    }
    store.release_key("k", 1).await.unwrap();
    let other = NewKey { holder: worker("w2"), ..new_key("k", "f", "r3") };
    assert_eq!(begin(&store, other, at(3)).await, Begun::Held);
    store.finish_key("k", 2, answer("last"), None).await.unwrap();
}

/// Longer than it was taken for, or shorter; not one that was released, taken over or done.
pub async fn a_turn_is_held_for_as_long_as_its_holder_says(store: Arc<dyn Store>) {
    let other =
        |until| NewKey { holder: worker("w2"), held_until: at(until), ..new_key("k", "f", "r2") };
    begin(&store, new_key("k", "f", "r1"), at(1)).await;
    store.hold_key("k", 1, at(100)).await.unwrap();
    assert_eq!(begin(&store, other(200), at(99)).await, Begun::Held);
    store.hold_key("k", 1, at(80)).await.unwrap();
    let late = begin(&store, other(200), at(80)).await;
    assert_eq!(late, Begun::Yours(turn("r1", 2, 1)));
    let refused = async |attempt| {
        let held = store.hold_key("k", attempt, at(300)).await;
        assert!(matches!(held, Err(Error::LeaseLost)), "{held:?}");
    };
    refused(1).await;
    assert_eq!(begin(&store, new_key("k", "f", "r3"), at(199)).await, Begun::Held);
    store.release_key("k", 2).await.unwrap();
    refused(2).await;
    let freed = begin(&store, new_key("k", "f", "r3"), at(90)).await;
    assert_eq!(freed, Begun::Yours(turn("r1", 3, 1)), "nobody holds what was released");
    store.finish_key("k", 3, answer("{}"), None).await.unwrap();
    refused(3).await;
    let unknown = store.hold_key("nobody", 1, at(300)).await;
    assert!(matches!(unknown, Err(Error::LeaseLost)), "{unknown:?}");
}

/// For work that has to begin anew.
pub async fn a_renewed_key_has_its_new_resource_from_then_on(store: Arc<dyn Store>) {
    begin(&store, new_key("k", "f", "r1"), at(1)).await;
    store.renew_key("k", 1, "r9").await.unwrap();
    let again = begin(&store, new_key("k", "f", "r2"), at(2)).await;
    assert_eq!(again, Begun::Yours(turn("r9", 2, 1)));
}

/// One turn, and the others are told to wait.
pub async fn one_of_sixteen_holders_gets_a_new_key(store: Arc<dyn Store>) {
    let answers = race((0..16).map(|number| {
        let store = store.clone();
        let key = NewKey {
            holder: worker(&format!("w{number}")),
            ..new_key("k", "f", &format!("r{number}"))
        };
        async move { begin(&store, key, at(1)).await }
    }))
    .await;
    let winners = answers.iter().filter(|begun| matches!(begun, Begun::Yours(_))).count();
    let held = answers.iter().filter(|begun| **begun == Begun::Held).count();
    assert_eq!((winners, held), (1, 15));
}

/// Oldest first, at most as many as asked for, done or not; the instant itself is kept.
pub async fn old_keys_are_pruned_oldest_first_up_to_the_limit(store: Arc<dyn Store>) {
    for (id, second) in [("c", 3), ("a", 1), ("d", 4), ("b", 2)] {
        begin(&store, new_key(id, "f", "r"), at(second)).await;
    }
    store.finish_key("a", 1, answer("{}"), None).await.unwrap();
    assert_eq!(store.prune_keys(at(4), 0).await.unwrap(), 0);
    assert_eq!(store.prune_keys(at(4), 2).await.unwrap(), 2);
    let mut left = BTreeSet::new();
    for id in ["c", "d"] {
        if begin(&store, new_key(id, "other", "r"), at(9)).await == Begun::Mismatch {
            left.insert(id);
        }
    }
    assert_eq!(left, BTreeSet::from(["c", "d"]));
    assert_eq!(store.prune_keys(at(4), 9).await.unwrap(), 1);
    assert_eq!(store.prune_keys(at(4), 9).await.unwrap(), 0);
    let late = store.finish_key("c", 1, answer("{}"), None).await;
    assert!(matches!(late, Err(Error::LeaseLost)), "{late:?}");
}
