//! The provider: launches, finds and destroys runtimes.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use stacyvm_provider::{
    Capabilities, Error, ErrorKind, Guest, Images, LaunchSpec, Probe, Provider, Result, Runtime,
    RuntimeState, failpoint,
};
use stacyvm_types::{Limits, SandboxId, time::Clock};
use tokio::sync::{Notify, OwnedMutexGuard, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    HOST_IMAGE,
    cgroup::{Hierarchy, Kernel, Spares},
    early::Early,
    failpoints,
    images::ImageStore,
    make::{Wanted, make, writable_mb},
    probe::{Facts, KeptLimits, decide},
    record::{Owner, Record},
    rundir::RunDir,
    runtime::{Live, clear_directory, clear_groups},
    skeleton::Skeleton,
    slots::Slots,
    spawner::{Spawner, protocol::Ids},
};

/// Launches that are under way at once; more wait.
pub(crate) const LAUNCHES: usize = 16;

/// The runtimes that have owners.
#[derive(Default)]
pub(crate) struct Registry(Mutex<BTreeMap<SandboxId, Arc<Live>>>);

impl Registry {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, id: &SandboxId) -> Option<Arc<Live>> {
        self.locked().get(id).cloned()
    }

    pub(crate) fn insert(&self, id: SandboxId, live: Arc<Live>) {
        self.locked().insert(id, live);
    }

    pub(crate) fn remove(&self, id: &SandboxId) {
        self.locked().remove(id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.locked().values().cloned().collect()
    }
}

/// What all parts of the provider share.
pub(crate) struct Shared {
    pub(crate) run: RunDir,
    /// The image "host", or why this host cannot give it.
    pub(crate) skeleton: Result<Skeleton, String>,
    pub(crate) spawner: Spawner,
    pub(crate) slots: Arc<Slots>,
    pub(crate) hierarchies: Vec<Hierarchy>,
    pub(crate) images: ImageStore,
    pub(crate) rootless: Option<Ids>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) pool: Mutex<VecDeque<Live>>,
    pub(crate) pool_size: usize,
    pub(crate) pool_limits: Limits,
    pub(crate) pool_wanted: Notify,
    pub(crate) early: Early,
    pub(crate) spare_groups: Spares,
    pub(crate) spares_changed: Notify,
    pub(crate) launching: AtomicUsize,
    /// Launches that ever began.
    pub(crate) launches: AtomicUsize,
    pub(crate) permits: Semaphore,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) capabilities: Capabilities,
    /// The limits that the hierarchies keep, for the probe.
    pub(crate) limits: KeptLimits,
    /// One call at a time changes a sandbox's runtime.
    pub(crate) locks: Mutex<HashMap<SandboxId, Weak<tokio::sync::Mutex<()>>>>,
}

/// Counts a launch as under way, so that the pool is not refilled meanwhile.
struct Launching<'a>(&'a AtomicUsize);

impl<'a> Launching<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Launching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// A name that no runtime has: the time would do, chance makes it sure.
    pub(crate) fn fresh_name(&self) -> String {
        format!("rt-{:016x}", rand::random::<u64>())
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, VecDeque<Live>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of one sandbox.
    fn lock_of(&self, id: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(id).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(id.clone(), Arc::downgrade(&lock));
        lock
    }

    /// Makes a runtime on a blocking thread, a bounded number at once.
    pub(crate) async fn make(self: &Arc<Self>, wanted: Wanted) -> Result<Live> {
        let _permit = self.permits.acquire().await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the provider is stopping").because(error)
        })?;
        let shared = Arc::clone(self);
        finished(self.tasks.spawn_blocking(move || make(&shared, wanted)).await)?
    }

    async fn launch(
        self: Arc<Self>,
        spec: LaunchSpec,
        _locked: OwnedMutexGuard<()>,
    ) -> Result<Runtime> {
        if let Some(live) = self.registry.find(&spec.id) {
            return live.describe().ok_or_else(no_owner);
        }
        let _launching = Launching::begin(&self.launching);
        self.launches.fetch_add(1, Ordering::SeqCst);
        let waiting = self.take_waiting(&spec);
        // One that waited has answered before.
        let answered = waiting.is_some();
        let live = match waiting {
            Some(live) => live,
            None => self.made(&spec.image, spec.limits).await?,
        };
        let live = Arc::new(self.hand_over(live, &spec).await?);
        self.registry.insert(spec.id.clone(), Arc::clone(&live));
        if !answered {
            // Its first process said that it is ready, so this is only to have a connection by the
            // time somebody wants one; what goes wrong with it, goes wrong again then.
            let guest = Arc::clone(&live.guest);
            self.tasks.spawn(async move { guest.hello().await.map(drop) });
        }
        live.describe().ok_or_else(no_owner)
    }

    /// Whether a runtime waits that fits.
    fn has_waiting(&self, image: &str, limits: &Limits) -> bool {
        image == HOST_IMAGE && self.pool().iter().any(|l| l.record.disk_mb == writable_mb(limits))
    }

    /// A waiting runtime that fits; its place is filled again when there is time.
    fn take_waiting(self: &Arc<Self>, spec: &LaunchSpec) -> Option<Live> {
        if spec.image != HOST_IMAGE {
            return None;
        }
        loop {
            let at =
                self.pool().iter().position(|l| l.record.disk_mb == writable_mb(&spec.limits))?;
            let live = self.pool().remove(at);
            self.pool_wanted.notify_one();
            match live {
                Some(live) if live.state() == RuntimeState::Running => return Some(live),
                Some(live) => self.forget(live),
                None => {}
            }
        }
    }

    /// Gives a waiting runtime the limits that were asked for, unless it was made with them.
    fn adjust(&self, live: &mut Live, limits: Limits) -> std::io::Result<()> {
        let Limits { memory_mb, vcpus, pids, disk_mb: _ } = limits;
        let Record { memory_mb: memory, vcpus: cpus, pids: processes, .. } = live.record;
        if (memory, cpus, processes) == (memory_mb, vcpus, pids) {
            return Ok(());
        }
        live.groups().adjust(&Kernel, &self.hierarchies, &limits)?;
        live.record = Record { memory_mb, vcpus, pids, ..live.record.clone() };
        live.record.write(&live.dir)
    }

    /// Makes a runtime the sandbox's: first on paper, then by its place.
    async fn hand_over(self: &Arc<Self>, mut live: Live, spec: &LaunchSpec) -> Result<Live> {
        let cannot = |error| {
            Error::new(ErrorKind::Internal, "the sandbox cannot be handed over").because(error)
        };
        let record = &mut live.record;
        record.owner = Some(Owner {
            id: spec.id.to_string(),
            generation: spec.generation.0,
            created_us: self.clock.now().as_micros(),
        });
        let place = self.run.sandbox(&spec.id);
        failpoint!(failpoints::CLAIM_BEFORE_RECORD);
        let adjusted = self.adjust(&mut live, spec.limits);
        let done = adjusted.and_then(|()| {
            live.record.write_owner(&live.dir)?;
            failpoint!(failpoints::CLAIM_BEFORE_RENAME);
            fs::rename(&live.dir, &place)
        });
        if let Err(error) = done {
            let _ = live.kill(&self.tasks).await;
            self.forget(live);
            return Err(cannot(error));
        }
        failpoint!(failpoints::CLAIM_AFTER_RENAME);
        live.moved_to(place);
        Ok(live)
    }

    /// Ends a runtime: its processes now, its files when there is time.
    async fn end(self: &Arc<Self>, id: &SandboxId, live: &Arc<Live>) -> Result<()> {
        failpoint!(failpoints::DESTROY_BEFORE_KILL);
        live.kill(&self.tasks).await?;
        failpoint!(failpoints::DESTROY_AFTER_KILL);
        let gone = self.run.gone(&live.record.name);
        match fs::rename(&live.dir, &gone) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::unknown(ErrorKind::Internal, "the sandbox cannot be put away")
                    .because(error));
            }
            _ => {}
        }
        failpoint!(failpoints::DESTROY_AFTER_RENAME);
        self.registry.remove(id);
        self.clear_later(Arc::clone(live), gone, true);
        Ok(())
    }

    /// Removes what an unowned runtime leaves, which has no processes any more.
    pub(crate) fn forget(self: &Arc<Self>, live: Live) {
        let dir = live.dir.clone();
        self.clear_later(Arc::new(live), dir, false);
    }

    fn clear_later(self: &Arc<Self>, live: Arc<Live>, dir: PathBuf, keep_groups: bool) {
        // The directories are closed by whoever is the last to use them.
        let shared = Arc::clone(self);
        self.tasks.spawn_blocking(move || clear_away(&shared, live, &dir, keep_groups));
    }

    async fn destroy(self: Arc<Self>, id: SandboxId) -> Result<()> {
        let lock = self.lock_of(&id);
        let _locked = lock.lock().await;
        match self.registry.find(&id) {
            Some(live) => self.end(&id, &live).await,
            None => Ok(()),
        }
    }
}

/// Removes the leftovers of a runtime, or keeps what another one can use, and then gives back its
/// users and its image. Groups that are kept have no record any more by then.
fn clear_away(shared: &Shared, live: Arc<Live>, dir: &std::path::Path, keep_groups: bool) {
    let groups = live.groups();
    let cleared = clear_directory(dir).and_then(|()| {
        let keep = keep_groups && groups.lie_in(&shared.hierarchies);
        if keep && shared.spare_groups.offer(&Kernel, &groups, live.limits()) {
            shared.spares_changed.notify_one();
            return Ok(());
        }
        clear_groups(&Kernel, &groups)
    });
    if let Err(error) = cleared {
        tracing::warn!(runtime = live.record.name, %error, "a runtime's leftovers stay for now");
    }
    drop(live);
    shared.images.collect();
    failpoint!(failpoints::DESTROY_AFTER_CLEAR);
}

/// Removes control groups that nobody needs, until the server stops, and then all.
pub(crate) async fn remove_spares(shared: Arc<Shared>) {
    let stopping = shared.stopping.clone();
    let wait = async |shared: &Shared| match shared.spare_groups.next_outdated() {
        Some(pause) => tokio::time::sleep(pause).await,
        None => shared.spares_changed.notified().await,
    };
    loop {
        let is_last = stopping.run_until_cancelled(wait(&shared)).await.is_none();
        let outdated = match is_last {
            true => shared.spare_groups.close(),
            false => shared.spare_groups.outdated(),
        };
        let removing = shared.tasks.spawn_blocking(move || {
            for groups in outdated {
                // Whatever stays is in nobody's way and is found by the next server.
                let _ = clear_groups(&Kernel, &groups);
            }
        });
        let _ = removing.await;
        if is_last {
            return;
        }
    }
}

fn no_owner() -> Error {
    Error::new(ErrorKind::Internal, "the sandbox's record names no owner")
}

/// The result of a task that neither panics nor is aborted, unless there is a bug.
pub(crate) fn finished<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T> {
    joined.map_err(|error| {
        Error::unknown(ErrorKind::Internal, "the provider failed in the middle").because(error)
    })
}

/// Sandboxes from the kernel's own means.
pub struct NativeProvider {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for NativeProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeProvider").field("run", &self.shared.run).finish_non_exhaustive()
    }
}

impl NativeProvider {
    fn live(&self, id: &SandboxId) -> Result<Arc<Live>> {
        self.shared
            .registry
            .find(id)
            .ok_or_else(|| Error::new(ErrorKind::NoSandbox, format!("no runtime of sandbox {id}")))
    }

    /// How many runtimes wait for an owner.
    pub fn waiting(&self) -> usize {
        self.shared.pool().len()
    }

    /// The process number of the spawner.
    pub fn spawner_pid(&self) -> u32 {
        self.shared.spawner.pid()
    }
}

#[async_trait]
impl Provider for NativeProvider {
    fn name(&self) -> &'static str {
        "native"
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.capabilities
    }

    async fn probe(&self) -> Probe {
        let refused = self.shared.skeleton.as_ref().err().cloned();
        decide(&Facts::gather(self.shared.limits.clone(), refused)).probe
    }

    fn expect(&self, image: &str, limits: &Limits) {
        if !self.shared.has_waiting(image, limits) {
            self.shared.begin_early(image, *limits);
        }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Runtime> {
        // On a task of its own: who asked may go away, the launch then still ends well. Locked before
        // that, or a destruction that is asked for afterwards could find nothing and come first.
        let locked = self.shared.lock_of(&spec.id).lock_owned().await;
        let work = Arc::clone(&self.shared).launch(spec.clone(), locked);
        finished(self.shared.tasks.spawn(work).await)?
    }

    async fn list(&self) -> Result<Vec<Runtime>> {
        Ok(self.shared.registry.all().iter().filter_map(|live| live.describe()).collect())
    }

    async fn status(&self, id: &SandboxId) -> Result<Runtime> {
        self.live(id)?.describe().ok_or_else(no_owner)
    }

    async fn destroy(&self, id: &SandboxId) -> Result<()> {
        let work = Arc::clone(&self.shared).destroy(id.clone());
        finished(self.shared.tasks.spawn(work).await)?
    }

    async fn pause(&self, _id: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "the native provider cannot pause sandboxes"))
    }

    async fn resume(&self, _id: &SandboxId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "the native provider cannot pause sandboxes"))
    }

    async fn guest(&self, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        let live = self.live(id)?;
        match live.state() {
            RuntimeState::Dead => Err(Error::new(ErrorKind::Unavailable, "the sandbox has ended")),
            RuntimeState::Running | RuntimeState::Paused => Ok(Arc::clone(&live.guest) as _),
        }
    }

    fn images(&self) -> Option<&dyn Images> {
        Some(&self.shared.images)
    }
}
