//! The first process of a sandbox, from its birth to the agent's loop.
//!
//! It is a copy of the spawner, so nothing here starts threads. Every step that fails ends the
//! process after one sentence on the status channel; there is no half-isolated sandbox.

pub(crate) mod devices;
pub(crate) mod policy;
pub(crate) mod privileges;
pub(crate) mod root;

use std::{
    convert::Infallible,
    fmt::Display,
    os::fd::{AsFd, OwnedFd},
};

use stacyvm_hostkit::{
    caps,
    clone::{self, SingleThread},
    fdpass, landlock, net, seccomp,
    title::Title,
};

use crate::spawner::protocol::{FAILED, Order, READY, RECORDED};
use root::{Layers, Masks};

/// What a first process is born with.
pub(crate) struct Birth<'a> {
    pub(crate) order: &'a Order,
    /// Where the spawner says that users are mapped, with the layers of the root.
    pub(crate) sync: OwnedFd,
    /// The bound socket that the agent will listen on.
    pub(crate) listener: OwnedFd,
    /// Where the server hears that the sandbox is ready, or why not.
    pub(crate) status: OwnedFd,
    /// `tasks` files of v1 cgroups.
    pub(crate) attach: Vec<OwnedFd>,
    pub(crate) masks: &'a Masks,
    pub(crate) filter: &'a seccomp::Program,
    pub(crate) landlock: Option<u32>,
    /// Whether the network namespace is its own and still empty; else the spawner prepared it.
    pub(crate) raw_network: bool,
    pub(crate) title: Title,
    pub(crate) proof: &'a SingleThread,
}

/// A step that failed and what the kernel said.
pub(crate) struct Failed(String);

impl Failed {
    pub(crate) fn at<E: Display>(step: &'static str) -> impl Fn(E) -> Self {
        move |error| Self(format!("{step}: {error}"))
    }
}

/// The descriptors that are left when the sandbox is closed.
const LISTENER: i32 = 3;
const STATUS: i32 = 4;
const PROC: i32 = 5;
const PROC_MOUNT: i32 = 6;
const KEPT: u32 = 7;

/// Becomes the agent of a sandbox.
pub(crate) fn begin(birth: &Birth<'_>) -> Infallible {
    let (status, proc) = match enclose(birth) {
        Ok(kept) => kept,
        Err(Failed(sentence)) => {
            let mut message = vec![FAILED];
            message.extend_from_slice(sentence.as_bytes());
            // Before `close_descriptors` the channel has its old number, afterwards its new one.
            if fdpass::send(&birth.status, &message, &[]).is_err()
                && let Ok(status) = clone::take(STATUS)
            {
                let _ = fdpass::send(&status, &message, &[]);
            }
            clone::exit_now(1);
        }
    };
    if fdpass::send(&status, &[READY], &[]).is_err() || !recorded(&status) {
        clone::exit_now(2);
    }
    drop(status);
    let Ok(listener) = clone::take(LISTENER) else { clone::exit_now(3) };
    let setup = stacyvm_agent::Setup { proc: Some(proc), ..stacyvm_agent::Setup::default() };
    stacyvm_agent::run(listener, setup)
}

/// Waits until the server wrote the runtime down. When it died before that, nobody would ever find
/// this sandbox, so it must not live.
fn recorded(status: &OwnedFd) -> bool {
    let mut answer = [0; 1];
    matches!(fdpass::receive(status, &mut answer), Ok(Some((1, _)))) && answer == [RECORDED]
}

fn enclose(birth: &Birth<'_>) -> Result<(OwnedFd, OwnedFd), Failed> {
    // A thread that moves itself through `tasks` takes no lock of the whole cgroup tree, which
    // every other way to attach does.
    for tasks in &birth.attach {
        rustix::io::write(tasks, b"0").map_err(Failed::at("cgroup"))?;
    }
    if !birth.attach.is_empty() || birth.order.into_cgroup {
        clone::unshare(clone::NEW_CGROUP).map_err(Failed::at("cgroup namespace"))?;
    }
    let layers = await_release(birth)?;
    birth
        .title
        .set(birth.proof, "stacyvm: sandbox", c"stacyvm-sandbox")
        .map_err(Failed::at("title"))?;
    privileges::become_root().map_err(Failed::at("users"))?;
    let proc = root::unmounted_proc().map_err(Failed::at("agent's /proc"))?;
    root::enter(birth.order, layers, birth.masks)?;
    rustix::system::sethostname(b"sandbox").map_err(Failed::at("host name"))?;
    if birth.raw_network {
        net::loopback_up().map_err(Failed::at("loopback"))?;
    }
    rustix::process::setsid().map_err(Failed::at("session"))?;
    rustix::net::listen(&birth.listener, 128).map_err(Failed::at("listen"))?;
    let (status, proc) = close_descriptors(birth, proc)?;
    privileges::limit(birth.order.max_processes).map_err(Failed::at("limits"))?;
    caps::not_dumpable().map_err(Failed::at("dumpable"))?;
    caps::no_new_privs().map_err(Failed::at("no_new_privs"))?;
    caps::keep_only(privileges::KEPT).map_err(Failed::at("capabilities"))?;
    if let Some(version) = birth.landlock {
        let denied = landlock::access::MAKE_CHAR | landlock::access::MAKE_BLOCK;
        landlock::restrict_all_but(version, denied, &[proc.as_fd()])
            .map_err(Failed::at("landlock"))?;
    }
    birth.filter.install().map_err(Failed::at("seccomp"))?;
    Ok((status, proc))
}

fn await_release(birth: &Birth<'_>) -> Result<Layers, Failed> {
    let mut word = [0; 8];
    let received = fdpass::receive(&birth.sync, &mut word).map_err(Failed::at("release"))?;
    let Some((_, fds)) = received else {
        return Err(Failed("release: the spawner gave up".to_owned()));
    };
    Layers::from_received(birth.order, fds)
}

/// Keeps the standard streams (on `/dev/null`), the listener, the status channel and the agent's
/// own view of the processes. The mount below that view is never used again; closing it would only
/// cost the time in which the kernel makes sure that nobody looks at it any more.
fn close_descriptors(
    birth: &Birth<'_>,
    proc: root::AgentProc,
) -> Result<(OwnedFd, OwnedFd), Failed> {
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(Failed::at("/dev/null"))?;
    // First out of the way of the numbers that they are to have.
    let aside = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 16);
    let kept = [
        (&null, 0),
        (&null, 1),
        (&null, 2),
        (&birth.listener, LISTENER),
        (&birth.status, STATUS),
        (&proc.directory, PROC),
        (&proc.mount, PROC_MOUNT),
    ];
    let mut moved = Vec::with_capacity(kept.len());
    for (fd, to) in kept {
        moved.push((aside(fd).map_err(Failed::at("descriptors"))?, to));
    }
    for (fd, to) in &moved {
        clone::place(fd.as_fd(), *to).map_err(Failed::at("descriptors"))?;
    }
    // What is above goes away below all at once; its owners must not close those numbers again.
    std::mem::forget((moved, null, proc));
    clone::close_from(birth.proof, KEPT).map_err(Failed::at("descriptors"))?;
    let take = |number| clone::take(number).map_err(Failed::at("descriptors"));
    Ok((take(STATUS)?, take(PROC)?))
}
