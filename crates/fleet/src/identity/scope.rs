//! The rights of worker credentials, and which of them each call needs.

use std::fmt;

use crate::wire::method;

/// One right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Saying that the worker lives.
    Heartbeat,
    /// Starting runtimes.
    Spawn,
    /// Ending runtimes.
    Destroy,
    /// Asking what there is and what it uses; changes nothing.
    Status,
    /// Running commands and reaching ports inside of runtimes.
    Exec,
    /// Reading and writing files inside of runtimes.
    Files,
    /// Reading the logs of runtimes.
    Logs,
    /// Renewing leases.
    Lease,
    /// Draining the worker, and ending that.
    Drain,
    /// Importing and removing images.
    Images,
}

impl Scope {
    /// Every one, in the order of documents.
    pub const ALL: &[Self] = &[
        Self::Heartbeat,
        Self::Spawn,
        Self::Destroy,
        Self::Status,
        Self::Exec,
        Self::Files,
        Self::Logs,
        Self::Lease,
        Self::Drain,
        Self::Images,
    ];

    /// Its name in tokens.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "worker:heartbeat",
            Self::Spawn => "worker:spawn",
            Self::Destroy => "worker:destroy",
            Self::Status => "worker:status",
            Self::Exec => "worker:exec",
            Self::Files => "worker:files",
            Self::Logs => "worker:logs",
            Self::Lease => "worker:lease",
            Self::Drain => "worker:drain",
            Self::Images => "worker:images",
        }
    }

    /// The scope of exactly this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == name)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u16);

impl Scopes {
    /// No right at all.
    pub const NONE: Self = Self(0);

    /// Every right.
    pub fn all() -> Self {
        Scope::ALL.iter().copied().collect()
    }

    /// Whether this one is among them.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Those that are in it, in the order of documents.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

/// What each method of the worker RPC demands. A method that is not here has no handler either.
/// The control plane's worker routes demand [`Scope::Heartbeat`] and [`Scope::Lease`].
const METHODS: &[(&str, Scope)] = &[
    (method::SET_DEADLINE, Scope::Lease),
    (method::SPAWN, Scope::Spawn),
    (method::EXPECT, Scope::Spawn),
    (method::DESTROY, Scope::Destroy),
    (method::STATUS, Scope::Status),
    (method::RUNTIMES, Scope::Status),
    (method::PROVIDERS, Scope::Status),
    (method::STATS, Scope::Status),
    (method::EXEC, Scope::Exec),
    (method::EXEC_STREAM, Scope::Exec),
    (method::EXEC_ATTACH, Scope::Exec),
    (method::DIAL, Scope::Exec),
    (method::FILE_WRITE, Scope::Files),
    (method::FILE_READ, Scope::Files),
    (method::FILE_LIST, Scope::Files),
    (method::FILE_DELETE, Scope::Files),
    (method::FILE_MOVE, Scope::Files),
    (method::FILE_CHMOD, Scope::Files),
    (method::FILE_STAT, Scope::Files),
    (method::FILE_GLOB, Scope::Files),
    (method::LOGS, Scope::Logs),
    (method::IMAGES, Scope::Status),
    (method::IMAGE_IMPORT, Scope::Images),
    (method::IMAGE_REMOVE, Scope::Images),
    (method::SHUTDOWN, Scope::Drain),
    (method::UNDRAIN, Scope::Drain),
];

/// The right that a method of the worker RPC demands, if there is such a method.
pub fn scope_of(method: &str) -> Option<Scope> {
    METHODS.iter().find(|(name, _)| *name == method).map(|(_, scope)| *scope)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_scope_is_known_by_its_name_only() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(*scope));
        }
        for unknown in ["", "worker:", "worker:*", "heartbeat", "Worker:Spawn", "worker:spawn "] {
            assert_eq!(Scope::parse(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        for one in Scope::ALL {
            let set: Scopes = [*one].into_iter().collect();
            assert!(set.iter().eq([*one]));
            assert!(!Scopes::NONE.contains(*one) && Scopes::all().contains(*one));
        }
    }

    #[test]
    fn every_method_of_the_wire_demands_one_right() {
        let names: BTreeSet<_> = METHODS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), METHODS.len());
        let wire = include_str!("../wire/mod.rs").split("\"worker.").skip(1);
        let wire: BTreeSet<_> = wire.filter_map(|rest| rest.split('"').next()).collect();
        let names: BTreeSet<_> = names.iter().filter_map(|n| n.strip_prefix("worker.")).collect();
        assert_eq!(wire, names);
        assert_eq!(scope_of("worker.exec"), Some(Scope::Exec));
        assert_eq!(scope_of("worker.everything"), None);
    }
}
