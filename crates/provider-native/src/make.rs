//! Making a runtime: from nothing to an agent that listens, owned by nobody yet.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
};
use stacyvm_hostkit::fdpass;
use stacyvm_provider::{Error, ErrorKind, Result, failpoint};
use stacyvm_types::Limits;

use crate::{
    HOST_IMAGE,
    cgroup::{Groups, Kernel, Used, Version},
    failpoints,
    images::ImageLease,
    provider::Shared,
    record::{Process, Record},
    rundir::{SOCKET, make_private},
    runtime::{Live, clear},
    spawner::protocol::{FAILED, Ids, Order, READY, RECORDED},
};

/// How long a first process may take to enclose itself.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// One inode for each 8 KiB of memory: a file without content takes about one KiB of the kernel's
/// memory, which counts against the sandbox's and must fit into the eighth that content leaves.
const MEMORY_PER_INODE: u64 = 8 * 1024;

/// What to make a runtime from.
pub(crate) struct Wanted {
    /// The image's name.
    pub(crate) image: String,
    /// What it may use.
    pub(crate) limits: Limits,
}

/// Undoes what was made so far unless told that all went well.
struct Half<'a> {
    shared: &'a Shared,
    dir: PathBuf,
    groups: Groups,
    pidfd: Option<OwnedFd>,
    finished: bool,
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(pidfd) = &self.pidfd {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
            let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience));
        }
        if let Err(error) = clear(&Kernel, &self.groups, &self.dir) {
            tracing::warn!(%error, "a half-made runtime cannot be removed");
        }
        self.shared.images.collect();
    }
}

/// The writable space of a sandbox in MiB.
///
/// Files are held in memory and count against the memory limit, so the space ends before the
/// memory does: a full disk must be an error for who writes, not the end of the sandbox.
pub(crate) fn writable_mb(limits: &Limits) -> u32 {
    limits.disk_mb.min(limits.memory_mb - limits.memory_mb / 8)
}

fn failed(sentence: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, sentence).because(error)
    }
}

/// Makes a runtime in the pool's directory. Blocking. Leaves nothing when it fails.
pub(crate) fn make(shared: &Shared, wanted: Wanted) -> Result<Live> {
    let Base { lower, binds, lease } = base(shared, &wanted.image)?;
    let slot = match shared.rootless {
        Some(_) => None,
        None => Some(shared.slots.take().ok_or_else(|| {
            Error::new(ErrorKind::Exhausted, "all ranges of users are in use by sandboxes")
        })?),
    };
    let name = shared.fresh_name();
    let dir = shared.run.pooled(&name);
    failpoint!(failpoints::LAUNCH_BEFORE_DIRECTORY);
    make_private(&dir).map_err(failed("the sandbox's directory cannot be made"))?;
    let mut half = Half { shared, dir, groups: Groups(vec![]), pidfd: None, finished: false };
    failpoint!(failpoints::LAUNCH_BEFORE_GROUPS);
    let Used { groups, cpu_us } = groups(shared, &name, &wanted.limits)
        .map_err(failed("the sandbox's limits cannot be set"))?;
    half.groups = groups;
    let listener = bind_socket(&half.dir).map_err(failed("the agent's socket cannot be made"))?;
    let (status, their_status) = fdpass::pair().map_err(failed("no status channel"))?;
    let disk_mb = writable_mb(&wanted.limits);
    let disk_bytes = u64::from(disk_mb) << 20;
    let ids = match (&slot, shared.rootless) {
        (Some(slot), _) => Ids::Range { base: slot.base() },
        (None, Some(ids)) => ids,
        (None, None) => unreachable!("a slot is taken unless rootless"),
    };
    let (cgroup, attach) = attach_points(shared, &half.groups)
        .map_err(failed("the sandbox's limits cannot be entered"))?;
    let order = Order {
        ids,
        lower: lower.to_string_lossy().into_owned(),
        binds,
        disk_bytes,
        disk_inodes: (u64::from(wanted.limits.memory_mb) << 20) / MEMORY_PER_INODE,
        into_cgroup: cgroup.is_some(),
        max_processes: shared.rootless.map(|_| u64::from(wanted.limits.pids) + 1),
    };
    let mut fds = vec![listener.as_fd(), their_status.as_fd()];
    fds.extend(cgroup.as_ref().map(AsFd::as_fd));
    fds.extend(attach.iter().map(AsFd::as_fd));
    failpoint!(failpoints::LAUNCH_BEFORE_CLONE);
    let (pid, pidfd) = shared.spawner.launch(order, &fds)?;
    drop((their_status, listener, attach, cgroup));
    half.pidfd = Some(pidfd);
    failpoint!(failpoints::LAUNCH_BEFORE_RECORD);
    let record = Record {
        name,
        process: Process::of(pid).map_err(failed("the sandbox ended at once"))?,
        slot: slot.as_ref().map(crate::slots::Slot::number),
        groups: half.groups.0.clone(),
        cpu_before_us: cpu_us,
        lower,
        image: wanted.image,
        disk_mb,
        memory_mb: wanted.limits.memory_mb,
        vcpus: wanted.limits.vcpus,
        pids: wanted.limits.pids,
        owner: None,
    };
    record.write(&half.dir).map_err(failed("the sandbox cannot be written down"))?;
    failpoint!(failpoints::LAUNCH_AFTER_RECORD);
    // A child that failed early has closed its end; what it said is read below.
    let _ = fdpass::send(&status, &[RECORDED], &[]);
    await_ready(&status)?;
    failpoint!(failpoints::LAUNCH_AFTER_READY);
    half.finished = true;
    Ok(Live::new(record, half.dir.clone(), half.pidfd.take(), slot, lease))
}

/// Groups with these limits: some that wait, else new ones.
fn groups(shared: &Shared, name: &str, limits: &Limits) -> io::Result<Used> {
    if let Some(used) = shared.spare_groups.take(&Kernel, limits) {
        return Ok(used);
    }
    let groups = Groups::make(&Kernel, &shared.hierarchies, name, limits)?;
    Ok(Used { groups, cpu_us: 0 })
}

/// What a runtime's root stands on.
struct Base {
    lower: PathBuf,
    binds: Vec<String>,
    lease: Option<ImageLease>,
}

fn base(shared: &Shared, image: &str) -> Result<Base> {
    if image != HOST_IMAGE {
        let lease = shared.images.lease(image)?;
        return Ok(Base { lower: lease.rootfs().to_owned(), binds: vec![], lease: Some(lease) });
    }
    match &shared.skeleton {
        Ok(skeleton) => Ok(Base {
            lower: skeleton.lower.clone(),
            binds: skeleton.binds.iter().map(|name| (*name).to_owned()).collect(),
            lease: None,
        }),
        Err(reason) => Err(Error::new(ErrorKind::NoImage, reason.clone())),
    }
}

/// Binds the agent's socket in its directory. Through a descriptor, because a socket's path is
/// short and a data directory's may not be.
fn bind_socket(dir: &Path) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let dir = fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The v2 group to be born in, and the `tasks` files of v1 groups to enter.
fn attach_points(shared: &Shared, groups: &Groups) -> io::Result<(Option<OwnedFd>, Vec<OwnedFd>)> {
    let (mut v2, mut v1) = (None, Vec::new());
    debug_assert!(groups.lie_in(&shared.hierarchies), "{groups:?}");
    for (hierarchy, group) in shared.hierarchies.iter().zip(&groups.0) {
        match hierarchy.version {
            Version::V1 => {
                let tasks = fs::File::options().write(true).open(group.join("tasks"))?;
                v1.push(tasks.into());
            }
            Version::V2 => v2 = Some(fs::File::open(group)?.into()),
        }
    }
    Ok((v2, v1))
}

fn await_ready(status: &OwnedFd) -> Result<()> {
    let patience =
        Timespec { tv_sec: i64::try_from(READY_WITHIN.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(status, PollFlags::IN)], Some(&patience));
    if !matches!(ready, Ok(1..)) {
        return Err(Error::new(ErrorKind::Timeout, "the sandbox took too long to start"));
    }
    let mut message = [0; 1024];
    let ended = || Error::new(ErrorKind::Internal, "the sandbox ended before it was ready");
    match fdpass::receive(status, &mut message) {
        Ok(Some((1.., _))) if message[0] == READY => Ok(()),
        Ok(Some((length, _))) if length > 0 && message[0] == FAILED => {
            let sentence = String::from_utf8_lossy(&message[1..length]).into_owned();
            Err(Error::new(ErrorKind::Internal, "the sandbox could not be enclosed")
                .because(sentence))
        }
        Ok(_) => Err(ended()),
        Err(error) => Err(ended().because(error)),
    }
}
