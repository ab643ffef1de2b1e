//! Native providers for the suites: as root, and as a user without rights.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
};

use rustix::process::geteuid;
use stacyvm_provider::Provider;
use stacyvm_provider_native::{NativeProvider, NativeSettings, Spawner, UID_BASE};
use stacyvm_types::{Limits, time::SystemClock};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Set in the copy of a test program that runs as a user without rights.
const ROOTLESS: &str = "STACYVM_TEST_ROOTLESS";

/// A user that no system gives to people or services.
const NOBODYS_UID: u32 = 54_321;

/// What stops the background work of a provider.
#[derive(Clone)]
pub(crate) struct Work {
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Work {
    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Opens a provider over a directory.
pub(crate) fn open(dir: &Path) -> Result<(Arc<dyn Provider>, Work), String> {
    let work = Work { tasks: TaskTracker::new(), stopping: CancellationToken::new() };
    let settings = NativeSettings {
        data_dir: dir.to_owned(),
        pool_size: 1,
        pool_limits: Limits { memory_mb: 512, vcpus: 1, pids: 128, disk_mb: 256 },
        uid_base: UID_BASE,
        spawner: Spawner::start().map_err(|error| format!("no spawner: {error}"))?,
        tasks: work.tasks.clone(),
        stopping: work.stopping.clone(),
        clock: Arc::new(SystemClock),
    };
    let provider = NativeProvider::new(settings).map_err(|error| format!("{error:?}"))?;
    Ok((provider, work))
}

/// One provider for all cases, on a directory of its own.
pub(crate) struct Native {
    /// Its data directory.
    pub(crate) dir: TempDir,
    pub(crate) provider: Result<Arc<dyn Provider>, String>,
    work: Option<Work>,
}

impl Native {
    /// Must be called on a runtime.
    pub(crate) async fn open() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let opened = open(dir.path());
        let (provider, work) = match opened {
            Ok((provider, work)) => (Ok(provider), Some(work)),
            Err(reason) => (Err(reason), None),
        };
        let provider = match provider {
            Ok(provider) => match provider.probe().await {
                probe if probe.usable => Ok(provider),
                probe => Err(probe.summary),
            },
            Err(reason) => Err(reason),
        };
        Self { dir, provider, work }
    }

    /// Stops as a server does.
    pub(crate) async fn stop(self) {
        if let Ok(provider) = &self.provider {
            // A test that failed may have left something.
            for runtime in provider.list().await.unwrap_or_default() {
                if let Err(error) = provider.destroy(&runtime.id).await {
                    eprintln!("{} stays: {error:?}", runtime.id);
                }
            }
        }
        drop(self.provider);
        if let Some(work) = self.work {
            work.stop().await;
        }
        if let Err(error) = self.dir.close() {
            eprintln!("the data directory stays: {error}");
        }
    }
}

/// What the tests of this process are called.
pub(crate) fn label() -> &'static str {
    if geteuid().is_root() { "native-root" } else { "native-rootless" }
}

/// Runs a copy of this test program, with the same arguments, as a user without rights. `None`
/// where this process is that user already.
pub(crate) fn rootless_run() -> Option<ExitCode> {
    if !geteuid().is_root() {
        return None;
    }
    let run = || -> io::Result<ExitCode> {
        let dir = tempfile::tempdir()?;
        let program: PathBuf = dir.path().join("program");
        fs::copy("/proc/self/exe", &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let home = dir.path().join("home");
        fs::create_dir(&home)?;
        for path in [dir.path(), &*home] {
            chown(path, Some(NOBODYS_UID), Some(NOBODYS_UID))?;
        }
        let ids = [format!("--reuid={NOBODYS_UID}"), format!("--regid={NOBODYS_UID}")];
        let status = Command::new("setpriv")
            .args(ids)
            .args(["--clear-groups", "--inh-caps=-all"])
            .arg(&program)
            .args(std::env::args_os().skip(1))
            .env(ROOTLESS, "1")
            .env("TMPDIR", &home)
            .env("HOME", &home)
            .current_dir(&home)
            .status()?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    };
    Some(run().unwrap_or_else(|error| {
        eprintln!("native-rootless did not run: {error}");
        ExitCode::FAILURE
    }))
}
