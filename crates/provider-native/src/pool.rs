//! Runtimes made before anybody asks: the default image with the default limits.
//!
//! One task fills the pool while no launch is under way, and empties it when the server stops. What
//! a killed server leaves in it is removed by the next one.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{HOST_IMAGE, make::Wanted, provider::Shared};

/// How long a launch under way holds up the filling, at a time.
const LAUNCHING: Duration = Duration::from_millis(2);
/// How long to wait after a runtime could not be made.
const FAILED: Duration = Duration::from_secs(5);

/// Keeps the pool full until the server stops.
pub(crate) async fn keep_full(shared: Arc<Shared>) {
    let stopping = shared.stopping.clone();
    stopping.run_until_cancelled(fill_for_ever(&shared)).await;
    let left: Vec<_> = shared.pool().drain(..).collect();
    for live in left {
        match live.kill(&shared.tasks).await {
            Ok(()) => shared.forget(live),
            Err(error) => tracing::warn!(%error, "a waiting runtime is left to the next server"),
        }
    }
}

async fn fill_for_ever(shared: &Arc<Shared>) {
    loop {
        let wanted = shared.pool_wanted.notified();
        if shared.pool_size <= shared.pool().len() {
            wanted.await;
            continue;
        }
        if 0 < shared.launching.load(Ordering::SeqCst) {
            tokio::time::sleep(LAUNCHING).await;
            continue;
        }
        if let Err(error) = add_one(shared).await {
            tracing::warn!(?error, "the ready pool cannot be filled");
            tokio::time::sleep(FAILED).await;
        }
    }
}

async fn add_one(shared: &Arc<Shared>) -> stacyvm_provider::Result<()> {
    let wanted = Wanted { image: HOST_IMAGE.to_owned(), limits: shared.pool_limits };
    let live = shared.make(wanted).await?;
    // Its agent answers before it counts as ready.
    live.guest.hello().await?;
    shared.pool().push_back(live);
    Ok(())
}
