//! Network namespaces for a privileged spawner, made before they are needed.
//!
//! Making one is the dearest step of a launch. So the spawner makes the next one when it has nothing
//! to do, and the next sandbox is born in it. It belongs to the host's root and not to the
//! sandbox's, so that nobody inside can ever change it. Each is given to one sandbox only.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use stacyvm_hostkit::{clone, net};

/// The namespaces of this spawner.
#[derive(Debug)]
pub(super) struct Networks {
    /// The one that this process started in.
    home: OwnedFd,
    /// One that nobody has yet.
    next: Option<OwnedFd>,
    /// Whether one was given away since the last one was made.
    wanted: bool,
}

impl Networks {
    /// None yet.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { home: here()?, next: None, wanted: false })
    }

    /// Does `start` in a namespace that nobody else has: a child that is started there keeps it.
    pub(super) fn in_the_next<T>(
        &mut self,
        start: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.wanted = true;
        let entered = match self.next.take() {
            Some(next) => clone::enter(next.as_fd(), clone::NEW_NET),
            None => make().map(drop),
        };
        let started = entered.and_then(|()| start());
        self.leave().and(started)
    }

    /// Whether the next one is yet to be made, in a spawner that needs some.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted && self.next.is_none()
    }

    /// Makes the next one. A failure shows when it is needed.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        self.wanted = false;
        self.next = make().ok();
        self.leave()
    }

    /// Moves this process back to where it started.
    fn leave(&self) -> io::Result<()> {
        clone::enter(self.home.as_fd(), clone::NEW_NET)
    }
}

/// Moves this process into a fresh namespace with nothing but a loopback device.
fn make() -> io::Result<OwnedFd> {
    clone::unshare(clone::NEW_NET)?;
    net::loopback_up()?;
    // The sandbox's root has no say in it, and is to bind low ports all the same.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    here()
}

/// The namespace that this process is in.
fn here() -> io::Result<OwnedFd> {
    Ok(fs::File::open("/proc/self/ns/net")?.into())
}
