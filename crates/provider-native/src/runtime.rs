//! One runtime: its first process, its directory, what it holds of the host, and its end.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, pidfd_send_signal},
};
use stacyvm_agent_client::{AgentGuest, connector, unix};
use stacyvm_provider::{Error, ErrorKind, Result, Runtime, RuntimeState, Stats};
use stacyvm_types::{Generation, Limits, SandboxId, Timestamp};
use tokio_util::task::TaskTracker;

use crate::{
    cgroup::{CgroupFs, Groups, Kernel},
    images::ImageLease,
    provider::finished,
    record::{Record, is_alive},
    rundir::SOCKET,
    slots::Slot,
};

/// How long the kernel may take to end all processes of a runtime.
const END: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// A runtime that this server knows.
pub(crate) struct Live {
    /// What is written down about it.
    pub(crate) record: Record,
    /// Where.
    pub(crate) dir: PathBuf,
    /// Its first process; `None` when that had ended before this server began.
    pub(crate) pidfd: Option<OwnedFd>,
    /// Its users, until everything of it is gone.
    _slot: Option<Slot>,
    /// Its image, while this server made it.
    _lease: Option<ImageLease>,
    /// Its inside.
    pub(crate) guest: Arc<AgentGuest>,
    /// What the inside needs to know, changed when the runtime is handed over.
    contact: Arc<Mutex<Contact>>,
}

/// How a runtime's agent is reached, and what it cannot know itself.
struct Contact {
    socket: PathBuf,
    groups: Groups,
    cpu_before_us: u64,
    memory_mb: u32,
    disk_mb: u32,
}

impl Contact {
    fn of(record: &Record, dir: &Path) -> Self {
        Self {
            socket: dir.join(SOCKET),
            groups: Groups(record.groups.clone()),
            cpu_before_us: record.cpu_before_us,
            memory_mb: record.memory_mb,
            disk_mb: record.disk_mb,
        }
    }

    fn stats(&self) -> Stats {
        let counted = self.groups.usage(&Kernel);
        Stats {
            cpu_us: counted.cpu_us.map(|us| us.saturating_sub(self.cpu_before_us)),
            memory_bytes: counted.memory_bytes,
            pids: counted.pids,
            memory_limit_bytes: Some(u64::from(self.memory_mb) << 20),
            disk_limit_bytes: Some(u64::from(self.disk_mb) << 20),
            ..Stats::default()
        }
    }
}

fn locked(contact: &Mutex<Contact>) -> MutexGuard<'_, Contact> {
    contact.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// A runtime that `record` describes, in `dir`.
    pub(crate) fn new(
        record: Record,
        dir: PathBuf,
        pidfd: Option<OwnedFd>,
        slot: Option<Slot>,
        lease: Option<ImageLease>,
    ) -> Self {
        let contact = Arc::new(Mutex::new(Contact::of(&record, &dir)));
        let connect = {
            let contact = Arc::clone(&contact);
            connector(move || unix(locked(&contact).socket.clone())())
        };
        let stats = {
            let contact = Arc::clone(&contact);
            Arc::new(move || locked(&contact).stats())
        };
        let guest = Arc::new(AgentGuest::new(connect).with_host_stats(stats));
        Self { record, dir, pidfd, _slot: slot, _lease: lease, guest, contact }
    }

    /// The same runtime in another place, after its record changed.
    pub(crate) fn moved_to(&mut self, dir: PathBuf) {
        *locked(&self.contact) = Contact::of(&self.record, &dir);
        self.dir = dir;
    }

    /// The runtime as others see it; `None` while nobody owns it.
    pub(crate) fn describe(&self) -> Option<Runtime> {
        let owner = self.record.owner.as_ref()?;
        Some(Runtime {
            id: SandboxId::parse(&owner.id).ok()?,
            generation: Generation(owner.generation),
            state: self.state(),
            image: self.record.image.clone(),
            created: Timestamp::from_micros(owner.created_us),
        })
    }

    /// Whether its first process lives.
    pub(crate) fn state(&self) -> RuntimeState {
        match &self.pidfd {
            Some(pidfd) if is_alive(pidfd) => RuntimeState::Running,
            _ => RuntimeState::Dead,
        }
    }

    /// The limits that its control groups have.
    pub(crate) fn limits(&self) -> Limits {
        let Record { memory_mb, vcpus, pids, disk_mb, .. } = self.record;
        Limits { memory_mb, vcpus, pids, disk_mb }
    }

    /// Its control groups.
    pub(crate) fn groups(&self) -> Groups {
        Groups(self.record.groups.clone())
    }

    /// Kills everything in it and waits until the last process has ended.
    pub(crate) async fn kill(&self, tasks: &TaskTracker) -> Result<()> {
        let Some(pidfd) = &self.pidfd else { return Ok(()) };
        let pidfd = pidfd.try_clone().map_err(|error| stuck().because(error))?;
        finished(tasks.spawn_blocking(move || kill_and_wait(&pidfd)).await)?
    }
}

/// The first process of a pid namespace ends last, so one wait is enough.
fn kill_and_wait(pidfd: &OwnedFd) -> Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(stuck().because(error)),
    }
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&END)) {
        Ok(1..) => Ok(()),
        Ok(0) => Err(stuck()),
        Err(error) => Err(stuck().because(error)),
    }
}

fn stuck() -> Error {
    Error::unknown(ErrorKind::Timeout, "the sandbox's processes did not end in time")
}

/// Removes what a killed runtime leaves. Blocking. What cannot be removed is found by the next
/// server.
pub(crate) fn clear(kernel: &dyn CgroupFs, groups: &Groups, dir: &Path) -> io::Result<()> {
    clear_groups(kernel, groups)?;
    clear_directory(dir)
}

/// Removes control groups that nothing runs in.
pub(crate) fn clear_groups(kernel: &dyn CgroupFs, groups: &Groups) -> io::Result<()> {
    let left = groups.remove(kernel);
    if left.is_empty() {
        return Ok(());
    }
    tracing::warn!(groups = ?left, "control groups cannot be removed");
    Err(io::Error::other("control groups cannot be removed"))
}

/// Removes a runtime's directory.
pub(crate) fn clear_directory(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
