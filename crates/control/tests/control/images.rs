//! R4.3: images that some workers have.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use stacyvm_control::{Control, Error, Parts, Settings};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_types::{Beat, Offer, Resources, WorkerId};
use stacyvm_worker::LocalWorker;
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    fake::Fault,
    gate::{Gate, GatedProvider},
    world::{World, image},
};

fn id(name: &str) -> WorkerId {
    WorkerId::parse(name).unwrap()
}

/// A server without sandboxes of its own, and workers that say that they have images.
async fn server(world: &World, dir: &TempDir, workers: &[(&str, &[&str])]) -> Control {
    let worker = |name: &str, providers| {
        let dir = dir.path().join(name);
        let worker = LocalWorker::new(id(name), providers, "fake", &dir, world.clock.clone());
        Arc::new(worker.unwrap()) as Arc<dyn Worker>
    };
    let far = workers.iter().map(|(name, _)| {
        let fake = Arc::new(GatedProvider(world.fake.clone(), Gate::open()));
        worker(name, vec![fake as _])
    });
    let settings = Settings { runs_sandboxes: false, ..Settings::new(id("local"), "fake") };
    let control = Control::new(Parts {
        store: world.store.clone(),
        fleet: Fleet::new([worker("local", vec![])].into_iter().chain(far)),
        dial: None,
        clock: world.clock.clone(),
        settings,
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
    });
    control.join().await.unwrap();
    for (name, images) in workers {
        let offer = Offer {
            provider: "fake".to_owned(),
            default: true,
            ready: true,
            capabilities: BTreeSet::from(["images".to_owned()]),
            images: images.iter().map(|&image| image.to_owned()).collect(),
        };
        let beat = Beat {
            id: id(name),
            instance: "a".to_owned(),
            hostname: "far".to_owned(),
            version: String::new(),
            url: Some("http://far:7424".to_owned()),
            draining: false,
            offers: vec![offer],
            capacity: Resources { sandboxes: 2, ..Resources::default() },
        };
        control.heard_of(beat).await.unwrap();
    }
    // Looks at them.
    control.join().await.unwrap();
    control
}

/// What a heartbeat said may be over: then whoever else has it is asked, and nobody who has not.
#[tokio::test(start_paused = true)]
async fn an_image_that_is_gone_from_one_worker_is_launched_at_another_that_has_it() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let workers: &[(&str, &[&str])] =
        &[("a", &["x:latest"]), ("b", &["x:latest"]), ("without", &[])];
    let control = server(&world, &dir, workers).await;
    let gone = |times| vec![Fault::NoImage; times];
    world.fake.launches.lock().unwrap().extend(gone(1));
    let row = control.spawn(image("x")).await.unwrap();
    assert_ne!(row.spec.worker, id("without"));

    world.fake.launches.lock().unwrap().extend(gone(2));
    let refused = control.spawn(image("x")).await.unwrap_err();
    assert!(matches!(refused, Error::NoImage(_)), "{refused}");
    assert!(world.fake.launches.lock().unwrap().is_empty(), "both that have it were asked");
    assert_eq!(world.fake.count(), 1);
}

/// Room elsewhere is no use, and an image that nobody is known to have is looked for.
#[tokio::test(start_paused = true)]
async fn a_sandbox_waits_for_room_where_its_image_is() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let workers: &[(&str, &[&str])] = &[("a", &["x:latest"]), ("without", &[])];
    let control = server(&world, &dir, workers).await;
    let first = control.spawn(image("x")).await.unwrap();
    let second = control.spawn(image("x:latest")).await.unwrap();
    assert_eq!((&first.spec.worker, &second.spec.worker), (&id("a"), &id("a")));
    let full = control.spawn(image("x")).await.unwrap_err();
    assert!(matches!(full, Error::Limit(_)), "{full}");
    assert_eq!(control.spawn(image("host")).await.unwrap().spec.worker, id("without"));
    // It may have been imported there a moment ago.
    assert_eq!(control.spawn(image("y")).await.unwrap().spec.worker, id("without"));
    control.destroy(&first.spec.id).await.unwrap();
    world.pass_time(Duration::from_secs(1)).await;
    assert_eq!(control.spawn(image("x")).await.unwrap().spec.worker, id("a"));
}
