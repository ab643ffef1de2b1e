//! Imported root file systems, by name.
//!
//! On disk, below `<data_dir>/images` (mode 0700, so that nobody else on the host reaches files
//! that an archive chose):
//!
//! ```text
//! names/alpine:latest.json      what a name means now: the id of a tree, its size, its age
//! trees/<id>/rootfs             one import, never changed after it is in place
//! .import-<id>                  an import on its way
//! .dead-<id>                    a tree on its way out
//! ```
//!
//! Promises:
//! - An import is all or nothing, a crash included: it counts from the moment its record is
//!   renamed into `names`, after its files have reached the disk.
//! - A tree lives for as long as a name means it, an [`ImageLease`] holds it, or the `in_use`
//!   callback knows it. Replacing an image leaves the old tree to those who run from it.
//! - Trees that nobody needs, and what a crashed predecessor left, go with [`ImageStore::collect`].
//! - No archive writes outside its tree, holds more than the [`Caps`], or leaves anything when it
//!   is refused (see [`extract`] for what is kept, dropped and refused).

mod extract;
mod finish;
mod header;
mod input;
mod name;
mod record;
mod refusal;
mod staging;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rustix::fs::{self, AtFlags};
use stacyvm_provider::{ByteStream, Error, ErrorKind, ImageRecord, Images, Result};
use stacyvm_types::time::Clock;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::{extract::Owners, name::ImageName, record::Record, refusal::host, staging::Staging};
use crate::tree;

/// What one archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// Bytes of its files, and bytes of the archive once it is unpacked.
    pub bytes: u64,
    /// Entries, extension headers included.
    pub entries: u64,
    /// Bytes of one name or link target.
    pub path: usize,
    /// Directories in one name.
    pub depth: usize,
    /// Bytes that stay free on the host's disk.
    pub keep_free: u64,
    /// The longest wait for the next piece of an archive.
    pub stall: Duration,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            bytes: 8 * 1024 * 1024 * 1024,
            entries: 1_000_000,
            path: 4096,
            depth: 256,
            keep_free: 256 * 1024 * 1024,
            stall: Duration::from_secs(60),
        }
    }
}

/// Whether a runtime on this host was launched from this `rootfs` directory. Asked under the
/// store's locks: it must not call the store, and should only read what runtimes left on disk.
pub type InUse = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// What an [`ImageStore`] is made of.
pub struct Parts {
    /// The server's data directory; the store owns `images` below it.
    pub data_dir: PathBuf,
    /// What one archive may hold.
    pub caps: Caps,
    /// Who runs from which tree, beyond the leases of this process.
    pub in_use: InUse,
    /// Owns the blocking work.
    pub tasks: TaskTracker,
    /// Dates imports.
    pub clock: Arc<dyn Clock>,
}

/// The images of one data directory. A cheap clone.
#[derive(Clone)]
pub struct ImageStore(Arc<Store>);

/// Imports that run at once; more are refused.
const IMPORTS: usize = 2;

/// A lease without a runtime belongs to one that begins or has just ended, so a removal waits for
/// it this long.
const LEASE_WAIT: Duration = Duration::from_secs(2);
const LEASE_POLL: Duration = Duration::from_millis(10);

/// How the removal of an image went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// It is gone.
    Done,
    /// A lease holds it.
    Leased,
    /// A runtime holds it.
    Used,
}

struct Store {
    path: PathBuf,
    images: OwnedFd,
    names: OwnedFd,
    trees: OwnedFd,
    caps: Caps,
    owners: Owners,
    in_use: InUse,
    tasks: TaskTracker,
    clock: Arc<dyn Clock>,
    imports: Arc<Semaphore>,
    /// Held over changes on disk; taken before `state`.
    commit: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<ImageName, Record>,
    leases: BTreeMap<String, usize>,
    /// Trees in place that no name means.
    retired: BTreeSet<String>,
    /// Directories of ours that only need removing.
    leftovers: Vec<OsString>,
}

impl ImageStore {
    /// Opens the images of a data directory, makes it if needed, and notes what a predecessor
    /// left; [`Self::collect`] removes that. Blocking, and quick.
    pub fn open(parts: Parts) -> Result<Self> {
        let path = parts.data_dir.join("images");
        let open = |path: &Path| tree::private_dir(path).map_err(|e| host("opened", e));
        let (images, names, trees) =
            (open(&path)?, open(&path.join("names"))?, open(&path.join("trees"))?);
        let mut state = State::default();
        let list = |dir: &OwnedFd| tree::names(dir.as_fd()).map_err(|e| host("listed", e));
        let in_place: BTreeSet<String> =
            list(&trees)?.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect();
        for file in list(&names)? {
            if let Some((name, record)) = record::read(names.as_fd(), &file, &in_place) {
                state.images.insert(name, record);
            }
        }
        let meant: BTreeSet<&str> = state.images.values().map(|r| r.tree.as_str()).collect();
        state.retired = in_place.iter().filter(|t| !meant.contains(t.as_str())).cloned().collect();
        state.leftovers = list(&images)?
            .into_iter()
            .filter(|name| name.starts_with(b".import-") || name.starts_with(b".dead-"))
            .map(OsString::from_vec)
            .collect();
        let root = rustix::process::geteuid().is_root();
        Ok(Self(Arc::new(Store {
            path,
            images,
            names,
            trees,
            caps: parts.caps,
            owners: if root { Owners::FromArchive } else { Owners::Caller },
            in_use: parts.in_use,
            tasks: parts.tasks,
            clock: parts.clock,
            imports: Arc::new(Semaphore::new(IMPORTS)),
            commit: Mutex::new(()),
            state: Mutex::new(state),
        })))
    }

    /// The root file system that a name means now. Nothing keeps it there: to launch from it take
    /// a [`Self::lease`].
    pub fn resolve(&self, name: &str) -> Result<PathBuf> {
        let name = ImageName::parse(name)?;
        let state = self.0.state();
        let record = state.images.get(&name).ok_or_else(|| no_image(&name))?;
        Ok(self.0.rootfs(&record.tree))
    }

    /// Holds the root file system that a name means now: hold it until the runtime is gone, or
    /// until `in_use` tells of the runtime.
    pub fn lease(&self, name: &str) -> Result<ImageLease> {
        let name = ImageName::parse(name)?;
        let mut state = self.0.state();
        let tree = state.images.get(&name).ok_or_else(|| no_image(&name))?.tree.clone();
        *state.leases.entry(tree.clone()).or_default() += 1;
        Ok(ImageLease { store: Arc::clone(&self.0), rootfs: self.0.rootfs(&tree), tree })
    }

    /// Removes the trees that nobody needs any more, and what a predecessor left; returns how many
    /// directories went. Blocking; quick when there is nothing to do. To be called after the start
    /// and after each end of a runtime. What cannot be removed is tried again by the next call.
    pub fn collect(&self) -> usize {
        self.0.collect()
    }
}

/// Keeps one root file system in place.
pub struct ImageLease {
    store: Arc<Store>,
    tree: String,
    rootfs: PathBuf,
}

impl ImageLease {
    /// The root file system. Owned by root as the archive says, or by the server's user. It must
    /// never be written to, and its symbolic links must never be followed by the host.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }
}

impl Drop for ImageLease {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if let Some(count) = state.leases.get_mut(&self.tree) {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(&self.tree);
            }
        }
    }
}

impl fmt::Debug for ImageLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageLease").field("rootfs", &self.rootfs).finish_non_exhaustive()
    }
}

#[async_trait]
impl Images for ImageStore {
    async fn list(&self) -> Result<Vec<ImageRecord>> {
        let state = self.0.state();
        Ok(state.images.iter().map(|(name, record)| record.public(name)).collect())
    }

    async fn import(&self, name: &str, archive: ByteStream) -> Result<ImageRecord> {
        let name = ImageName::parse(name)?;
        let Ok(permit) = Arc::clone(&self.0.imports).try_acquire_owned() else {
            let sentence = format!("{IMPORTS} imports are running already: try again later");
            return Err(Error::new(ErrorKind::Exhausted, sentence));
        };
        let (feeder, source) = input::channel();
        let store = Arc::clone(&self.0);
        let work = self.0.tasks.spawn_blocking(move || {
            let _permit = permit;
            store.import(&name, source)
        });
        feeder.feed(archive, self.0.caps.stall).await;
        finished(work.await)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let name = ImageName::parse(name)?;
        let deadline = Instant::now() + LEASE_WAIT;
        loop {
            let (store, name) = (Arc::clone(&self.0), name.clone());
            match finished(self.0.tasks.spawn_blocking(move || store.remove(&name)).await)? {
                Removal::Done => return Ok(()),
                Removal::Leased if Instant::now() < deadline => {
                    tokio::time::sleep(LEASE_POLL).await
                }
                Removal::Leased | Removal::Used => break,
            }
        }
        let sentence = format!("the image {:?} is used by a sandbox", name.as_str());
        Err(Error::new(ErrorKind::Conflict, sentence))
    }
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self) -> MutexGuard<'_, ()> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rootfs(&self, tree: &str) -> PathBuf {
        self.path.join("trees").join(tree).join("rootfs")
    }

    fn import(&self, name: &ImageName, source: input::Source) -> Result<ImageRecord> {
        let staging = Staging::new(self)?;
        let size = staging.fill(source)?;
        let record = Record { tree: staging.id.clone(), size, created: self.clock.now() };
        let _commit = self.commit();
        staging.publish()?;
        let recorded = fs::fsync(&self.trees)
            .map_err(std::io::Error::from)
            .and_then(|()| record::write(self.names.as_fd(), name, &record));
        if let Err(error) = recorded {
            self.state().retired.insert(record.tree);
            return Err(host("recorded", error));
        }
        let public = record.public(name);
        let mut state = self.state();
        if let Some(old) = state.images.insert(name.clone(), record) {
            state.retired.insert(old.tree);
        }
        drop(state);
        tracing::info!(image = name.as_str(), bytes = size, "image imported");
        Ok(public)
    }

    fn remove(&self, name: &ImageName) -> Result<Removal> {
        let removal = self.forget(name)?;
        if removal == Removal::Done {
            self.collect();
            tracing::info!(image = name.as_str(), "image removed");
        }
        Ok(removal)
    }

    fn forget(&self, name: &ImageName) -> Result<Removal> {
        let _commit = self.commit();
        // With its name gone no new lease can begin; with the state locked none does meanwhile.
        let record = {
            let mut state = self.state();
            let record = state.images.get(name).cloned().ok_or_else(|| no_image(name))?;
            let leased = state.leases.contains_key(&record.tree);
            if (self.in_use)(&self.rootfs(&record.tree)) {
                return Ok(Removal::Used);
            }
            if leased {
                return Ok(Removal::Leased);
            }
            state.images.remove(name);
            record
        };
        let file = name.file_name();
        let removed = fs::unlinkat(&self.names, file.as_str(), AtFlags::empty())
            .and_then(|()| fs::fsync(&self.names));
        if let Err(error) = removed {
            self.state().images.insert(name.clone(), record);
            return Err(host("removed", error));
        }
        self.state().retired.insert(record.tree);
        Ok(Removal::Done)
    }

    fn collect(&self) -> usize {
        self.set_aside();
        let leftovers = std::mem::take(&mut self.state().leftovers);
        let mut removed = 0;
        for name in leftovers {
            match tree::remove_tree(self.images.as_fd(), &name) {
                Ok(()) => removed += 1,
                Err(error) => {
                    tracing::warn!(%error, "an unused image could not be removed");
                    self.state().leftovers.push(name);
                }
            }
        }
        removed
    }

    /// Moves the trees that nobody needs out of the way, so that a crash during their removal
    /// leaves no half tree under an id.
    fn set_aside(&self) {
        let _commit = self.commit();
        let free: Vec<String> = {
            let state = self.state();
            state.retired.iter().filter(|tree| !self.needed(&state, tree)).cloned().collect()
        };
        for tree in free {
            let dead = format!(".dead-{tree}");
            match fs::renameat(&self.trees, &tree, &self.images, &dead) {
                Ok(()) => {
                    let mut state = self.state();
                    state.retired.remove(&tree);
                    state.leftovers.push(dead.into());
                }
                Err(error) => tracing::warn!(%error, "an unused image could not be put aside"),
            }
        }
    }

    /// Leases first: one ends only after `in_use` can tell of its runtime.
    fn needed(&self, state: &State, tree: &str) -> bool {
        state.leases.contains_key(tree) || (self.in_use)(&self.rootfs(tree))
    }
}

fn no_image(name: &ImageName) -> Error {
    let name = name.as_str();
    let sentence =
        format!("no image {name:?} here: import it first with: stacyvm image import {name} PATH");
    Error::new(ErrorKind::NoImage, sentence)
}

fn finished<T>(outcome: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|error| {
        Err(Error::unknown(ErrorKind::Internal, "the work on the image was broken off")
            .because(error))
    })
}
