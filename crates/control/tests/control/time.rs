//! Deadlines.

use std::time::Duration;

use stacyvm_control::{Error, ExecRequest, SpawnRequest};
use stacyvm_provider::Program;
use stacyvm_store::Include;
use stacyvm_types::{CauseKind, EventKind, Phase};

use crate::{
    gate::Gate,
    world::{World, end_of, ended, request, ttl},
};

const SECOND: Duration = Duration::from_secs(1);

/// R1.6: within a second of the deadline, also when it is nearer than the one waited for.
#[tokio::test(start_paused = true)]
async fn an_expired_sandbox_is_gone_within_a_second() {
    let world = World::new();
    let server = world.start().await;
    server.control.spawn(ttl(3600)).await.unwrap();
    world.pass_time(SECOND).await;
    let row = server.control.spawn(ttl(30)).await.unwrap();
    world.pass_time(29 * SECOND).await;
    assert_eq!(world.fake.count(), 2);
    world.pass_time(2 * SECOND).await;
    assert_eq!(world.fake.count(), 1);
    assert_eq!(end_of(&server.control.get_any(&row.spec.id).await.unwrap()), CauseKind::Expired);
    assert!(world.kinds().await.contains(&EventKind::SandboxExpired));
    world.assert_agrees().await;
}

/// R1.6: whether or not anybody has cleaned up yet.
#[tokio::test(start_paused = true)]
async fn an_expired_sandbox_refuses_work_at_once() {
    let world = World::new();
    let server = world.server(&Gate::open());
    let id = server.control.spawn(ttl(5)).await.unwrap().spec.id;
    world.clock.advance(5 * SECOND);
    let exec = ExecRequest::new(Program::Shell("echo x".to_owned()));
    assert_eq!(ended(server.control.exec_collect(&id, exec).await), CauseKind::Expired);
    assert_eq!(ended(server.control.get(&id).await), CauseKind::Expired);
    assert_eq!(ended(server.control.extend(&id, SECOND).await), CauseKind::Expired);
    assert_eq!(ended(server.control.stat_file(&id, "/x").await), CauseKind::Expired);
    assert!(server.control.list(Include::Live).await.unwrap().is_empty());
    assert_eq!(world.fake.count(), 1);
    assert_eq!(server.control.prune().await.unwrap(), 1);
    assert_eq!(server.control.prune().await.unwrap(), 0);
    world.assert_agrees().await;
}

/// R1.6
#[tokio::test(start_paused = true)]
async fn an_extension_never_passes_the_longest_life() {
    let world = World::new();
    let server = world.start().await;
    let row = server.control.spawn(ttl(60)).await.unwrap();
    let id = row.spec.id;
    let hour = 3600 * SECOND;
    let error = server.control.extend(&id, 25 * hour).await.unwrap_err();
    assert_eq!(error.to_string(), "resource limit exceeded: ttl exceeds max ttl 24h0m0s");
    assert!(matches!(server.control.extend(&id, Duration::ZERO).await, Err(Error::Invalid(_))));
    world.clock.advance(10 * SECOND);
    let extended = server.control.extend(&id, 30 * SECOND).await.unwrap();
    assert_eq!(extended.spec.expires_at, row.created_at.saturating_add(40 * SECOND));
    let most = server.control.extend(&id, 24 * hour).await.unwrap();
    assert_eq!(most.spec.expires_at, row.created_at.saturating_add(24 * hour));
    world.clock.advance(hour);
    let error = server.control.extend(&id, 24 * hour).await.unwrap_err();
    assert!(matches!(error, Error::Limit(_)));
    let shorter = server.control.extend(&id, 2 * SECOND).await.unwrap();
    assert!(shorter.spec.expires_at < most.spec.expires_at);
    world.pass_time(3 * SECOND).await;
    assert_eq!(ended(server.control.get(&id).await), CauseKind::Expired);
    assert_eq!(world.fake.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn ends_that_hang_do_not_hold_up_the_other_ends() {
    let world = World::new();
    let server = world.start().await;
    world.fake.is_stuck.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..20 {
        let stuck = SpawnRequest { image: Some("stuck".to_owned()), ..ttl(10) };
        server.control.spawn(stuck).await.unwrap();
    }
    server.control.spawn(ttl(12)).await.unwrap();
    world.pass_time(13 * SECOND).await;
    assert_eq!(world.fake.count(), 20);
    world.fake.is_stuck.store(false, std::sync::atomic::Ordering::SeqCst);
    world.pass_time(60 * SECOND).await;
    assert_eq!(world.fake.count(), 0);
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_server_reads_its_store_seldom() {
    let world = World::new();
    let gate = Gate::dying_after(40);
    let server = world.server(&gate);
    server.control.start_jobs();
    world.pass_time(20 * SECOND).await;
    assert!(!gate.dead.is_cancelled());
    assert!(server.control.jobs().iter().all(|job| 0 < job.runs && job.failures_in_row == 0));
}

#[test]
fn settings_that_contradict_each_other_are_all_named() {
    let worker = stacyvm_types::WorkerId::parse("local").unwrap();
    let mut settings = stacyvm_control::Settings::new(worker, "");
    settings.default_image = "/etc".to_owned();
    settings.default_ttl = 100 * 3600 * SECOND;
    settings.default_limits.vcpus = 0;
    settings.exec_output_cap = 0;
    assert_eq!(settings.problems().len(), 5, "{:?}", settings.problems());
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_expires_while_it_is_created_leaves_nothing() {
    let world = World::new();
    let server = world.start().await;
    let control = server.control.clone();
    let slow = SpawnRequest { image: Some("slow".to_owned()), ..ttl(2) };
    let spawn = server.tasks.spawn(async move { control.spawn(slow).await });
    world.fake.waiting.notified().await;
    world.pass_time(4 * SECOND).await;
    assert!(matches!(world.rows().await[0].phase, Phase::Stopping(_)));
    world.fake.slow.notify_one();
    assert_eq!(ended(spawn.await.unwrap()), CauseKind::Expired);
    world.pass_time(SECOND).await;
    world.assert_agrees().await;
    server.control.spawn(request()).await.unwrap();
}
