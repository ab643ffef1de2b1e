//! The provider's own suite, with a worker over HTTP between the cases and the provider: a sandbox
//! at a distance cannot be told from one at hand.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::Arguments;
use stacyvm_fleet::{Worker as _, contract::AsProvider};
use stacyvm_provider::{
    Provider,
    mock::MockProvider,
    suite::{self, Subject},
};

#[path = "remote/world.rs"]
mod world;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mock = MockProvider::open(&dir.path().join("mock")).unwrap();
    let world = runtime.block_on(world::World::of(&dir.path().join("worker"), Arc::new(mock)));
    let provider: Arc<dyn Provider> = Arc::new(AsProvider::new(world.remote.clone(), "mock"));
    let outcome = suite::run(&runtime, &arguments, &[Subject::new("mock over http", Ok(provider))]);
    runtime.block_on(async {
        let (left, _) = world.local.runtimes().await;
        assert!(left.is_empty(), "the worker at {} has {left:?}", world.at);
        world.stopping.cancel();
        world.tasks.close();
        world.tasks.wait().await;
    });
    outcome
}
