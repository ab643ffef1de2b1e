//! Spawning and destroying.

use std::time::Duration;

use stacyvm_control::{Error, TemplateSpawn};
use stacyvm_store::{Include, TemplateFields};
use stacyvm_types::{CauseKind, EventKind, Phase, SandboxId};
use tokio::task::JoinSet;

use crate::{
    fake::Fault,
    gate::Gate,
    world::{World, end_of, ended, image, request},
};

#[tokio::test(start_paused = true)]
async fn a_spawned_sandbox_runs_and_a_destroyed_one_says_why_it_ended() {
    let world = World::new();
    let server = world.start().await;
    let row = server.control.spawn(request()).await.unwrap();
    assert_eq!(row.phase, Phase::Running);
    assert_eq!(server.control.get(&row.spec.id).await.unwrap(), row);
    server.control.destroy(&row.spec.id).await.unwrap();
    server.control.destroy(&row.spec.id).await.unwrap();
    assert_eq!(ended(server.control.get(&row.spec.id).await), CauseKind::Requested);
    assert_eq!(end_of(&server.control.get_any(&row.spec.id).await.unwrap()), CauseKind::Requested);
    assert_eq!(server.control.list(Include::Live).await.unwrap(), []);
    assert_eq!(
        world.kinds().await,
        [EventKind::SandboxCreated, EventKind::SandboxRunning, EventKind::SandboxDestroyed]
    );
    let unknown = SandboxId::from_entropy([7; 10]);
    server.control.destroy(&unknown).await.unwrap();
    let error = server.control.get(&unknown).await.unwrap_err();
    assert_eq!(error.to_string(), format!("sandbox not found: {unknown}"));
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_right_reserves_nothing_and_says_what_would_be() {
    let world = World::new();
    let server = world.start().await;
    for (change, said) in [
        (image("../etc"), "image \"../etc\" is not a name"),
        (crate::world::ttl(0), "ttl must be positive"),
        (crate::world::ttl(90_000), "resource limit exceeded: ttl exceeds max ttl 24h0m0s"),
        (
            stacyvm_control::SpawnRequest { vcpus: Some(0), ..request() },
            "vcpus must be between 1 and 64, and is 0",
        ),
        (
            stacyvm_control::SpawnRequest { provider: Some("x".to_owned()), ..request() },
            "provider not found: x",
        ),
        (
            stacyvm_control::SpawnRequest { template: Some("x".to_owned()), ..request() },
            "not found: template \"x\"",
        ),
    ] {
        let error = server.control.spawn(change).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(world.rows().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_during_a_spawn_cancels_nothing() {
    let world = World::new();
    let server = world.start().await;
    {
        let spawn = server.control.spawn(image("slow"));
        tokio::pin!(spawn);
        tokio::select! {
            _ = &mut spawn => panic!("it is slow"),
            () = world.fake.waiting.notified() => {}
        }
    }
    world.fake.slow.notify_one();
    world.pass_time(Duration::from_secs(1)).await;
    assert_eq!(world.rows().await[0].phase, Phase::Running);
    world.assert_agrees().await;
}

/// The row is committed, the runtime started, and the row says so: all of that beside the disk.
#[tokio::test(start_paused = true)]
async fn no_spawn_is_answered_before_its_admission_has_reached_the_disk() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    let disk = gate.hold_sync();
    let control = server.control.clone();
    let spawn = server.tasks.spawn(async move { control.spawn(request()).await });
    world.pass_time(Duration::from_secs(10)).await;
    assert_eq!(world.rows().await[0].phase, Phase::Running);
    assert!(!spawn.is_finished());
    disk.send(Ok(())).unwrap();
    assert_eq!(spawn.await.unwrap().unwrap(), world.rows().await[0]);
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn power_that_fails_before_a_spawn_is_answered_leaves_nothing_of_it() {
    let mut world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    let known = server.control.spawn(request()).await.unwrap().spec.id;
    // Its audit record waits for the disk, and would take the next spawn along.
    world.pass_time(Duration::from_secs(1)).await;
    let disk = gate.hold_sync();
    let control = server.control.clone();
    let spawn = server.tasks.spawn(async move { control.spawn(request()).await });
    world.pass_time(Duration::from_secs(1)).await;
    assert_eq!(world.rows().await.len(), 2);
    assert!(!spawn.is_finished());
    gate.kill();
    world.lose_power();
    drop(disk);
    world.start().await;
    world.pass_time(Duration::from_secs(60)).await;
    let rows = world.rows().await;
    assert_eq!(rows.iter().map(|row| &row.spec.id).collect::<Vec<_>>(), [&known]);
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_spawn_whose_admission_cannot_reach_the_disk_ends_and_answers_an_error() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    for launched in [Fault::None, Fault::Clean] {
        world.fake.launches.lock().unwrap().push_back(launched);
        let bad = || stacyvm_store::Error::Unavailable("a bad block".into());
        gate.hold_sync().send(Err(bad())).unwrap();
        let error = server.control.spawn(request()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert!(world.rows().await.iter().all(|row| end_of(row) == CauseKind::LaunchFailed));
        world.assert_agrees().await;
    }
    assert_eq!(world.fake.count(), 0);
    server.control.spawn(request()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_spawn_delays_no_other() {
    let world = World::new();
    let server = world.start().await;
    let control = server.control.clone();
    let slow = server.tasks.spawn(async move { control.spawn(image("slow")).await });
    world.fake.waiting.notified().await;
    for _ in 0..100 {
        server.control.spawn(request()).await.unwrap();
    }
    assert!(!slow.is_finished());
    world.fake.slow.notify_one();
    slow.await.unwrap().unwrap();
    assert_eq!(world.fake.count(), 101);
}

#[tokio::test(start_paused = true)]
async fn destroying_a_sandbox_that_is_being_created_leaves_no_runtime() {
    let world = World::new();
    let server = world.start().await;
    let control = server.control.clone();
    let spawn = server.tasks.spawn(async move { control.spawn(image("slow")).await });
    world.fake.waiting.notified().await;
    let id = world.rows().await[0].spec.id.clone();
    let control = server.control.clone();
    let destroyed = id.clone();
    let destroy = server.tasks.spawn(async move { control.destroy(&destroyed).await });
    world.pass_time(Duration::from_secs(1)).await;
    assert!(matches!(world.rows().await[0].phase, Phase::Stopping(_)));
    assert!(!destroy.is_finished(), "a row ends only when its runtime is proved gone");
    world.fake.slow.notify_one();
    assert_eq!(ended(spawn.await.unwrap()), CauseKind::Requested);
    destroy.await.unwrap().unwrap();
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_launch_is_undone_and_the_row_says_why() {
    let world = World::new();
    let server = world.start().await;
    let error = server.control.spawn(image("missing")).await.unwrap_err();
    assert!(matches!(error, Error::NoImage(_)));
    assert!(error.to_string().contains("stacyvm image import missing PATH"), "{error}");
    for fault in [Fault::Clean, Fault::Lost, Fault::Hangs] {
        world.fake.launches.lock().unwrap().push_back(fault);
        let error = server.control.spawn(request()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    }
    let rows = world.rows().await;
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| end_of(row) == CauseKind::LaunchFailed));
    world.assert_agrees().await;
}

/// The provider cannot say that the runtime is gone: the client hears it, the end goes on.
#[tokio::test(start_paused = true)]
async fn a_destroy_that_fails_goes_on_until_the_runtime_is_gone() {
    for fault in [Fault::Clean, Fault::Lost, Fault::Hangs] {
        let world = World::new();
        let server = world.start().await;
        let id = server.control.spawn(request()).await.unwrap().spec.id;
        world.fake.destructions.lock().unwrap().extend([fault, Fault::Clean]);
        let error = server.control.destroy(&id).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert_eq!(ended(server.control.get(&id).await), CauseKind::Requested);
        world.pass_time(Duration::from_secs(20)).await;
        assert_eq!(end_of(&world.rows().await[0]), CauseKind::Requested);
        world.assert_agrees().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_at_once_end_at_zero() {
    let world = World::new();
    let server = world.start().await;
    let mut clients = JoinSet::new();
    for n in 0..200_u8 {
        let control = server.control.clone();
        clients.spawn(async move {
            let id = control.spawn(request()).await.unwrap().spec.id;
            if n.is_multiple_of(2) {
                let (one, two) = tokio::join!(control.destroy(&id), control.destroy(&id));
                one.unwrap();
                two.unwrap();
            } else {
                control.destroy(&id).await.unwrap();
            }
        });
    }
    clients.join_all().await;
    assert_eq!(world.fake.count(), 0);
    assert!(world.rows().await.iter().all(|row| end_of(row) == CauseKind::Requested));
    let gone = world.kinds().await;
    let gone = gone.iter().filter(|kind| **kind == EventKind::SandboxDestroyed).count();
    assert_eq!(gone, 200, "each end is told once");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_a_clear_refusal_and_leaks_nothing() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    server.control.start_jobs();
    gate.store_is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = server.control.spawn(request()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(server.control.ready().await.store.is_err());
    gate.store_is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(server.control.ready().await.is_ready());
    server.control.spawn(request()).await.unwrap();
    world.assert_agrees().await;
}

pub(crate) fn template(setup: &[&str]) -> TemplateFields {
    TemplateFields {
        image: "base:1".to_owned(),
        description: String::new(),
        provider: String::new(),
        memory_mb: 256,
        vcpus: 2,
        ttl: Duration::from_secs(60),
        setup: setup.iter().map(|line| (*line).to_owned()).collect(),
        env: [("A".to_owned(), "1".to_owned())].into(),
        metadata: [("m".to_owned(), "t".to_owned())].into(),
        pool_size: 0,
        allowed_hosts: Vec::new(),
        secrets: [].into(),
    }
}

/// R1.4: the stored fields have their effect.
#[tokio::test(start_paused = true)]
async fn a_template_decides_what_the_request_leaves_open() {
    let world = World::new();
    let server = world.start().await;
    server.control.create_template(template(&["echo one", "echo two"]), "t").await.unwrap();
    let again = server.control.create_template(template(&[]), "t").await.unwrap_err();
    assert_eq!(again.to_string(), "conflict: template already exists");
    let spawn = TemplateSpawn {
        env: [("B".to_owned(), "2".to_owned())].into(),
        ..TemplateSpawn::default()
    };
    let row = server.control.spawn_template("t", spawn).await.unwrap();
    assert_eq!(row.phase, Phase::Running);
    assert_eq!((row.spec.image.as_str(), row.spec.limits.vcpus), ("base:1", 2));
    assert_eq!(row.spec.metadata["template"], "t");
    assert_eq!(row.spec.env.len(), 2);
    assert_eq!(world.fake.execs.lock().unwrap().len(), 2);
    assert_eq!(world.fake.execs.lock().unwrap()[0].env["A"], "1");
}

#[tokio::test(start_paused = true)]
async fn a_setup_line_that_fails_ends_the_sandbox() {
    let world = World::new();
    let server = world.start().await;
    server.control.create_template(template(&["echo one", "exit 3"]), "t").await.unwrap();
    let error = server.control.spawn_template("t", TemplateSpawn::default()).await.unwrap_err();
    assert!(error.to_string().contains("setup line 2 of 2 ended with exit 3: why"), "{error}");
    assert_eq!(end_of(&world.rows().await[0]), CauseKind::LaunchFailed);
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn destroying_a_sandbox_during_its_setup_does_not_wait_for_the_setup() {
    let world = World::new();
    let server = world.start().await;
    server.control.create_template(template(&["hang"]), "t").await.unwrap();
    let control = server.control.clone();
    let spawn = server
        .tasks
        .spawn(async move { control.spawn_template("t", TemplateSpawn::default()).await });
    world.pass_time(Duration::from_secs(1)).await;
    let id = world.rows().await[0].spec.id.clone();
    let begun = tokio::time::Instant::now();
    server.control.destroy(&id).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(ended(spawn.await.unwrap()), CauseKind::Requested);
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_server_takes_nothing_new_and_its_tasks_end() {
    let world = World::new();
    let server = world.start().await;
    server.control.spawn(request()).await.unwrap();
    server.stopping.cancel();
    assert!(matches!(server.control.spawn(request()).await, Err(Error::Unavailable(_))));
    server.tasks.close();
    tokio::time::timeout(Duration::from_secs(1), server.tasks.wait()).await.unwrap();
    world.assert_agrees().await;
}

/// The end is committed and visible, but nobody is told before the disk has it: neither who ended
/// the sandbox, nor who finds it ended and says so again.
#[tokio::test(start_paused = true)]
async fn no_destroy_is_answered_before_the_end_has_reached_the_disk() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    let id = server.control.spawn(request()).await.unwrap().spec.id;
    let destroy = || {
        let (control, id) = (server.control.clone(), id.clone());
        server.tasks.spawn(async move { control.destroy(&id).await })
    };
    let mut calls = Vec::new();
    for _ in 0..2 {
        let disk = gate.hold_sync();
        let call = destroy();
        world.pass_time(Duration::from_secs(1)).await;
        assert!(matches!(world.rows().await[0].phase, Phase::Ended(_)));
        assert!(!call.is_finished());
        calls.push((disk, call));
    }
    for (disk, call) in calls {
        disk.send(Ok(())).unwrap();
        call.await.unwrap().unwrap();
    }
    world.assert_agrees().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_cannot_reach_the_disk_is_no_success_however_often_it_is_asked_for() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    let id = server.control.spawn(request()).await.unwrap().spec.id;
    for _ in 0..2 {
        gate.hold_sync()
            .send(Err(stacyvm_store::Error::Unavailable("a bad block".into())))
            .unwrap();
        let error = server.control.destroy(&id).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    }
    server.control.destroy(&id).await.unwrap();
    assert_eq!(end_of(&world.rows().await[0]), CauseKind::Requested);
    world.assert_agrees().await;
}
