//! The sandbox's file system: layers, `/dev`, `/proc`, `/sys`, and the door shut behind them.
//!
//! One tmpfs holds everything that can be written: the upper layer of the root and `/dev/shm`. Its
//! size is the sandbox's disk limit. The directories that are mounted over are made in the upper
//! layer first, so an image cannot put a link in their place.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, mkdir, openat, symlink},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
        MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount, fsopen, mount,
        mount_bind, mount_change, mount_remount, move_mount, open_tree, unmount,
    },
};
use stacyvm_hostkit::mount as attributes;

use super::{Failed, devices};
use crate::spawner::protocol::{Ids, Order};

/// Where the writable file system is put together: a directory that every host has, in a mount
/// namespace that nobody else sees.
const STAGING: &str = "/tmp";

/// Entries of `/proc` that say or change something about the host.
const MASKED_FILES: [&str; 10] = [
    "cmdline",
    "config.gz",
    "kcore",
    "key-users",
    "keys",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
    "version_signature",
];
const MASKED_DIRECTORIES: [&str; 7] = ["acpi", "asound", "bus", "driver", "fs", "irq", "scsi"];

/// Which of the masked entries this kernel has. The same for all sandboxes.
pub(crate) struct Masks {
    files: Vec<&'static str>,
    directories: Vec<&'static str>,
}

impl Masks {
    /// Looks once.
    pub(crate) fn of_this_kernel() -> Self {
        let present = |name: &&'static str| Path::new("/proc").join(name).exists();
        Self {
            files: MASKED_FILES.into_iter().filter(present).collect(),
            directories: MASKED_DIRECTORIES.into_iter().filter(present).collect(),
        }
    }
}

/// The read-only parts of the root.
pub(crate) enum Layers {
    /// Detached mounts with the sandbox's ids, made by a privileged spawner.
    Mapped { lower: OwnedFd, binds: Vec<OwnedFd>, dev: Option<OwnedFd> },
    /// Directories of the host, as they are.
    Plain,
}

impl Layers {
    pub(crate) fn from_received(order: &Order, fds: Vec<OwnedFd>) -> Result<Self, Failed> {
        let Ids::Range { .. } = order.ids else { return Ok(Self::Plain) };
        let mut fds = fds.into_iter();
        let lower = fds.next().ok_or("no lower layer").map_err(Failed::at("release"))?;
        let binds: Vec<_> = fds.by_ref().take(order.binds.len()).collect();
        Ok(Self::Mapped { lower, binds, dev: fds.next() })
    }
}

/// Makes the sandbox's root the only one there is.
pub(crate) fn enter(order: &Order, layers: Layers, masks: &Masks) -> Result<(), Failed> {
    rustix::process::umask(Mode::empty());
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(Failed::at("private mounts"))?;
    // Opened before the staging directory hides what may lie below it.
    let (lower, binds, dev) = match layers {
        Layers::Mapped { lower, binds, dev } => (lower, binds, dev),
        Layers::Plain => {
            let lower = plain_layer(&order.lower).map_err(Failed::at("lower layer"))?;
            let binds = order.binds.iter().map(|name| plain_layer(&format!("/{name}")));
            (lower, binds.collect::<Result<_, _>>().map_err(Failed::at("host directory"))?, None)
        }
    };
    stage(order)?;
    attach(&lower, "l").map_err(Failed::at("lower layer"))?;
    let options = c"lowerdir=l,upperdir=u,workdir=w,userxattr";
    mount("overlay", "root", "overlay", MountFlags::NODEV, options)
        .map_err(Failed::at("overlay"))?;
    rustix::process::chdir("root").map_err(Failed::at("root"))?;
    for (tree, name) in binds.iter().zip(&order.binds) {
        attach(tree, name).map_err(Failed::at("host directory"))?;
    }
    make_dev(dev)?;
    make_proc(masks)?;
    mount_bind(format!("dev/{}", devices::EMPTY), "sys").map_err(Failed::at("/sys"))?;
    rustix::process::pivot_root(".", ".").map_err(Failed::at("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(Failed::at("old root"))?;
    rustix::process::chdir("/").map_err(Failed::at("root"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// A view of the sandbox's processes for the agent alone: mounted nowhere, hiding nothing. What
/// commands see hides the agent, and would hide from it what runs as other users.
pub(crate) struct AgentProc {
    pub(crate) directory: OwnedFd,
    pub(crate) mount: OwnedFd,
}

/// Makes the agent's view.
pub(crate) fn unmounted_proc() -> rustix::io::Result<AgentProc> {
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // What `fsmount` gives is only a place; the list of processes is read from an open directory.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(&mount, ".", flags, Mode::empty())?;
    Ok(AgentProc { directory, mount })
}

/// A detached read-only copy of a directory's mounts, for those who cannot map ids.
fn plain_layer(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags)?;
    let read_only = attributes::Attributes {
        read_only: true,
        recursive: true,
        ..attributes::Attributes::default()
    };
    attributes::set_attributes(tree.as_fd(), read_only)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
    Ok(tree)
}

fn attach(tree: &OwnedFd, to: &str) -> rustix::io::Result<()> {
    move_mount(tree.as_fd(), "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Makes the writable file system and its directories, and goes there.
fn stage(order: &Order) -> Result<(), Failed> {
    let options = format!("mode=0755,size={},nr_inodes={}", order.disk_bytes, order.disk_inodes);
    let options = CString::new(options).map_err(Failed::at("writable space"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("sandbox", STAGING, "tmpfs", flags, options.as_c_str())
        .map_err(Failed::at("writable space"))?;
    rustix::process::chdir(STAGING).map_err(Failed::at("writable space"))?;
    for (name, mode) in [
        ("l", 0o755),
        ("u", 0o755),
        ("w", 0o755),
        ("root", 0o755),
        ("shm", 0o1777),
        ("u/dev", 0o755),
        ("u/proc", 0o555),
        ("u/root", 0o700),
        ("u/sys", 0o555),
        ("u/tmp", 0o1777),
        ("u/workspace", 0o777),
    ] {
        mkdir(name, Mode::from_raw_mode(mode)).map_err(Failed::at("writable space"))?;
    }
    Ok(())
}

fn make_dev(template: Option<OwnedFd>) -> Result<(), Failed> {
    match template {
        Some(template) => attach(&template, "dev").map_err(Failed::at("/dev"))?,
        None => bind_dev().map_err(Failed::at("/dev"))?,
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    // The terminals' group is 5 everywhere, but it is mapped only where many ids are.
    let (with_group, without) =
        (c"newinstance,ptmxmode=0666,mode=0620,gid=5", c"newinstance,ptmxmode=0666,mode=0600");
    match mount("devpts", "dev/pts", "devpts", flags, with_group) {
        Err(Errno::INVAL) => mount("devpts", "dev/pts", "devpts", flags, without),
        done => done,
    }
    .map_err(Failed::at("/dev/pts"))?;
    mount_bind("../shm", "dev/shm").map_err(Failed::at("/dev/shm"))
}

/// A `/dev` of the host's own nodes, for those who cannot make any.
fn bind_dev() -> rustix::io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("dev", "dev", "tmpfs", flags, c"mode=755,size=64k")?;
    for (name, _, _) in devices::NODES {
        let node = format!("dev/{name}");
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::open(&node, OFlags::CREATE | OFlags::CLOEXEC, mode)?;
        mount_bind(format!("/dev/{name}"), &node)?;
    }
    for (name, target) in devices::LINKS {
        symlink(target, format!("dev/{name}"))?;
    }
    for name in devices::DIRECTORIES {
        mkdir(format!("dev/{name}"), Mode::from_raw_mode(0o755))?;
    }
    mount_remount("dev", flags | MountFlags::RDONLY | MountFlags::BIND, c"")
}

fn make_proc(masks: &Masks) -> Result<(), Failed> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "proc", "proc", flags, c"hidepid=2").map_err(Failed::at("/proc"))?;
    for name in &masks.files {
        mount_bind("dev/null", format!("proc/{name}")).map_err(Failed::at("/proc masks"))?;
    }
    for name in &masks.directories {
        mount_bind(format!("dev/{}", devices::EMPTY), format!("proc/{name}"))
            .map_err(Failed::at("/proc masks"))?;
    }
    mount_bind("proc/sys", "proc/sys").map_err(Failed::at("/proc/sys"))?;
    mount_remount("proc/sys", flags | MountFlags::RDONLY | MountFlags::BIND, c"")
        .map_err(Failed::at("/proc/sys"))
}
