//! What follows the death of a server at any instant.

use std::{sync::atomic::Ordering, time::Duration};

use stacyvm_control::{Control, Error, ExecRequest};
use stacyvm_provider::Program;
use stacyvm_store::WorkerStore;
use stacyvm_types::{CauseKind, EventKind, Phase, SandboxId, Timestamp};

use crate::{
    fake::Fault,
    gate::Gate,
    world::{Server, World, end_of, image, request, ttl},
};

fn say(word: &str) -> ExecRequest {
    ExecRequest::new(Program::Shell(format!("echo {word}")))
}

/// What a client knows after its calls.
#[derive(Default)]
struct Known {
    spawned: Option<SandboxId>,
    deadline: Option<Timestamp>,
    asked_to_destroy: bool,
    destroyed: bool,
}

async fn story(control: &Control, known: &mut Known) {
    let Ok(row) = control.spawn(ttl(600)).await else { return };
    let id = row.spec.id;
    known.spawned = Some(id.clone());
    let exec = ExecRequest::new(Program::Shell("echo x".to_owned()));
    let _ = control.exec_collect(&id, exec).await;
    let extended = control.extend(&id, Duration::from_secs(900)).await;
    known.deadline = extended.ok().map(|row| row.spec.expires_at);
    known.asked_to_destroy = true;
    known.destroyed = control.destroy(&id).await.is_ok();
}

/// R1.8: a sweep over every instant, not a sample.
#[tokio::test(start_paused = true)]
async fn a_server_that_dies_at_any_effect_leaks_nothing_and_loses_nothing() {
    for moments in 0.. {
        let world = World::new();
        let gate = Gate::dying_after(moments);
        let server = world.server(&gate);
        let mut known = Known::default();
        let survived = tokio::select! {
            biased;
            () = story(&server.control, &mut known) => true,
            () = gate.dead.cancelled() => false,
        };
        let next = world.start().await;
        world.assert_agrees().await;
        match &known {
            Known { spawned: Some(id), asked_to_destroy: false, .. } => {
                assert_eq!(next.control.get(id).await.unwrap().phase, Phase::Running);
            }
            Known { spawned: Some(id), destroyed: true, .. } => {
                let row = next.control.get_any(id).await.unwrap();
                assert_eq!(end_of(&row), CauseKind::Requested);
            }
            _ => {}
        }
        if survived {
            assert!(20 < moments, "the story has more effects than {moments}");
            return;
        }
    }
}

/// The same story, but the host dies, with every runtime and with what only its kernel had.
#[tokio::test(start_paused = true)]
async fn a_host_that_dies_at_any_effect_keeps_every_decision_and_ends_what_ran() {
    for moments in 0.. {
        let mut world = World::new();
        let gate = Gate::dying_after(moments);
        let server = world.server(&gate);
        let mut known = Known::default();
        let survived = tokio::select! {
            biased;
            () = story(&server.control, &mut known) => true,
            () = gate.dead.cancelled() => false,
        };
        world.lose_power();
        let next = world.start().await;
        world.assert_agrees().await;
        assert!(world.rows().await.iter().all(|row| !row.phase.is_live()));
        if let Some(id) = &known.spawned {
            let row = next.control.get_any(id).await.unwrap();
            match end_of(&row) {
                CauseKind::Requested => assert!(known.asked_to_destroy),
                CauseKind::LaunchInterrupted => assert_eq!(known.deadline, None),
                cause => assert_eq!(cause, CauseKind::RuntimeDied),
            }
            assert!(!known.destroyed || end_of(&row) == CauseKind::Requested, "an answered end");
            assert!(known.deadline.is_none_or(|deadline| deadline == row.spec.expires_at));
        }
        if survived {
            assert!(known.destroyed && 20 < moments, "the story has more effects than {moments}");
            return;
        }
    }
}

/// Why a sandbox ended when the host died after `story`.
async fn end_after_power_loss(story: impl AsyncFn(&World, &Server) -> SandboxId) -> CauseKind {
    let mut world = World::new();
    let server = world.start().await;
    let id = story(&world, &server).await;
    world.lose_power();
    let next = world.start().await;
    world.assert_agrees().await;
    end_of(&next.control.get_any(&id).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_host_ran_ends_with_the_cause_that_its_disk_tells() {
    let spawned = async |request, server: &Server| {
        let row = server.control.spawn(request).await.unwrap();
        assert_eq!(row.phase, Phase::Running);
        row.spec.id
    };
    let longer = async |id: &SandboxId, server: &Server| {
        server.control.extend(id, Duration::from_secs(900)).await.unwrap();
    };
    let until_stopping = async |id: &SandboxId, world: &World, server: &Server| {
        while !matches!(server.control.get_any(id).await.unwrap().phase, Phase::Stopping(_)) {
            world.pass_time(Duration::from_millis(100)).await;
        }
    };

    // Nothing that waits for the disk followed: the disk knows of the start alone.
    let end = end_after_power_loss(async |_, server| spawned(ttl(600), server).await).await;
    assert_eq!(end, CauseKind::LaunchInterrupted);

    let end = end_after_power_loss(async |_, server| {
        let id = spawned(ttl(600), server).await;
        longer(&id, server).await;
        id
    });
    assert_eq!(end.await, CauseKind::RuntimeDied);

    // An end that was asked for and not answered.
    let end = end_after_power_loss(async |world, server| {
        world.fake.is_stuck.store(true, Ordering::SeqCst);
        let id = spawned(image("stuck"), server).await;
        longer(&id, server).await;
        // What waits for the disk later would take the decision along.
        world.pass_time(Duration::from_secs(1)).await;
        let (control, asked) = (server.control.clone(), id.clone());
        server.tasks.spawn(async move { control.destroy(&asked).await });
        until_stopping(&id, world, server).await;
        id
    });
    assert_eq!(end.await, CauseKind::RuntimeDied);

    // And one of which it was answered that it is decided.
    let end = end_after_power_loss(async |world, server| {
        let id = spawned(ttl(600), server).await;
        world.fake.destructions.lock().unwrap().push_back(Fault::Clean);
        let answer = server.control.destroy(&id).await.unwrap_err();
        assert!(matches!(answer, Error::Unavailable(_)), "{answer:?}");
        id
    });
    assert_eq!(end.await, CauseKind::Requested);

    // The deadline is over again.
    let end = end_after_power_loss(async |world, server| {
        world.fake.is_stuck.store(true, Ordering::SeqCst);
        let id = spawned(image("stuck"), server).await;
        server.control.extend(&id, Duration::from_secs(2)).await.unwrap();
        until_stopping(&id, world, server).await;
        id
    });
    assert_eq!(end.await, CauseKind::Expired);
}

/// Found by real processes under faults: what a stopping server waits for no longer was answered as
/// a bug.
#[test]
fn what_a_server_did_not_wait_for_when_it_stopped_is_unavailable() {
    let [servers, clients] = [0, 1].map(|_| tokio::runtime::Runtime::new().unwrap());
    let world = World::new();
    let (control, id) = servers.block_on(async {
        let control = world.server(&Gate::open()).control;
        control.recover().await.unwrap();
        let id = control.spawn(image("stuck")).await.unwrap().spec.id;
        (control, id)
    });
    world.fake.is_stuck.store(true, Ordering::SeqCst);
    let mut asked = Box::pin(async move { control.destroy(&id).await });
    servers.block_on(std::future::poll_fn(|cx| {
        assert!(asked.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    }));
    servers.shutdown_background();
    let answer = clients.block_on(&mut asked).unwrap_err();
    assert!(matches!(answer, Error::Unavailable(_)), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn live_sandboxes_are_adopted_and_take_work_after_a_restart() {
    let world = World::new();
    let first = world.start().await;
    let id = first.control.spawn(request()).await.unwrap().spec.id;
    first.stopping.cancel();
    let second = world.start().await;
    let exec = ExecRequest::new(Program::Shell("echo x".to_owned()));
    assert_eq!(second.control.exec_collect(&id, exec).await.unwrap().stdout, b"x");
    assert_eq!(world.fake.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_expired_while_the_server_was_down_ends_at_its_start() {
    let world = World::new();
    let first = world.server(&Gate::open());
    first.control.spawn(ttl(10)).await.unwrap();
    world.clock.advance(Duration::from_secs(60));
    world.start().await;
    assert_eq!(end_of(&world.rows().await[0]), CauseKind::Expired);
    assert!(world.kinds().await.contains(&EventKind::ReconcileAction));
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_no_row_names_is_destroyed_and_it_is_told() {
    let world = World::new();
    let other = World::new();
    let server = other.start().await;
    let id = server.control.spawn(request()).await.unwrap().spec.id;
    let stray = other.fake.runtimes.lock().unwrap()[&id].clone();
    let server = world.start().await;
    let kept = server.control.spawn(request()).await.unwrap().spec.id;
    world.fake.runtimes.lock().unwrap().insert(id, stray);
    world.pass_time(Duration::from_secs(15)).await;
    assert_eq!(world.fake.count(), 1);
    server.control.get(&kept).await.unwrap();
    assert_eq!(world.kinds().await.pop(), Some(EventKind::ReconcileAction));
}

/// A store that does not answer is no proof of anything.
#[tokio::test(start_paused = true)]
async fn nothing_is_destroyed_because_the_store_is_down() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    server.control.start_jobs();
    server.control.spawn(request()).await.unwrap();
    gate.store_is_down.store(true, Ordering::SeqCst);
    world.pass_time(Duration::from_secs(60)).await;
    assert_eq!(world.fake.count(), 1);
    let jobs = server.control.jobs();
    // Nobody waits in the queue, so its job asks for nothing.
    assert!(
        jobs.iter()
            .all(|job| ["queue", "retention"].contains(&job.name) || 0 < job.failures_in_row)
    );
    assert!(server.control.recover().await.is_err());
    gate.store_is_down.store(false, Ordering::SeqCst);
    world.pass_time(Duration::from_secs(15)).await;
    assert!(server.control.jobs().iter().all(|job| job.failures_in_row == 0));
    world.assert_agrees().await;
}

/// A store that was restored elsewhere names another data directory, and a server may have had
/// another name: neither comes back to a store that one server has for itself.
#[tokio::test(start_paused = true)]
async fn a_server_takes_the_place_of_its_former_selves() {
    let world = World::new();
    world.start().await;
    let server = world.server_with(&Gate::open(), |settings| {
        settings.membership.instance = "restored".to_owned();
    });
    server.control.recover().await.unwrap();
    let row = server.control.spawn(request()).await.unwrap();
    let fresh = async |server: &Server| {
        let now = server.control.time();
        let workers = WorkerStore::workers(world.store.as_ref()).await.unwrap();
        let fresh = workers.into_iter().filter(|(row, _)| row.is_fresh(now));
        fresh.map(|(row, _)| row.beat.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(fresh(&server).await, ["local"]);
    let renamed = world.server_of("renamed", &Gate::open(), |_| {});
    renamed.control.join().await.unwrap();
    assert_eq!(fresh(&renamed).await, ["renamed"], "its old name has lapsed");
    assert_eq!(row.spec.worker.as_str(), "local");
    let refused = renamed.control.exec_collect(&row.spec.id, say("x")).await.unwrap_err();
    assert!(
        matches!(&refused, Error::WrongState { phase: Phase::Unhealthy(_), .. }),
        "{refused:?}"
    );
}
