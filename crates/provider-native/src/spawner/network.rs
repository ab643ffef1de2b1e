//! Network namespaces for a privileged spawner, made before they are needed.
//!
//! Making one is the dearest step of a launch. So the spawner itself moves into a fresh one when it
//! has nothing to do, and the next sandbox is born there. It belongs to the host's root and not to the
//! sandbox's, so that nobody inside can ever change it; no two sandboxes are born in the same one.

use std::{fs, io};

use stacyvm_hostkit::{clone, net};

/// Whose the namespace is that this process is in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Network {
    /// The host's, or somebody else's that this process was started in.
    #[default]
    Inherited,
    /// A sandbox's.
    GivenAway,
    /// Nobody's yet.
    Unused,
}

impl Network {
    /// Makes sure that the namespace of this process is fresh, and gives it to the next child that
    /// is started.
    pub(super) fn give_away(&mut self) -> io::Result<()> {
        if *self != Self::Unused {
            make()?;
        }
        *self = Self::GivenAway;
        Ok(())
    }

    /// Whether the next one is yet to be made: the last one was given away.
    pub(super) fn is_wanted(&self) -> bool {
        *self == Self::GivenAway
    }

    /// Makes the next one. A failure shows when it is needed.
    pub(super) fn prepare(&mut self) {
        if make().is_ok() {
            *self = Self::Unused;
        }
    }
}

/// Moves this process into a fresh namespace with nothing but a loopback device.
fn make() -> io::Result<()> {
    clone::unshare(clone::NEW_NET)?;
    net::loopback_up()?;
    // The sandbox's root has no say in this namespace, and is to bind low ports all the same.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}
