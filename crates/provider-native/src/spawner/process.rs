//! The spawner process: one thread that starts first processes of sandboxes and keeps nothing.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mount::{MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount_change, open_tree, unmount},
};
use stacyvm_hostkit::{
    clone::{self, SingleThread},
    fdpass, mount,
    title::Title,
};

use super::{
    network::Networks,
    protocol::{Ids, MAX_MESSAGE, Order, Reply, Request},
};
use crate::sandbox::{self, Birth, devices, policy, root::Masks};

const NAMESPACES: u64 =
    clone::NEW_USER | clone::NEW_MOUNT | clone::NEW_PID | clone::NEW_IPC | clone::NEW_UTS;

struct Spawner {
    proof: SingleThread,
    socket: OwnedFd,
    kept: Kept,
    title: Title,
    /// `None` where only sandboxes themselves can make them.
    networks: Option<Networks>,
}

/// What is made once and used by every sandbox.
struct Kept {
    /// A detached `/dev`; `None` where making nodes is not allowed.
    devices: Option<OwnedFd>,
    masks: Masks,
    filter: stacyvm_hostkit::seccomp::Program,
    landlock: Option<u32>,
}

/// Serves the socket on standard input until the server closes it. Sandboxes live on.
pub(crate) fn run() -> io::Result<()> {
    let proof = SingleThread::check()?;
    let socket = fdpass_socket()?;
    let title = Title::find()?;
    title.set(&proof, "stacyvm: spawner", c"stacyvm-spawner")?;
    clone::forget_children(&proof);
    // Without privilege it keeps what it was started with.
    let _ = shed_mounts();
    let kept = Kept {
        devices: devices::template().ok(),
        masks: Masks::of_this_kernel(),
        filter: policy::program(),
        landlock: stacyvm_hostkit::landlock::version(),
    };
    let networks = Networks::new().ok();
    let mut spawner = Spawner { proof, socket, kept, title, networks };
    let mut buffer = vec![0; MAX_MESSAGE];
    while let Some((length, fds)) = fdpass::receive(&spawner.socket, &mut buffer)? {
        let Ok(request) = postcard::from_bytes::<Request>(&buffer[..length]) else {
            return Err(io::Error::other("the server sent what is not a request"));
        };
        spawner.answer(request, fds)?;
        if let Some(networks) = &mut spawner.networks
            && networks.is_wanted()
            && is_quiet(&spawner.socket)
        {
            networks.prepare()?;
        }
    }
    Ok(())
}

/// Leaves the mounts below `/sys` behind, often most of a host's: every sandbox begins with a copy
/// of all mounts of this process, and ends with removing them. What the host mounts later arrives
/// here too.
fn shed_mounts() -> io::Result<()> {
    clone::unshare(clone::NEW_MOUNT)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    Ok(unmount("/sys", UnmountFlags::DETACH)?)
}

/// Whether no request comes for a moment. Until then the processors belong to the sandbox that was
/// just started.
fn is_quiet(socket: &OwnedFd) -> bool {
    let moment = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    matches!(poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&moment)), Ok(0))
}

/// Moves the socket off standard input, which then reads nothing.
fn fdpass_socket() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = fs::File::open("/dev/null")?;
    clone::place(null.as_fd(), 0)?;
    Ok(socket)
}

fn says<E: std::fmt::Display>(step: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{step}: {error}")
}

impl Spawner {
    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> io::Result<()> {
        let (started, pidfd) = match self.start(request.order, fds) {
            Ok(child) => (Ok(child.pid), Some(child.pidfd)),
            Err(error) => (Err(error), None),
        };
        let reply = postcard::to_allocvec(&Reply { call: request.call, started })
            .map_err(io::Error::other)?;
        let fds: Vec<_> = pidfd.iter().map(AsFd::as_fd).collect();
        fdpass::send(&self.socket, &reply, &fds)
    }

    fn start(&mut self, order: Order, fds: Vec<OwnedFd>) -> Result<clone::Started, String> {
        let mut fds = fds.into_iter();
        let (Some(listener), Some(status)) = (fds.next(), fds.next()) else {
            return Err("the request came without its descriptors".to_owned());
        };
        let cgroup = if order.into_cgroup { fds.next() } else { None };
        let (sync, child_sync) = fdpass::pair().map_err(says("socket pair"))?;
        let networks = match order.ids {
            Ids::Range { .. } => self.networks.as_mut(),
            Ids::Single { .. } | Ids::Subordinate { .. } => None,
        };
        let raw_network = networks.is_none();
        let namespaces = if raw_network { NAMESPACES | clone::NEW_NET } else { NAMESPACES };
        let birth = Birth {
            order: &order,
            sync: child_sync,
            listener,
            status,
            attach: fds.collect(),
            masks: &self.kept.masks,
            filter: &self.kept.filter,
            landlock: self.kept.landlock,
            raw_network,
            title: self.title,
            proof: &self.proof,
        };
        let cgroup = cgroup.as_ref().map(AsFd::as_fd);
        let start = || clone::start(&self.proof, namespaces, cgroup, || sandbox::begin(&birth));
        let child = match networks {
            None => start(),
            Some(networks) => networks.in_the_next(start),
        }
        .map_err(says("clone"))?;
        drop(birth);
        match self.release(&order, &child, &sync) {
            Ok(()) => Ok(child),
            Err(error) => {
                // The child waits for its root; without one it ends by itself when `sync` closes,
                // and this makes sure.
                let _ =
                    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
                Err(error)
            }
        }
    }

    /// Gives the waiting child its users and its layers.
    fn release(&self, order: &Order, child: &clone::Started, sync: &OwnedFd) -> Result<(), String> {
        map_ids(order.ids, child.pid)?;
        let mut layers = Vec::new();
        if let Ids::Range { .. } = order.ids {
            let users = fs::File::open(format!("/proc/{}/ns/user", child.pid))
                .map_err(says("user namespace"))?;
            layers.push(
                layer(Path::new(&order.lower), Some(users.as_fd())).map_err(says("lower layer"))?,
            );
            for name in &order.binds {
                let path = Path::new("/").join(name);
                // Not id-mapped: if the host's root became the sandbox's, it could read what
                // only the host's root may.
                layers.push(layer(&path, None).map_err(says("host directory"))?);
            }
            if let Some(devices) = &self.kept.devices {
                layers.push(devices::copy(devices).map_err(says("/dev"))?);
            }
        }
        let fds: Vec<_> = layers.iter().map(AsFd::as_fd).collect();
        fdpass::send(sync, b"go", &fds).map_err(says("release"))
    }
}

/// A detached read-only copy of a directory's mount, with ids as the sandbox sees them, or, without
/// `users`, with everything belonging to nobody there.
fn layer(path: &Path, users: Option<std::os::fd::BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, path, flags)?;
    mount::set_attributes(
        tree.as_fd(),
        mount::Attributes {
            read_only: true,
            nodev: true,
            idmap: users,
            ..mount::Attributes::default()
        },
    )?;
    Ok(tree)
}

fn map_ids(ids: Ids, pid: i32) -> Result<(), String> {
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/{pid}/{file}"), text).map_err(|error| format!("{file}: {error}"))
    };
    match ids {
        Ids::Range { base } => {
            write("uid_map", format!("0 {base} 65536\n"))?;
            write("gid_map", format!("0 {base} 65536\n"))
        }
        Ids::Single { uid, gid } => {
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("0 {uid} 1\n"))?;
            write("gid_map", format!("0 {gid} 1\n"))
        }
        Ids::Subordinate { uid, gid, first_uid, first_gid, count } => {
            run_mapper("newuidmap", pid, uid, first_uid, count)?;
            run_mapper("newgidmap", pid, gid, first_gid, count)
        }
    }
}

/// Runs one of the two set-user-id programs that map subordinate ids.
fn run_mapper(program: &str, pid: i32, own: u32, first: u32, count: u32) -> Result<(), String> {
    let output = std::process::Command::new("/bin/sh")
        // Children are reaped by the kernel here, so the answer comes as text.
        .args([
            "-c",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin \"$@\" 2>&1 && echo mapped",
            "sh",
            program,
        ])
        .args([pid.to_string(), "0".to_owned(), own.to_string(), "1".to_owned()])
        .args(["1".to_owned(), first.to_string(), count.to_string()])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut text = String::new();
    if let Some(mut out) = output.map_err(says("newuidmap"))?.stdout.take() {
        io::Read::read_to_string(&mut out, &mut text).map_err(says("newuidmap"))?;
    }
    if text.trim_end().ends_with("mapped") {
        Ok(())
    } else {
        Err(format!("{program}: {}", text.trim()))
    }
}
