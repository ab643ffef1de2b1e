//! Calls from the worker's own host, through a socket in a directory that only its owner enters.
//!
//! Whoever gets that far could change the files themselves, so that no credential is asked for; what
//! can be asked is what has to be done by the process that runs: what there is, and images.

use std::{io, path::Path, sync::Arc, time::Duration};

use http::HeaderMap;
use stacyvm_fleet::{
    Worker,
    identity::{Authenticate, Grant, Refusal, Scope},
};
use stacyvm_types::WorkerId;
use tokio::net::UnixListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Rpc;

struct Owner;

impl Authenticate for Owner {
    fn authenticate(&self, _: &WorkerId, _: &HeaderMap) -> Result<Grant, Refusal> {
        Ok(Grant::of([Scope::Status, Scope::Images].into_iter().collect()))
    }
}

/// Takes a path for calls from this host, also one that a killed predecessor left.
pub fn listen_here(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Answers until `stopping`, then lets what is in flight finish for at most `drain`.
pub async fn answer_here(
    listener: UnixListener,
    worker: Arc<dyn Worker>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    drain: Duration,
) {
    let rpc = Rpc::new(worker, Arc::new(Owner), tasks, stopping.clone());
    let until = stopping.clone().cancelled_owned();
    let served = axum::serve(listener, rpc.router()).with_graceful_shutdown(until);
    let limit = async {
        stopping.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        _ = served => {}
        () = limit => tracing::warn!("calls from this host did not finish"),
    }
}
