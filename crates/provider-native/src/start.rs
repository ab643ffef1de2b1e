//! The provider's beginning: what this host gives, what a predecessor left, who still lives.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getegid, geteuid, kill_process};
use stacyvm_provider::{Error, ErrorKind, Result, RuntimeState};
use stacyvm_types::{Limits, SandboxId, time::Clock};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cgroup::{CgroupFs, Groups, Hierarchy, Kernel, Places, Spares},
    early::Early,
    images::{Caps, ImageStore, Parts},
    pool,
    probe::{Facts, KeptLimits, decide},
    provider::{LAUNCHES, NativeProvider, Registry, Shared, remove_spares},
    record::Record,
    rundir::{Memory, RunDir},
    runtime::{Live, clear},
    skeleton,
    slots::Slots,
    spawner::{Spawner, protocol::Ids},
    subordinate, watchdog,
};

/// The first host user of the first sandbox, unless told otherwise: above every range that systems
/// hand out to people, and below what a signed number cannot hold.
pub const UID_BASE: u32 = 0x6000_0000;

/// What a [`NativeProvider`] is made of.
pub struct NativeSettings {
    /// The server's data directory.
    pub data_dir: PathBuf,
    /// Runtimes made ahead; 0 is none.
    pub pool_size: usize,
    /// The limits that the pool's runtimes are made with.
    pub pool_limits: Limits,
    /// The first of 8192 ranges of 65,536 host users each.
    pub uid_base: u32,
    /// The process that starts sandboxes.
    pub spawner: Spawner,
    /// Owns all work that outlives a call.
    pub tasks: TaskTracker,
    /// Ends the tasks that would go on for ever.
    pub stopping: CancellationToken,
    /// Dates launches and imports.
    pub clock: Arc<dyn Clock>,
}

impl NativeProvider {
    /// Takes a data directory: adopts the sandboxes that live, removes what nobody owns, and starts
    /// to fill the pool. Blocking. Another server on the same directory is a
    /// [`ErrorKind::Conflict`].
    pub fn new(settings: NativeSettings) -> Result<Arc<Self>> {
        let fresh = || format!("{:016x}", rand::random::<u64>());
        let run = RunDir::open(&settings.data_dir, &Memory::of_this_host(), fresh)?;
        let rootless = rootless_ids();
        let (hierarchies, reasons) = hierarchies(run.instance(), rootless.is_some());
        for reason in &reasons {
            tracing::warn!(reason, "a control group hierarchy cannot be used");
        }
        let slots = Slots::new(settings.uid_base, run.instance());
        let registry = Arc::new(Registry::default());
        adopt(&run, &slots, &registry).map_err(unusable)?;
        remove_leftovers(&run, &registry, &hierarchies).map_err(unusable)?;
        let runs_from = {
            let registry = Arc::downgrade(&registry);
            move |lower: &Path| {
                registry
                    .upgrade()
                    .is_some_and(|all| all.all().iter().any(|live| live.record.lower == lower))
            }
        };
        let images = ImageStore::open(Parts {
            data_dir: settings.data_dir.clone(),
            caps: Caps::default(),
            in_use: Arc::new(runs_from.clone()),
            tasks: settings.tasks.clone(),
            clock: Arc::clone(&settings.clock),
        })?;
        let skeleton = skeleton::prepare(Path::new("/"), &settings.data_dir);
        match &skeleton {
            Ok(skeleton) => {
                if let Err(error) = skeleton::collect(skeleton, runs_from) {
                    tracing::warn!(%error, "old trees of the image host stay for now");
                }
            }
            Err(error) => tracing::warn!(%error, "the image host is not available"),
        }
        let pool_size = if skeleton.is_ok() { settings.pool_size } else { 0 };
        let skeleton = skeleton.map_err(|error| error.to_string());
        let limits = KeptLimits::settled(&hierarchies, &reasons);
        let host = Facts::gather(limits.clone(), skeleton.as_ref().err().cloned());
        let shared = Arc::new(Shared {
            run,
            skeleton,
            spawner: settings.spawner,
            slots,
            capabilities: decide(&host).capabilities,
            limits,
            hierarchies,
            images: images.clone(),
            rootless,
            registry,
            pool: Mutex::default(),
            pool_size,
            pool_limits: settings.pool_limits,
            pool_wanted: Notify::new(),
            early: Early::default(),
            spare_groups: Spares::default(),
            spares_changed: Notify::new(),
            launching: AtomicUsize::new(0),
            launches: AtomicUsize::new(0),
            permits: Semaphore::new(LAUNCHES),
            tasks: settings.tasks.clone(),
            stopping: settings.stopping,
            clock: settings.clock,
            locks: Mutex::default(),
        });
        settings.tasks.spawn_blocking(move || images.collect());
        if 0 < shared.pool_size {
            settings.tasks.spawn(pool::keep_full(Arc::clone(&shared)));
        }
        if !shared.hierarchies.is_empty() {
            settings.tasks.spawn(remove_spares(Arc::clone(&shared)));
        }
        if !shared.capabilities.memory_limit {
            settings.tasks.spawn(watchdog::watch(Arc::clone(&shared)));
        }
        Ok(Arc::new(Self { shared }))
    }

    /// The directory of the runtimes' records and sockets.
    pub fn runtimes(&self) -> &Path {
        self.shared.run.runtimes()
    }
}

fn unusable(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "the data directory cannot be used").because(error)
}

/// The images of a data directory that no provider has open, and keeps closed to them. What a
/// sandbox was launched from counts as used for as long as its record is there. Blocking.
pub fn images_of(
    data_dir: &Path,
    tasks: &TaskTracker,
    clock: Arc<dyn Clock>,
) -> Result<ImageStore> {
    let fresh = || format!("{:016x}", rand::random::<u64>());
    let run = RunDir::open(data_dir, &Memory::of_this_host(), fresh)?;
    let in_use = move |lower: &Path| {
        let Ok(sandboxes) = run.sandboxes() else { return true };
        // Nothing is known of a record that cannot be read.
        let uses = |dir: &PathBuf| Record::read(dir).map_or(true, |record| record.lower == lower);
        sandboxes.iter().any(uses)
    };
    ImageStore::open(Parts {
        data_dir: data_dir.to_owned(),
        caps: Caps::default(),
        in_use: Arc::new(in_use),
        tasks: tasks.clone(),
        clock,
    })
}

/// The users of a sandbox where this server is not root.
fn rootless_ids() -> Option<Ids> {
    if geteuid().is_root() {
        return None;
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    Some(subordinate::ids(uid, gid).unwrap_or(Ids::Single { uid, gid }))
}

fn hierarchies(instance: &str, rootless: bool) -> (Vec<Hierarchy>, Vec<String>) {
    let places = match Places::of_this_process(&Kernel) {
        Ok(places) => places,
        Err(error) => return (vec![], vec![format!("/proc/self/cgroup: {error}")]),
    };
    let (hierarchies, reasons) = places.settle(&Kernel, instance);
    // Without root there is seldom anything delegated; that is no news.
    (hierarchies, if rootless { vec![] } else { reasons })
}

/// Finds the runtimes of earlier servers that have owners, dead ones too.
fn adopt(run: &RunDir, slots: &Arc<Slots>, registry: &Registry) -> io::Result<()> {
    for dir in run.sandboxes()? {
        let id = dir.file_name().and_then(|name| SandboxId::parse(&name.to_string_lossy()).ok());
        let record = Record::read(&dir);
        let (Some(id), Ok(record)) = (id, record) else {
            // Written before it was put there, so this is not ours, or damaged. Its processes, if
            // any, go with its control groups below.
            tracing::warn!(dir = %dir.display(), "not a runtime; removed");
            fs::remove_dir_all(&dir)?;
            continue;
        };
        let pidfd = record.process.open();
        let slot = record.slot.and_then(|number| slots.adopt(number));
        let live = Live::new(record, dir, pidfd, slot, None);
        if live.state() == RuntimeState::Running {
            tracing::info!(sandbox.id = %id, "sandbox found again");
        }
        registry.insert(id, Arc::new(live));
    }
    Ok(())
}

/// Kills and removes what no sandbox owns.
fn remove_leftovers(
    run: &RunDir,
    registry: &Registry,
    hierarchies: &[Hierarchy],
) -> io::Result<()> {
    let bases: Vec<PathBuf> = hierarchies.iter().map(|h| h.base.clone()).collect();
    let bases = run.remember_groups(&bases)?;
    let leftovers = run.leftovers()?;
    let mut groups = Vec::new();
    for dir in &leftovers {
        let Ok(record) = Record::read(dir) else { continue };
        if let Some(pidfd) = record.process.open() {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
        groups.extend(record.groups);
    }
    let owned: BTreeSet<PathBuf> =
        registry.all().iter().flat_map(|live| live.record.groups.clone()).collect();
    for base in bases {
        let Ok(entries) = fs::read_dir(&base) else { continue };
        groups
            .extend(entries.filter_map(|e| e.ok()).filter(|e| e.path().is_dir()).map(|e| e.path()));
    }
    groups.retain(|group| !owned.contains(group));
    kill_all(&Groups(groups.clone()));
    for dir in leftovers {
        clear(&Kernel, &Groups(vec![]), &dir)?;
    }
    let left = Groups(groups).remove(&Kernel);
    if !left.is_empty() {
        tracing::warn!(groups = ?left, "control groups of a predecessor cannot be removed");
    }
    Ok(())
}

/// Kills until the groups are empty, or for five seconds.
fn kill_all(groups: &Groups) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let pids = groups.processes(&Kernel as &dyn CgroupFs);
        if pids.is_empty() || deadline <= Instant::now() {
            return;
        }
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
