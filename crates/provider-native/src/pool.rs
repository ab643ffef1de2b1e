//! Runtimes made before anybody asks: the default image with the default limits.
//!
//! One task fills the pool while nothing was launched for a moment, or when half of it is gone, and
//! empties it when the server stops. What a killed server leaves in it is removed by the next one.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{HOST_IMAGE, make::Wanted, provider::Shared, runtime::Live};

/// How long a launch under way holds up the filling, at a time.
const LAUNCHING: Duration = Duration::from_millis(2);
/// How long nothing may have been launched before a pool that is not half empty is filled: what a
/// client does first in its new sandbox then has the processors to itself.
const QUIET: Duration = Duration::from_millis(15);
/// How long to wait after a runtime could not be made.
const FAILED: Duration = Duration::from_secs(5);

/// Keeps the pool full until the server stops. A runtime that is on its way by then is waited for:
/// dropped half-way it would have no owner.
pub(crate) async fn keep_full(shared: Arc<Shared>) {
    let stopping = shared.stopping.clone();
    while stopping.run_until_cancelled(room(&shared)).await.is_some() {
        if let Err(error) = add_one(&shared).await {
            tracing::warn!(?error, "the ready pool cannot be filled");
            stopping.run_until_cancelled(tokio::time::sleep(FAILED)).await;
        }
    }
    let left: Vec<_> = shared.pool().drain(..).collect();
    for live in left {
        end(&shared, live).await;
    }
}

/// Waits until another runtime is wanted and no launch is under way.
async fn room(shared: &Shared) {
    loop {
        let wanted = shared.pool_wanted.notified();
        if shared.pool_size <= shared.pool().len() {
            wanted.await;
            continue;
        }
        let begun = shared.launches.load(Ordering::SeqCst);
        let waiting = shared.pool().len();
        let pause = if waiting * 2 < shared.pool_size { LAUNCHING } else { QUIET };
        tokio::time::sleep(pause).await;
        let quiet = pause == LAUNCHING || begun == shared.launches.load(Ordering::SeqCst);
        if quiet && shared.launching.load(Ordering::SeqCst) == 0 {
            return;
        }
    }
}

async fn add_one(shared: &Arc<Shared>) -> stacyvm_provider::Result<()> {
    let wanted = Wanted { image: HOST_IMAGE.to_owned(), limits: shared.pool_limits };
    let live = shared.make(wanted).await?;
    // Its agent answers before it counts as ready.
    if let Err(error) = live.guest.hello().await {
        end(shared, live).await;
        return Err(error);
    }
    shared.pool().push_back(live);
    Ok(())
}

/// Ends a runtime that nobody owns.
pub(crate) async fn end(shared: &Arc<Shared>, live: Live) {
    match live.kill(&shared.tasks).await {
        Ok(()) => shared.forget(live),
        Err(error) => tracing::warn!(%error, "a waiting runtime is left to the next server"),
    }
}
