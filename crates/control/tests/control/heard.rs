//! Workers that are heard of, and what a server knows of that.

use std::{sync::Arc, time::Duration};

use stacyvm_control::{Control, Parts, Settings};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_types::{Beat, Offer, Phase, WorkerId};
use stacyvm_worker::LocalWorker;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    gate::{Gate, GatedProvider},
    world::{World, ttl},
};

const SECOND: Duration = Duration::from_secs(1);

/// R4.7: a worker that renews its lease loses nothing, however old the last look at it is: neither
/// does a call to its sandboxes fail, nor are they marked.
#[tokio::test(start_paused = true)]
async fn a_worker_whose_heartbeat_was_not_looked_at_yet_is_not_lost() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let id = |name: &str| WorkerId::parse(name).unwrap();
    let worker = |name: &str, providers| {
        let dir = dir.path().join(name);
        let worker = LocalWorker::new(id(name), providers, "fake", &dir, world.clock.clone());
        Arc::new(worker.unwrap()) as Arc<dyn Worker>
    };
    let fake = Arc::new(GatedProvider(world.fake.clone(), Gate::open()));
    let fleet = Fleet::new([worker("local", vec![]), worker("far", vec![fake as _])]);
    let settings = Settings { runs_sandboxes: false, ..Settings::new(id("local"), "fake") };
    let term = settings.membership.lease_term;
    let control = Control::new(Parts {
        store: world.store.clone(),
        fleet,
        dial: None,
        clock: world.clock.clone(),
        settings,
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
    });
    control.recover().await.unwrap();
    control.start_jobs();
    let offer = Offer {
        provider: "fake".to_owned(),
        default: true,
        ready: true,
        capabilities: ["exec".to_owned(), "files".to_owned()].into(),
        images: ["host".to_owned()].into(),
    };
    let beat = Beat {
        id: id("far"),
        instance: "a".to_owned(),
        hostname: "far".to_owned(),
        version: String::new(),
        url: Some("http://far:7424".to_owned()),
        draining: false,
        offers: vec![offer],
        capacity: Default::default(),
    };
    control.heard_of(beat.clone()).await.unwrap();
    world.pass_time(SECOND).await;
    let sandbox = control.spawn(ttl(3600)).await.unwrap().spec.id;

    // The time passes, and no job runs.
    world.clock.advance(term * 2 / 3);
    control.heard_of(beat).await.unwrap();
    world.clock.advance(term * 2 / 3);
    control.logs(&sandbox, 1).await.unwrap();
    world.pass_time(term / 6).await;
    assert_eq!(control.get(&sandbox).await.unwrap().phase, Phase::Running);

    // One that is not heard of any more is lost by the word of the store.
    world.clock.advance(term);
    let refused = control.stat_file(&sandbox, "/x").await.unwrap_err();
    assert!(refused.to_string().contains("not heard of"), "{refused}");
}
