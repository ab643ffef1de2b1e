//! The native provider, opened for this process.

use std::{path::Path, sync::Arc};

use stacyvm_cli::Failure;
use stacyvm_provider::Provider;
use stacyvm_provider_native::{NativeProvider, NativeSettings, Spawner, UID_BASE};
use stacyvm_types::{Limits, time::SystemClock};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{chain, failed};

/// What to look at when this host gives too little.
pub(crate) const HINT: &str = "`stacyvm doctor` says what this host lacks";

/// Starts the process that starts sandboxes. Before this process has threads.
pub(crate) fn spawner() -> Result<Spawner, Failure> {
    Spawner::start().map_err(|e| failed(format!("the spawner cannot be started: {e}")))
}

/// Takes a data directory with its sandboxes. Blocking; inside a runtime.
pub(crate) fn open(
    data_dir: &Path,
    pool_size: usize,
    pool_limits: Limits,
    spawner: Spawner,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<Arc<NativeProvider>, Failure> {
    NativeProvider::new(NativeSettings {
        data_dir: data_dir.to_owned(),
        pool_size,
        pool_limits,
        uid_base: UID_BASE,
        spawner,
        tasks: tasks.clone(),
        stopping: stopping.clone(),
        clock: Arc::new(SystemClock),
    })
    .map_err(|e| failed(format!("the native provider cannot start: {}", chain(&e))))
}

/// Fails with the probe's own sentence on a host that cannot run sandboxes.
pub(crate) async fn must_be_usable(provider: &dyn Provider) -> Result<(), Failure> {
    let probe = provider.probe().await;
    if probe.usable {
        tracing::info!(provider = provider.name(), summary = probe.summary, "provider usable");
        return Ok(());
    }
    Err(failed(format!("sandboxes cannot run on this host: {}; {HINT}", probe.summary)))
}
