//! Every case of the contract, called and over a real loopback connection.

use std::sync::Arc;

use stacyvm_fleet::contract::{Scene, cases};
use stacyvm_provider::mock::MockProvider;

use crate::world::World;

async fn play(pick: impl Fn(&World) -> Scene) {
    for case in cases() {
        let dir = tempfile::tempdir().unwrap();
        let mock = MockProvider::open(&dir.path().join("mock")).unwrap();
        let world = World::of(&dir.path().join("worker"), Arc::new(mock)).await;
        eprintln!("{}", case.name);
        (case.run)(pick(&world)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_this_process_keeps_the_contract() {
    play(|world| Scene { worker: world.local.clone(), provider: "mock".to_owned() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_over_http_keeps_the_contract() {
    play(|world| Scene { worker: world.remote.clone(), provider: "mock".to_owned() }).await;
}
