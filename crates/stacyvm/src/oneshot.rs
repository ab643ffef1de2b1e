//! A native provider of one command's own: private directories, gone when the command is.
//!
//! A process that was killed cannot clean up; the next one-shot does it: each holds a lock on its
//! directory for as long as it lives, and a directory that is not locked has no owner.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use stacyvm_cli::Failure;
use stacyvm_provider::Provider;
use stacyvm_provider_native::{HOST_IMAGE, NativeProvider, Spawner};
use stacyvm_types::Limits;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{data_dir, failed, native};

/// How many ownerless directories one start cleans up at most.
const MAX_ORPHANS: usize = 4;
/// How long the end may take.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// Private directories, locked.
pub(crate) struct Place {
    path: PathBuf,
    _lock: data_dir::Lock,
}

/// What was prepared before there were threads.
pub(crate) struct Prepared {
    place: Place,
    spawner: Spawner,
    orphans: Vec<(Place, Spawner)>,
}

/// A provider in private directories.
pub(crate) struct OneShot {
    pub(crate) provider: Arc<NativeProvider>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    place: Place,
}

impl Place {
    fn make(base: &Path) -> Result<Self, Failure> {
        let path = base.join(format!("{}-{:08x}", std::process::id(), rand::random::<u32>()));
        let path = data_dir::prepare(&path)?;
        let lock = data_dir::lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// The private directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it. What a provider had outside of it went with the provider.
    fn remove(self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a private directory stays");
        }
    }
}

/// Directories that no process owns any more.
fn orphans(base: &Path) -> Vec<Place> {
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let paths = entries.filter_map(|entry| entry.ok()).map(|entry| entry.path());
    paths
        .filter_map(|path| Some(Place { _lock: data_dir::lock(&path).ok()?, path }))
        .take(MAX_ORPHANS)
        .collect()
}

/// Makes the directories and starts the spawners. Before this process has threads.
pub(crate) fn prepare(data_dir: &Path, image: &str) -> Result<Prepared, Failure> {
    let base = data_dir::prepare(&data_dir.join("oneshot"))?;
    let orphans = orphans(&base)
        .into_iter()
        .map(|place| Ok((place, native::spawner()?)))
        .collect::<Result<_, Failure>>()?;
    let place = Place::make(&base)?;
    if image != HOST_IMAGE
        && let Err(error) = show_images(data_dir, &place.path)
    {
        place.remove();
        return Err(failed(format!("the imported images cannot be read: {error}")));
    }
    Ok(Prepared { place, spawner: native::spawner()?, orphans })
}

/// Lets the private provider see the imported images: their names as copies, their trees as links.
fn show_images(data_dir: &Path, place: &Path) -> io::Result<()> {
    let (from, to) = (data_dir.join("images"), place.join("images"));
    for part in ["names", "trees"] {
        fs::create_dir_all(to.join(part))?;
        let entries = match fs::read_dir(from.join(part)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let (path, to) = (entry?.path(), to.join(part));
            let Some(name) = path.file_name() else { continue };
            match part {
                "names" => drop(fs::copy(&path, to.join(name))?),
                _ => symlink(&path, to.join(name))?,
            }
        }
    }
    Ok(())
}

impl Prepared {
    /// Opens the provider, and ends what killed predecessors left. Inside a runtime.
    pub(crate) async fn open(self) -> Result<OneShot, Failure> {
        for (place, spawner) in self.orphans {
            tracing::info!(path = %place.path.display(), "cleaning up after a killed command");
            OneShot::open(place, spawner)?.close().await;
        }
        OneShot::open(self.place, self.spawner)
    }
}

impl OneShot {
    fn open(place: Place, spawner: Spawner) -> Result<Self, Failure> {
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        match native::open(&place.path, 0, Limits::DEFAULT, spawner, &tasks, &stopping) {
            Ok(provider) => Ok(Self { provider, tasks, stopping, place }),
            Err(failure) => {
                place.remove();
                Err(failure)
            }
        }
    }

    /// The private directory.
    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Ends everything and removes every trace, within [`CLEAN_UP`].
    pub(crate) async fn close(self) {
        let Self { provider, tasks, stopping, place } = self;
        let ended = async {
            for runtime in provider.list().await.unwrap_or_default() {
                if let Err(error) = provider.destroy(&runtime.id).await {
                    tracing::warn!(sandbox.id = %runtime.id, %error, "a sandbox cannot be ended");
                }
            }
            stopping.cancel();
            tasks.close();
            tasks.wait().await;
        };
        if tokio::time::timeout(CLEAN_UP, ended).await.is_err() {
            tracing::warn!("the clean-up takes too long; the next `stacyvm run` goes on with it");
            return;
        }
        drop(provider);
        place.remove();
    }
}
