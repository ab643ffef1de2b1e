//! Cases about forgetting.

use std::{sync::Arc, time::Duration};

use stacyvm_admission::Policy;
use stacyvm_types::{CauseKind, EventKind, Transition};

use super::{
    FIRST, admit, all_events, at,
    audit::{admin_request, operation},
    cause, event, exec_id, id, new_sandbox, steps,
};
use crate::{
    Durability::Disk,
    EventFilter, ExecLog, Include, Store,
    audit::{AdminFilter, OperationFilter},
    retention::{Swept, Walk},
};

async fn end(store: &Arc<dyn Store>, number: u8) {
    let stop = Transition::Stop(cause(CauseKind::Requested));
    steps(store, number, &[Transition::Started, stop, Transition::Gone]).await;
}

async fn log(store: &Arc<dyn Store>, number: u8, sandbox: u8, second: u64) {
    let log = ExecLog {
        id: exec_id(number),
        sandbox: id(sandbox),
        command: "true".to_owned(),
        exit_code: 0,
        reason: "exit".to_owned(),
        duration: Duration::ZERO,
        at: at(second),
    };
    store.log_exec(log).await.unwrap();
}

async fn left(store: &Arc<dyn Store>) -> Vec<u8> {
    let rows = store.sandboxes(Include::Ended).await.unwrap();
    let mut left: Vec<_> =
        (0..50).filter(|n| rows.iter().any(|row| row.spec.id == id(*n))).collect();
    left.sort_unstable();
    left
}

/// Live ones, leased ones and those that ended too recently stay; the rest goes with its commands.
pub async fn ended_sandboxes_are_removed_and_no_others(store: Arc<dyn Store>) {
    for number in 1..=6 {
        admit(&store, number, at(100)).await;
        log(&store, number, number, 1).await;
    }
    let stop = || Transition::Stop(cause(CauseKind::Requested));
    // 1 runs, 2 is being ended, 3, 4 and 5 ended at second 3, 6 ended late.
    steps(&store, 1, &[Transition::Started]).await;
    steps(&store, 2, &[Transition::Started, stop()]).await;
    for number in 3..=5 {
        end(&store, number).await;
    }
    steps(&store, 6, &[stop()]).await;
    store.transition(&id(6), FIRST, Transition::Gone, vec![], Disk, at(50)).await.unwrap();
    let nothing = store.prune_sandboxes(at(3), Walk::START, 100).await.unwrap();
    assert_eq!(nothing, Swept { removed: 0, next: None }, "ended at the limit is not before it");
    let swept = store.prune_sandboxes(at(50), Walk::START, 100).await.unwrap();
    assert_eq!(swept, Swept { removed: 6, next: None });
    assert_eq!(left(&store).await, [1, 2, 6]);
    assert_eq!(store.sandbox(&id(3)).await.unwrap(), None);
    assert_eq!(store.exec_logs(&id(3), 9).await.unwrap(), []);
    assert_eq!(store.exec_logs(&id(1), 9).await.unwrap().len(), 1);
    // The id is free again, as for one that never was.
    let again = new_sandbox(3, at(100));
    store.admit(&Policy::default(), again, Disk, at(49)).await.unwrap();
}

/// Each step looks at a few rows, and the walk comes to its end.
pub async fn a_walk_takes_small_steps_and_meets_every_sandbox(store: Arc<dyn Store>) {
    for number in 1..=7 {
        admit(&store, number, at(100)).await;
        if number % 2 == 1 {
            end(&store, number).await;
        }
    }
    let (mut from, mut steps, mut removed) = (Walk::START, 0, 0);
    loop {
        let swept = store.prune_sandboxes(at(90), from, 2).await.unwrap();
        steps += 1;
        removed += swept.removed;
        assert!(swept.removed <= 2);
        let Some(next) = swept.next else { break };
        from = next;
    }
    assert_eq!((steps, removed), (4, 4));
    assert_eq!(left(&store).await, [2, 4, 6]);
}

/// The records of its commands go first, in steps of their own.
pub async fn a_sandbox_with_many_commands_is_removed_in_small_steps(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    for number in 0..7 {
        log(&store, number, 1, u64::from(number)).await;
    }
    end(&store, 1).await;
    let step = async |from| store.prune_sandboxes(at(90), from, 3).await.unwrap();
    let swept = step(Walk::START).await;
    assert_eq!(swept, Swept { removed: 3, next: Some(Walk::START) });
    let kept = store.exec_logs(&id(1), 9).await.unwrap();
    assert_eq!((kept.len(), kept[3].at), (4, at(3)), "the oldest go first");
    assert_eq!(step(Walk::START).await.removed, 3);
    assert_eq!(left(&store).await, [1]);
    assert_eq!(step(Walk::START).await, Swept { removed: 2, next: None });
    assert_eq!(left(&store).await, Vec::<u8>::new());
}

/// By age, whosever they are, and only as many as asked for.
pub async fn old_records_of_commands_are_removed_oldest_first(store: Arc<dyn Store>) {
    for number in 1..=2 {
        admit(&store, number, at(100)).await;
    }
    for number in 0..6 {
        log(&store, number, 1 + number % 2, u64::from(number)).await;
    }
    assert_eq!(store.prune_exec_logs(at(4), 3).await.unwrap(), 3);
    assert_eq!(store.prune_exec_logs(at(4), 3).await.unwrap(), 1);
    assert_eq!(store.prune_exec_logs(at(4), 3).await.unwrap(), 0);
    assert_eq!(store.exec_logs(&id(1), 9).await.unwrap()[0].id, exec_id(4));
    assert_eq!(store.exec_logs(&id(2), 9).await.unwrap()[0].id, exec_id(5));
}

/// The log says up to where it was forgotten; ids go on above it.
pub async fn old_events_are_removed_and_the_log_says_up_to_where(store: Arc<dyn Store>) {
    assert_eq!(store.pruned_events().await.unwrap(), 0);
    for second in [1, 2, 900, 3, 10, 11] {
        store.append_events(vec![event(EventKind::FileRead, 1)], at(second)).await.unwrap();
    }
    assert_eq!(store.prune_events(at(1), 100).await.unwrap(), 0);
    assert_eq!(store.prune_events(at(10), 1).await.unwrap(), 1);
    assert_eq!(store.pruned_events().await.unwrap(), 1);
    assert_eq!(store.prune_events(at(10), 100).await.unwrap(), 3, "a clock was wrong once");
    assert_eq!(store.prune_events(at(10), 100).await.unwrap(), 0);
    assert_eq!(store.pruned_events().await.unwrap(), 4);
    let ids: Vec<_> = all_events(&store).await.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, [5, 6]);
    assert_eq!(store.prune_events(at(999), 100).await.unwrap(), 2);
    assert_eq!((store.pruned_events().await.unwrap(), store.last_event().await.unwrap()), (6, 6));
    store.append_events(vec![event(EventKind::FileRead, 1)], at(20)).await.unwrap();
    let next = store.events(0, 9, EventFilter::default()).await.unwrap();
    assert_eq!(next.iter().map(|event| event.id).collect::<Vec<_>>(), [7]);
}

/// Both kinds, each by itself.
pub async fn old_audit_records_are_removed_oldest_first(store: Arc<dyn Store>) {
    store.record_operations((1..=5).map(|n| operation(n, u64::from(n))).collect()).await.unwrap();
    store
        .record_admin_requests((1..=5).map(|n| admin_request(n, u64::from(n))).collect())
        .await
        .unwrap();
    assert_eq!(store.prune_operation_records(at(4), 2).await.unwrap(), 2);
    assert_eq!(store.prune_operation_records(at(4), 2).await.unwrap(), 1);
    assert_eq!(store.prune_operation_records(at(4), 2).await.unwrap(), 0);
    let left = store.operation_records(OperationFilter::default(), None, 9).await.unwrap();
    assert_eq!(left.rows, [operation(5, 5), operation(4, 4)]);
    assert_eq!(store.prune_admin_records(at(9), 100).await.unwrap(), 5);
    assert_eq!(store.admin_records(AdminFilter::default(), None, 9).await.unwrap().rows, []);
}
