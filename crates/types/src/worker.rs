//! Workers: what they say of themselves, and what they can hold.

use std::collections::BTreeSet;

use crate::WorkerId;

/// An amount of what sandboxes take from their worker. As a capacity, zero of one of them is no
/// limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Sandboxes.
    pub sandboxes: u64,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Virtual CPUs.
    pub vcpus: u64,
}

impl Resources {
    /// What one sandbox with these limits takes.
    pub fn of_one(limits: &crate::Limits) -> Self {
        Self { sandboxes: 1, memory_mb: limits.memory_mb.into(), vcpus: limits.vcpus.into() }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            sandboxes: self.sandboxes.saturating_add(other.sandboxes),
            memory_mb: self.memory_mb.saturating_add(other.memory_mb),
            vcpus: self.vcpus.saturating_add(other.vcpus),
        }
    }

    /// What is left without the other; nothing is less than zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            sandboxes: self.sandboxes.saturating_sub(other.sandboxes),
            memory_mb: self.memory_mb.saturating_sub(other.memory_mb),
            vcpus: self.vcpus.saturating_sub(other.vcpus),
        }
    }

    /// Whether a capacity of this much holds a load.
    pub const fn holds(&self, load: &Self) -> bool {
        const fn fits(max: u64, taken: u64) -> bool {
            max == 0 || taken <= max
        }
        fits(self.sandboxes, load.sandboxes)
            && fits(self.memory_mb, load.memory_mb)
            && fits(self.vcpus, load.vcpus)
    }
}

/// What a worker says of one of its providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The provider's name.
    pub provider: String,
    /// Whether it is the one used when a request names none.
    pub default: bool,
    /// Whether it can run there now.
    pub ready: bool,
    /// What it can do there, as words.
    pub capabilities: BTreeSet<String>,
    /// The images that are there and need not be brought.
    pub images: BTreeSet<String>,
}

/// What a worker says of itself with each heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Its name in the registry.
    pub id: WorkerId,
    /// A random word that stays with its data directory: another one under the same name is
    /// another worker.
    pub instance: String,
    /// The host that it runs on.
    pub hostname: String,
    /// The version of its program.
    pub version: String,
    /// Where it takes calls; `None` for one that only its own process reaches.
    pub url: Option<String>,
    /// Whether it takes no new sandboxes.
    pub draining: bool,
    /// Its providers, by name.
    pub offers: Vec<Offer>,
    /// What it can hold.
    pub capacity: Resources,
}

/// Why a worker does not take a sandbox, whatever else is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfit {
    /// Nobody of that name is registered.
    #[error("it is not registered")]
    Unknown,
    /// It was not heard of for longer than its lease holds.
    #[error("it was not heard of in time")]
    Stale,
    /// It takes nothing new.
    #[error("it takes no new sandboxes")]
    Draining,
}
