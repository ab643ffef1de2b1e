//! Network namespaces for a privileged spawner, ready before they are needed.
//!
//! Making one is the dearest step of a launch, and removing one the dearest of an end. So the
//! spawner makes one ahead when it has nothing to do, and takes those back in which nothing ever
//! happened.
//!
//! They belong to the host's root and not to the sandboxes', so that nobody inside can change
//! anything about them, and seccomp leaves a sandbox no families but Unix, IPv4, IPv6 and netlink.
//! What is left to tell one from another is what it counts and which sockets it has: a namespace is
//! given to a second sandbox only if no socket is left and every counter is what it was when the
//! namespace was made. Whoever sent a single packet, to itself or nowhere, had the last of it.

use std::{
    fs,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
};

use stacyvm_hostkit::{clone, net};

/// Namespaces that wait for a sandbox.
const SPARES: usize = 8;
/// Room for all that a namespace counts.
const COUNTERS_BYTES: usize = 16 * 1024;
/// What a namespace counts: packets of its device, and what came to nothing before it was a packet.
const COUNTERS: [&str; 3] = ["dev", "snmp", "snmp6"];

/// The namespaces of this spawner.
#[derive(Debug)]
pub(super) struct Networks {
    /// The one that this process started in.
    home: OwnedFd,
    spares: Vec<OwnedFd>,
    /// What a fresh one counts.
    fresh: Option<Vec<u8>>,
}

impl Networks {
    /// None yet.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { home: here()?, spares: Vec::new(), fresh: None })
    }

    /// Moves this process into a namespace that the child which is started next shall have. It must
    /// [leave](Self::leave) it then.
    pub(super) fn enter_next(&mut self) -> io::Result<()> {
        match self.spares.pop() {
            Some(spare) => clone::enter(spare.as_fd(), clone::NEW_NET),
            None => self.make().map(drop),
        }
    }

    /// Moves this process back to where it started.
    pub(super) fn leave(&self) -> io::Result<()> {
        clone::enter(self.home.as_fd(), clone::NEW_NET)
    }

    /// Whether the next one is yet to be made, in a spawner that made some.
    pub(super) fn is_wanted(&self) -> bool {
        self.fresh.is_some() && self.spares.is_empty()
    }

    /// Whether more wait than the next one.
    pub(super) fn has_surplus(&self) -> bool {
        1 < self.spares.len()
    }

    /// Keeps the next one only.
    pub(super) fn drop_surplus(&mut self) {
        self.spares.truncate(1);
    }

    /// Makes the next one. A failure shows when it is needed.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        let made = self.make();
        self.leave()?;
        self.spares.extend(made);
        Ok(())
    }

    /// Takes the namespace of a sandbox that ended, if it is as good as a fresh one.
    pub(super) fn take_back(&mut self, used: OwnedFd) -> io::Result<()> {
        if SPARES <= self.spares.len() || clone::enter(used.as_fd(), clone::NEW_NET).is_err() {
            return Ok(());
        }
        let unused = !has_sockets() && counters().ok() == self.fresh;
        self.leave()?;
        if unused && self.fresh.is_some() {
            self.spares.push(used);
        }
        Ok(())
    }

    /// Moves this process into a fresh namespace with nothing but a loopback device.
    fn make(&mut self) -> io::Result<OwnedFd> {
        clone::unshare(clone::NEW_NET)?;
        net::loopback_up()?;
        // The sandbox's root has no say in it, and is to bind low ports all the same.
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
        if self.fresh.is_none() {
            self.fresh = Some(counters()?);
        }
        here()
    }
}

/// The namespace that this process is in.
fn here() -> io::Result<OwnedFd> {
    Ok(fs::File::open("/proc/self/ns/net")?.into())
}

/// Everything that the namespace of this process counts.
fn counters() -> io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(COUNTERS_BYTES);
    for name in COUNTERS {
        append(name, &mut all)?;
    }
    Ok(all)
}

/// Whether the namespace of this process has sockets, of whatever kind. Yes, if it cannot be told.
fn has_sockets() -> bool {
    let mut text = Vec::with_capacity(COUNTERS_BYTES);
    append("sockstat", &mut text).is_err() || !text.starts_with(b"sockets: used 0\n")
}

/// Appends a file about the namespace of this process, in as few reads as it takes: the kernel
/// composes such a file anew for each.
fn append(name: &str, all: &mut Vec<u8>) -> io::Result<()> {
    let mut file = fs::File::open(format!("/proc/self/net/{name}"))?;
    let mut length = all.len();
    all.resize(COUNTERS_BYTES.max(2 * length), 0);
    loop {
        match file.read(&mut all[length..])? {
            0 if length < all.len() => break,
            0 => all.resize(2 * length, 0),
            more => length += more,
        }
    }
    all.truncate(length);
    Ok(())
}
