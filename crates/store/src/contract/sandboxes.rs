//! Cases about the rows of sandboxes and their commands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stacyvm_admission::Policy;
use stacyvm_types::{Cause, CauseKind, EventKind, Generation, Lease, Phase, Transition};

use super::{
    FIRST, NOW, admit, all_events, at, cause, event, exec_id, id, map, new_sandbox, owner, race,
    steps, worker,
};
use crate::{
    Durability::{Disk, Kernel},
    Error, ExecLog, Include, Sandbox, Store,
};

/// Admit returns and keeps the row, its first lease and its event.
pub async fn an_admitted_sandbox_is_remembered_with_its_lease_and_event(store: Arc<dyn Store>) {
    let row = store.admit(&Policy::default(), new_sandbox(1, at(100)), Disk, at(7)).await.unwrap();
    assert_eq!(
        row,
        Sandbox {
            spec: new_sandbox(1, at(100)),
            latest_end: at(100),
            phase: Phase::Creating,
            generation: FIRST,
            version: 1,
            created_at: at(7),
            updated_at: at(7),
        }
    );
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(row));
    let lease = Lease { holder: worker("w1"), generation: FIRST, expires_at: at(50) };
    assert_eq!(store.lease(&id(1)).await.unwrap(), Some(lease));
    let events = all_events(&store).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].id, 1);
    assert_eq!(events[0].kind, EventKind::SandboxCreated);
    assert_eq!(events[0].sandbox, Some(id(1)));
    assert_eq!(events[0].owner, Some(owner("ann")));
    assert_eq!(events[0].at, at(7));
    assert_eq!(events[0].data, map(&[("image", "host"), ("provider", "mock")]));

    let mut plain = new_sandbox(2, at(100));
    (plain.owner, plain.template) = (None, None);
    plain.metadata.clear();
    let row = store.admit(&Policy::default(), plain.clone(), Disk, at(8)).await.unwrap();
    assert_eq!(row.spec, plain);
    assert_eq!(store.sandbox(&id(2)).await.unwrap(), Some(row));
}

/// A second admit of an id is refused, whatever became of the first.
pub async fn a_known_id_is_not_admitted_again_and_nothing_changes(store: Arc<dyn Store>) {
    let first = admit(&store, 1, at(100)).await;
    let mut again = new_sandbox(1, at(900));
    again.worker = worker("w2");
    let refused = store.admit(&Policy::default(), again.clone(), Disk, at(5)).await;
    assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(first));
    assert_eq!(store.lease(&id(1)).await.unwrap().unwrap().holder, worker("w1"));
    assert_eq!(all_events(&store).await.len(), 1);

    let end = [Transition::Stop(cause(CauseKind::Requested)), Transition::Gone];
    steps(&store, 1, &end).await;
    let refused = store.admit(&Policy::default(), again, Disk, at(6)).await;
    assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
}

/// Racing admits of one id: one row, one event.
pub async fn one_of_many_concurrent_admits_of_an_id_wins(store: Arc<dyn Store>) {
    let results =
        race(
            (0..16).map(|_| {
                let store = store.clone();
                async move {
                    store.admit(&Policy::default(), new_sandbox(1, at(100)), Disk, at(0)).await
                }
            }),
        )
        .await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::Conflict))), "{results:?}");
    assert_eq!(all_events(&store).await.len(), 1);
}

/// The row after a transition is returned and kept, with its events.
pub async fn a_transition_changes_the_phase_and_appends_its_events(store: Arc<dyn Store>) {
    let before = admit(&store, 1, at(100)).await;
    let events = vec![event(EventKind::SandboxRunning, 1), event(EventKind::ReconcileAction, 1)];
    let after =
        store.transition(&id(1), FIRST, Transition::Started, events, Disk, at(3)).await.unwrap();
    let expected = Sandbox { phase: Phase::Running, version: 2, updated_at: at(3), ..before };
    assert_eq!(after, expected);
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(expected));
    let events = all_events(&store).await;
    let kinds: Vec<_> = events.iter().map(|e| (e.id, e.kind, e.at)).collect();
    assert_eq!(
        kinds,
        [
            (1, EventKind::SandboxCreated, at(0)),
            (2, EventKind::SandboxRunning, at(3)),
            (3, EventKind::ReconcileAction, at(3)),
        ]
    );
}

/// What has only reached the kernel is read like everything else, and built on.
pub async fn a_transition_that_only_reached_the_kernel_is_read_at_once(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let events = || vec![event(EventKind::SandboxRunning, 1)];
    let after = store
        .transition(&id(1), FIRST, Transition::Started, events(), Kernel, at(3))
        .await
        .unwrap();
    assert_eq!(after.phase, Phase::Running);
    assert_eq!(store.sandbox(&id(1)).await.unwrap().as_ref(), Some(&after));
    assert_eq!(store.last_event().await.unwrap(), 2);
    assert_eq!(all_events(&store).await[1].kind, EventKind::SandboxRunning);
    // Asked for again, and this time to stay.
    let same =
        store.transition(&id(1), FIRST, Transition::Started, events(), Disk, at(4)).await.unwrap();
    assert_eq!(same, after);
    let refused = store.transition(&id(1), FIRST, Transition::Gone, events(), Kernel, at(5)).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let stop = Transition::Stop(cause(CauseKind::Requested));
    store.transition(&id(1), FIRST, stop, vec![], Kernel, at(6)).await.unwrap();
    let row = store.transition(&id(1), FIRST, Transition::Gone, events(), Disk, at(7)).await;
    assert!(!row.unwrap().phase.is_live());
    let ids: Vec<_> = all_events(&store).await.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, [1, 2, 3]);
}

/// Admitted for the kernel, then taken to the disk: the row is the same all along.
pub async fn a_sandbox_admitted_to_the_kernel_is_read_at_once_and_can_be_synced(
    store: Arc<dyn Store>,
) {
    store.sync().await.unwrap();
    for number in 1..=3 {
        let new = new_sandbox(number, at(100));
        let row = store.admit(&Policy::default(), new.clone(), Kernel, at(0)).await.unwrap();
        assert_eq!((&row.spec, &row.phase, row.version), (&new, &Phase::Creating, 1));
        assert_eq!(store.sandbox(&id(number)).await.unwrap().as_ref(), Some(&row));
        assert_eq!(store.last_event().await.unwrap(), u64::from(number));
        let syncs = race((0..4).map(|_| {
            let store = store.clone();
            async move { store.sync().await }
        }));
        assert!(syncs.await.iter().all(Result::is_ok));
        assert_eq!(store.sandbox(&id(number)).await.unwrap(), Some(row));
        let refused = store.admit(&Policy::default(), new, Kernel, at(1)).await;
        assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
    }
}

/// An accepted transition asked for again returns the row as it is.
pub async fn a_repeated_transition_changes_nothing_and_appends_nothing(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let stop = |kind| Transition::Stop(cause(kind));
    for (once, again) in [
        (Transition::Started, Transition::Started),
        (stop(CauseKind::RuntimeDied), stop(CauseKind::Requested)),
        (Transition::Gone, Transition::Gone),
    ] {
        let events = vec![event(EventKind::SandboxRunning, 1)];
        let row = store.transition(&id(1), FIRST, once, events.clone(), Disk, at(3)).await.unwrap();
        let count = all_events(&store).await.len();
        let same = store.transition(&id(1), FIRST, again, events, Disk, at(9)).await.unwrap();
        assert_eq!(same, row);
        assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(row));
        assert_eq!(all_events(&store).await.len(), count);
    }
    let row = store.sandbox(&id(1)).await.unwrap().unwrap();
    assert_eq!(row.phase, Phase::Ended(cause(CauseKind::RuntimeDied)), "the first cause stays");
}

/// The generation is looked at before the phase.
pub async fn a_transition_with_another_generation_is_fenced(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let lease = store.acquire_lease(&id(1), &worker("w1"), NOW, at(1)).await.unwrap();
    let before = store.sandbox(&id(1)).await.unwrap();
    for (generation, transition) in [
        (FIRST, Transition::Started),
        (FIRST, Transition::Gone),
        (Generation(3), Transition::Started),
        (Generation(u64::MAX), Transition::Started),
    ] {
        let events = vec![event(EventKind::SandboxRunning, 1)];
        let refused = store.transition(&id(1), generation, transition, events, Disk, at(2)).await;
        assert!(matches!(refused, Err(Error::Fenced)), "{refused:?}");
    }
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), before);
    assert_eq!(all_events(&store).await.len(), 1);
    let row = store
        .transition(&id(1), lease.generation, Transition::Started, vec![], Disk, at(2))
        .await
        .unwrap();
    assert_eq!(row.phase, Phase::Running);
}

/// A refusal names the phase and the transition.
pub async fn a_refused_transition_changes_nothing(store: Arc<dyn Store>) {
    let before = admit(&store, 1, at(100)).await;
    let events = vec![event(EventKind::SandboxDestroyed, 1)];
    let refused = store.transition(&id(1), FIRST, Transition::Gone, events, Disk, at(2)).await;
    let Err(Error::Refused(why)) = refused else { panic!("{refused:?}") };
    assert_eq!((why.phase, why.transition), (Phase::Creating, Transition::Gone));
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(before));
    assert_eq!(all_events(&store).await.len(), 1);
}

/// Phases keep their causes, kind and sentence.
pub async fn every_phase_and_cause_is_read_back_as_written(store: Arc<dyn Store>) {
    let mut number = 0;
    for kind in CauseKind::ALL {
        for (transitions, phase) in [
            (vec![Transition::Started], Phase::Running),
            (vec![Transition::Started, Transition::Paused], Phase::Paused),
            (vec![Transition::Stop(cause(*kind))], Phase::Stopping(cause(*kind))),
            (vec![Transition::Stop(cause(*kind)), Transition::Gone], Phase::Ended(cause(*kind))),
        ] {
            number += 1;
            admit(&store, number, at(1)).await;
            let row = steps(&store, number, &transitions).await;
            assert_eq!(row.phase, phase);
            assert_eq!(store.sandbox(&id(number)).await.unwrap(), Some(row));
        }
    }
    // The cause of a loss is the phase's, whatever its reporter has seen.
    let why = || "its worker is silent".to_owned();
    for (before, kind) in [
        (vec![], CauseKind::LaunchInterrupted),
        (vec![Transition::Started], CauseKind::WorkerLost),
        (vec![Transition::Started, Transition::Paused], CauseKind::WorkerLost),
    ] {
        number += 1;
        admit(&store, number, at(100)).await;
        steps(&store, number, &before).await;
        let row = steps(&store, number, &[Transition::Lost(why())]).await;
        assert_eq!(row.phase, Phase::Unhealthy(Cause::new(kind, why())));
        assert_eq!(store.sandbox(&id(number)).await.unwrap(), Some(row));
        assert_eq!(steps(&store, number, &[Transition::Recovered]).await.phase, Phase::Running);
    }
}

/// Racing reporters of one fact append it once.
pub async fn concurrent_transitions_append_one_event(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let results =
        race((0..16).map(|_| {
            let store = store.clone();
            let events = vec![event(EventKind::SandboxRunning, 1)];
            async move {
                store.transition(&id(1), FIRST, Transition::Started, events, Disk, at(2)).await
            }
        }))
        .await;
    for row in results {
        let row = row.unwrap();
        assert_eq!((row.phase, row.version), (Phase::Running, 2));
    }
    assert_eq!(all_events(&store).await.len(), 2);
}

/// Whoever reads a row, alone or in a list, and reads it again finds it as it was or newer, while
/// others change it in every way and some of them are refused.
pub async fn a_row_is_never_older_than_it_was_read_before(store: Arc<dyn Store>) {
    admit(&store, 1, at(1_000_000)).await;
    steps(&store, 1, &[Transition::Started]).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..3 {
        let (store, done) = (store.clone(), done.clone());
        readers.spawn(async move {
            let mut seen = 0;
            let mut number = reader;
            while !done.load(Ordering::SeqCst) {
                number += 1;
                let row = match number % 4 {
                    0 => store.sandboxes(Include::Live).await.unwrap().remove(0),
                    _ => store.sandbox(&id(1)).await.unwrap().unwrap(),
                };
                assert!(seen <= row.version, "version {} after {seen}", row.version);
                seen = row.version;
                tokio::task::yield_now().await;
            }
        });
    }
    race((0..3_u64).map(|writer| {
        let store = store.clone();
        async move {
            for number in 0..60 {
                let row = store.sandbox(&id(1)).await.unwrap().unwrap();
                let transition = match row.phase {
                    Phase::Running => Transition::Paused,
                    _ => Transition::Resumed,
                };
                let (id, now) = (id(1), at(100 + number));
                // Refused to whoever comes second; the rest is about what readers see.
                drop(match (number + writer) % 3 {
                    0 => store.extend(&id, at(2_000_000), vec![], now).await.map(drop),
                    1 => store.acquire_lease(&id, &worker("w2"), NOW, now).await.map(drop),
                    _ => store
                        .transition(&id, row.generation, transition, vec![], Kernel, now)
                        .await
                        .map(drop),
                });
            }
        }
    }))
    .await;
    done.store(true, Ordering::SeqCst);
    readers.join_all().await;
    let row = store.sandbox(&id(1)).await.unwrap().unwrap();
    assert_eq!(store.sandboxes(Include::Live).await.unwrap(), [row]);
}

/// Extend returns the row after; how long the lease holds is its holder's.
pub async fn extending_moves_the_deadline_and_not_the_lease(store: Arc<dyn Store>) {
    let before = admit(&store, 1, at(100)).await;
    let events = vec![event(EventKind::SandboxExtended, 1)];
    let after = store.extend(&id(1), at(200), events, at(99)).await.unwrap();
    let mut expected = Sandbox { version: 2, updated_at: at(99), latest_end: at(200), ..before };
    expected.spec.expires_at = at(200);
    assert_eq!(after, expected);
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(expected));
    let lease = store.lease(&id(1)).await.unwrap().unwrap();
    assert_eq!((lease.expires_at, lease.generation), (at(50), FIRST));
    assert_eq!(all_events(&store).await[1].kind, EventKind::SandboxExtended);

    store.release_lease(&id(1), &worker("w1"), FIRST).await.unwrap();
    let sooner = store.extend(&id(1), at(150), vec![], at(99)).await.unwrap();
    assert_eq!((sooner.spec.expires_at, sooner.latest_end), (at(150), at(200)));
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(sooner));
    assert_eq!(store.lease(&id(1)).await.unwrap(), None);
}

/// What is unhealthy, stopping or ended keeps its deadline; the refusal shows the row.
pub async fn only_a_creating_running_or_paused_sandbox_is_extended(store: Arc<dyn Store>) {
    let requested = || cause(CauseKind::Requested);
    let extendable =
        [vec![], vec![Transition::Started], vec![Transition::Started, Transition::Paused]];
    let others = [
        vec![Transition::Lost("its worker is silent".to_owned())],
        vec![Transition::Stop(requested())],
        vec![Transition::Stop(requested()), Transition::Gone],
    ];
    for (transitions, number) in extendable.iter().zip(1..) {
        admit(&store, number, at(100)).await;
        steps(&store, number, transitions).await;
        store.extend(&id(number), at(200), vec![], at(9)).await.unwrap();
    }
    for (transitions, number) in others.iter().zip(10..) {
        admit(&store, number, at(100)).await;
        let row = steps(&store, number, transitions).await;
        let lease = store.lease(&id(number)).await.unwrap();
        let count = all_events(&store).await.len();
        let events = vec![event(EventKind::SandboxExtended, number)];
        let refused = store.extend(&id(number), at(200), events, at(9)).await;
        let Err(Error::WrongPhase(shown)) = refused else { panic!("{refused:?}") };
        assert_eq!(*shown, row);
        assert_eq!(store.sandbox(&id(number)).await.unwrap(), Some(row));
        assert_eq!(store.lease(&id(number)).await.unwrap(), lease);
        assert_eq!(all_events(&store).await.len(), count);
    }
}

/// The reaper's deadline and extend's agree to the microsecond.
pub async fn an_expired_sandbox_is_not_extended(store: Arc<dyn Store>) {
    let row = admit(&store, 1, at(100)).await;
    let refused = store.extend(&id(1), at(200), vec![], at(100)).await;
    let Err(Error::WrongPhase(shown)) = refused else { panic!("{refused:?}") };
    assert_eq!(*shown, row);
    let just_before = stacyvm_types::Timestamp::from_micros(at(100).as_micros() - 1);
    store.extend(&id(1), at(200), vec![], just_before).await.unwrap();
}

/// Whoever looks at it from elsewhere sees that somebody works on it.
pub async fn a_start_that_goes_on_is_told_of_and_changes_nothing_else(store: Arc<dyn Store>) {
    let before = admit(&store, 1, at(100)).await;
    let after = store.still_creating(&id(1), at(7)).await.unwrap();
    assert_eq!(after, Sandbox { version: 2, updated_at: at(7), ..before });
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(after));
    assert_eq!(all_events(&store).await.len(), 1);
    let running = steps(&store, 1, &[Transition::Started]).await;
    let refused = store.still_creating(&id(1), at(8)).await;
    let Err(Error::WrongPhase(shown)) = refused else { panic!("{refused:?}") };
    assert_eq!(*shown, running);
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(running));
    let refused = store.still_creating(&id(2), at(8)).await;
    assert!(matches!(refused, Err(Error::NotFound)), "{refused:?}");
}

/// Whoever finds it due reads the row first, and its deadline may be moved before the decision.
pub async fn a_sandbox_does_not_expire_before_its_deadline(store: Arc<dyn Store>) {
    admit(&store, 1, at(100)).await;
    let extended = store.extend(&id(1), at(200), vec![], at(99)).await.unwrap();
    let expire = async |now| {
        let transition = Transition::Stop(cause(CauseKind::Expired));
        let events = vec![event(EventKind::SandboxExpired, 1)];
        store.transition(&id(1), FIRST, transition, events, Disk, at(now)).await
    };
    let count = all_events(&store).await.len();
    let refused = expire(199).await;
    let Err(Error::WrongPhase(shown)) = refused else { panic!("{refused:?}") };
    assert_eq!(*shown, extended);
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), Some(extended));
    assert_eq!(all_events(&store).await.len(), count);
    let ended = expire(200).await.unwrap();
    assert_eq!(expire(199).await.unwrap(), ended, "repeated");
}

/// Reads say `None`, changes say `NotFound`.
pub async fn an_unknown_sandbox_is_not_found(store: Arc<dyn Store>) {
    assert_eq!(store.sandbox(&id(1)).await.unwrap(), None);
    assert_eq!(store.lease(&id(1)).await.unwrap(), None);
    assert_eq!(store.exec_logs(&id(1), 10).await.unwrap(), []);
    let events = vec![event(EventKind::SandboxRunning, 1)];
    let moved =
        store.transition(&id(1), FIRST, Transition::Started, events.clone(), Disk, at(1)).await;
    assert!(matches!(moved, Err(Error::NotFound)), "{moved:?}");
    let extended = store.extend(&id(1), at(200), events, at(1)).await;
    assert!(matches!(extended, Err(Error::NotFound)), "{extended:?}");
    assert_eq!(store.last_event().await.unwrap(), 0);
}

/// The deadline is inclusive, the order is by deadline and then id.
pub async fn expired_sandboxes_come_oldest_deadline_first_up_to_the_limit(store: Arc<dyn Store>) {
    for (number, deadline) in [(1, 30), (2, 10), (3, 20), (4, 20), (5, 31)] {
        admit(&store, number, at(deadline)).await;
    }
    let ids = async |now, limit| {
        let rows = store.expired(at(now), limit).await.unwrap();
        rows.into_iter().map(|row| row.spec.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(9, 10).await, []);
    assert_eq!(ids(10, 10).await, [id(2)]);
    assert_eq!(ids(30, 10).await, [id(2), id(3), id(4), id(1)]);
    assert_eq!(ids(30, 2).await, [id(2), id(3)]);
    assert_eq!(ids(30, 0).await, []);
}

/// An unhealthy sandbox expires, one whose end is decided does not.
pub async fn sandboxes_that_stop_or_ended_do_not_expire(store: Arc<dyn Store>) {
    let stop = Transition::Stop(cause(CauseKind::Requested));
    for (number, transitions) in [
        (1, vec![Transition::Lost("its worker is silent".to_owned())]),
        (2, vec![stop.clone()]),
        (3, vec![stop, Transition::Gone]),
        (4, vec![Transition::Started, Transition::Paused]),
    ] {
        admit(&store, number, at(u64::from(number))).await;
        steps(&store, number, &transitions).await;
    }
    let rows = store.expired(at(100), 10).await.unwrap();
    let ids: Vec<_> = rows.into_iter().map(|row| row.spec.id).collect();
    assert_eq!(ids, [id(1), id(4)]);
}

/// It moves with extends and ends.
pub async fn the_next_expiry_is_the_earliest_that_still_matters(store: Arc<dyn Store>) {
    assert_eq!(store.next_expiry().await.unwrap(), None);
    admit(&store, 1, at(30)).await;
    admit(&store, 2, at(20)).await;
    assert_eq!(store.next_expiry().await.unwrap(), Some(at(20)));
    store.extend(&id(2), at(40), vec![], at(1)).await.unwrap();
    assert_eq!(store.next_expiry().await.unwrap(), Some(at(30)));
    steps(&store, 1, &[Transition::Stop(cause(CauseKind::Requested))]).await;
    assert_eq!(store.next_expiry().await.unwrap(), Some(at(40)));
    steps(&store, 2, &[Transition::Stop(cause(CauseKind::Requested)), Transition::Gone]).await;
    assert_eq!(store.next_expiry().await.unwrap(), None);
}

/// By creation, then id, both falling; ended ones only when asked for.
pub async fn sandboxes_are_listed_newest_first(store: Arc<dyn Store>) {
    for (number, created) in [(1, 5), (2, 9), (3, 5), (4, 7)] {
        store
            .admit(&Policy::default(), new_sandbox(number, at(100)), Disk, at(created))
            .await
            .unwrap();
    }
    let stop = Transition::Stop(cause(CauseKind::Requested));
    steps(&store, 4, &[stop.clone(), Transition::Gone]).await;
    steps(&store, 1, &[stop]).await;
    let ids = async |include| {
        let rows = store.sandboxes(include).await.unwrap();
        rows.into_iter().map(|row| row.spec.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(Include::Live).await, [id(2), id(3), id(1)]);
    assert_eq!(ids(Include::Ended).await, [id(2), id(4), id(3), id(1)]);
}

/// The first record of a command stays; they are read newest first. Commands of two sandboxes may
/// have the same id.
pub async fn a_finished_command_is_recorded_once(store: Arc<dyn Store>) {
    let log = |number: u8, sandbox: u8, second: u64| ExecLog {
        id: exec_id(number),
        sandbox: id(sandbox),
        command: format!("echo {number} \u{0} ü"),
        exit_code: -i32::from(number),
        reason: "signal".to_owned(),
        duration: Duration::from_nanos(1_500_999),
        at: at(second),
    };
    let unknown = store.log_exec(log(1, 1, 1)).await;
    assert!(matches!(unknown, Err(Error::NotFound)), "{unknown:?}");
    admit(&store, 1, at(100)).await;
    admit(&store, 2, at(100)).await;
    for (number, second) in [(1, 3), (2, 9), (3, 3)] {
        store.log_exec(log(number, 1, second)).await.unwrap();
    }
    for second in [50, 60] {
        store.log_exec(log(2, 2, second)).await.unwrap();
    }
    let of = |sandbox, number, second| ExecLog {
        duration: Duration::from_micros(1_500),
        ..log(number, sandbox, second)
    };
    let kept = |number, second| of(1, number, second);
    let logs = store.exec_logs(&id(1), 10).await.unwrap();
    assert_eq!(logs, [kept(2, 9), kept(3, 3), kept(1, 3)]);
    assert_eq!(store.exec_logs(&id(1), 1).await.unwrap(), [kept(2, 9)]);
    assert_eq!(store.exec_logs(&id(2), 10).await.unwrap(), [of(2, 2, 50)]);
    assert_eq!(store.exec_log(&id(1), &exec_id(2)).await.unwrap(), Some(kept(2, 9)));
    assert_eq!(store.exec_log(&id(2), &exec_id(2)).await.unwrap(), Some(of(2, 2, 50)));
    assert_eq!(store.exec_log(&id(2), &exec_id(3)).await.unwrap(), None);
}
