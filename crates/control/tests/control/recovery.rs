//! What follows the death of a server at any instant.

use std::time::Duration;

use stacyvm_control::{Control, ExecRequest};
use stacyvm_provider::Program;
use stacyvm_types::{CauseKind, EventKind, Phase, SandboxId};

use crate::{
    gate::Gate,
    world::{World, end_of, request, ttl},
};

/// What a client knows after its calls.
#[derive(Default)]
struct Known {
    spawned: Option<SandboxId>,
    asked_to_destroy: bool,
    destroyed: bool,
}

async fn story(control: &Control, known: &mut Known) {
    let Ok(row) = control.spawn(ttl(600)).await else { return };
    let id = row.spec.id;
    known.spawned = Some(id.clone());
    let exec = ExecRequest::new(Program::Shell("echo x".to_owned()));
    let _ = control.exec_collect(&id, exec).await;
    let _ = control.extend(&id, Duration::from_secs(900)).await;
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
    gate.store_is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    world.pass_time(Duration::from_secs(60)).await;
    assert_eq!(world.fake.count(), 1);
    assert!(server.control.jobs().iter().all(|job| 0 < job.failures_in_row));
    assert!(server.control.recover().await.is_err());
    gate.store_is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    world.pass_time(Duration::from_secs(15)).await;
    assert!(server.control.jobs().iter().all(|job| job.failures_in_row == 0));
    world.assert_agrees().await;
}
