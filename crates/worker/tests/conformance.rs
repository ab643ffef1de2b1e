//! The provider's own suites, with a worker over HTTP between the cases and the provider: a sandbox
//! at a distance cannot be told from one at hand.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{path::Path, process::ExitCode, sync::Arc};

use libtest_mimic::Arguments;
use stacyvm_fleet::{Worker as _, contract::AsProvider};
use stacyvm_provider::{
    Provider,
    mock::MockProvider,
    suite::{self, Subject},
};
use stacyvm_provider_native::{NativeProvider, NativeSettings, Spawner, UID_BASE};
use stacyvm_types::{Limits, time::SystemClock};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use world::World;

#[path = "remote/world.rs"]
mod world;

fn main() -> ExitCode {
    stacyvm_provider_native::spawner::run_if_requested();
    let arguments = Arguments::from_args();
    let spawner = Spawner::start();
    let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let dir = tempfile::tempdir().unwrap();
    let (mock, native) = runtime.block_on(async {
        let mock = MockProvider::open(&dir.path().join("mock")).unwrap();
        let mock = World::of(&dir.path().join("worker-mock"), Arc::new(mock)).await;
        let native = spawner.map_err(|error| format!("no spawner: {error}"));
        let native = native.and_then(|spawner| open(dir.path(), spawner, &tasks, &stopping));
        let native = match native {
            Ok(provider) => match usable(&*provider).await {
                Ok(()) => Ok(World::of(&dir.path().join("worker-native"), provider).await),
                Err(reason) => Err(reason),
            },
            Err(reason) => Err(reason),
        };
        (mock, native)
    });
    let far = |world: &World, name| -> Arc<dyn Provider> {
        Arc::new(AsProvider::new(world.remote.clone(), name))
    };
    let subjects = [
        Subject::new("mock over http", Ok(far(&mock, "mock"))),
        Subject::new(
            "native over http",
            native.as_ref().map(|world| far(world, "native")).map_err(Clone::clone),
        ),
    ];
    let outcome = suite::run(&runtime, &arguments, &subjects);
    drop(subjects);
    runtime.block_on(async {
        for world in [Some(mock), native.ok()].into_iter().flatten() {
            let (left, _) = world.local.runtimes().await;
            assert!(left.is_empty(), "the worker at {} has {left:?}", world.at);
            world.stopping.cancel();
            world.tasks.close();
            world.tasks.wait().await;
        }
        stopping.cancel();
        tasks.close();
        tasks.wait().await;
    });
    outcome
}

fn open(
    dir: &Path,
    spawner: Spawner,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<Arc<dyn Provider>, String> {
    let settings = NativeSettings {
        data_dir: dir.join("native"),
        pool_size: 1,
        pool_limits: Limits { memory_mb: 512, vcpus: 1, pids: 128, disk_mb: 256 },
        uid_base: UID_BASE,
        spawner,
        tasks: tasks.clone(),
        stopping: stopping.clone(),
        clock: Arc::new(SystemClock),
    };
    match NativeProvider::new(settings) {
        Ok(provider) => Ok(provider),
        Err(error) => Err(format!("{error:?}")),
    }
}

async fn usable(provider: &dyn Provider) -> Result<(), String> {
    let probe = provider.probe().await;
    if probe.usable { Ok(()) } else { Err(probe.summary) }
}
