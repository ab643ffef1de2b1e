//! Several servers over one store.

use std::{sync::atomic::Ordering, time::Duration};

use stacyvm_control::{Settings, TemplateSpawn};
use stacyvm_fleet::Worker as _;
use stacyvm_provider::ErrorKind;
use stacyvm_types::{CauseKind, Generation, Phase, time::Clock as _};

use crate::{
    gate::Gate,
    spawn::template,
    world::{Server, World, end_of, ttl},
};

/// How long a lease of a worker here lasts.
const TERM: Duration = Duration::from_secs(30);

fn shares(settings: &mut Settings) {
    settings.membership.term = Some(TERM);
}

async fn started(server: Server) -> Server {
    server.control.join().await.unwrap();
    server.control.start_jobs();
    server
}

/// A template that takes minutes to set up is set up by one server, whatever the others think.
#[tokio::test(start_paused = true)]
async fn a_start_that_goes_on_is_left_alone_by_other_servers() {
    let world = World::new();
    let gate = Gate::open();
    let one = started(world.server_with(&gate, shares)).await;
    // Over the same worker, so that it looks at its rows each time.
    let _other = started(world.server_with(&Gate::open(), shares)).await;
    one.control.create_template(template(&["hang"]), "t").await.unwrap();
    let control = one.control.clone();
    let spawn = TemplateSpawn { ttl: Some(Duration::from_secs(3600)), ..TemplateSpawn::default() };
    let spawn = one.tasks.spawn(async move { control.spawn_template("t", spawn).await });
    world.pass_time(Duration::from_secs(300)).await;
    assert_eq!(world.rows().await[0].phase, Phase::Creating);
    assert!(!spawn.is_finished());

    // The one that works on it dies: nobody says any more that it goes on.
    gate.kill();
    world.pass_time(Duration::from_secs(120)).await;
    assert_eq!(end_of(&world.rows().await[0]), CauseKind::LaunchInterrupted);
    world.assert_agrees().await;
}

/// R4.5: a server that was stopped while it asked for the store's time learns nothing of it; the
/// simulator found one that took the pause for a wrong clock and ended sandboxes early.
#[tokio::test(start_paused = true)]
async fn a_time_that_was_long_under_way_corrects_no_clock() {
    let world = World::new();
    let gate = Gate::open();
    let server = started(world.server_with(&gate, shares)).await;
    let ahead = Duration::from_secs(3);
    let known = async |expected: Duration| {
        assert_eq!(server.control.time(), world.clock.now().saturating_add(expected));
    };
    known(Duration::ZERO).await;
    // What is heard at once corrects it.
    gate.hold_time().send(world.clock.now().saturating_add(ahead)).unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    known(ahead).await;
    // What is heard late does not, whatever it says.
    for says in [Duration::ZERO, Duration::from_secs(60)] {
        let late = gate.hold_time();
        world.pass_time(Duration::from_secs(20)).await;
        known(ahead).await;
        late.send(world.clock.now().saturating_add(says)).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        known(ahead).await;
    }
}

/// R4.6: what was sent before a worker was lost does nothing once its sandbox is back.
#[tokio::test(start_paused = true)]
async fn a_worker_that_is_back_refuses_what_was_sent_before_it_was_lost() {
    let world = World::new();
    let gate = Gate::open();
    let one = started(world.server_with(&gate, shares)).await;
    let row = one.control.spawn(ttl(3600)).await.unwrap();
    let _other = started(world.server_elsewhere("other", &Gate::open(), shares)).await;
    gate.store_is_down.store(true, Ordering::SeqCst);
    world.pass_time(TERM + Duration::from_secs(5)).await;
    let lost = world.rows().await.remove(0);
    let Phase::Unhealthy(cause) = &lost.phase else { panic!("{lost:?}") };
    assert_eq!((cause.kind, lost.generation), (CauseKind::WorkerLost, Generation(1)));
    gate.store_is_down.store(false, Ordering::SeqCst);
    world.pass_time(Duration::from_secs(15)).await;
    let back = world.rows().await.remove(0);
    assert_eq!((back.phase, back.generation), (Phase::Running, Generation(2)));
    let late = one.worker.guest("fake", &row.spec.id, row.generation).await;
    let Err(late) = late else { panic!("a call of the first generation is let in") };
    assert_eq!(late.kind, ErrorKind::Fenced);
    one.worker.guest("fake", &row.spec.id, back.generation).await.unwrap();
}
