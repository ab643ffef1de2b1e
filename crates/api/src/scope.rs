//! What a route demands of whoever calls it.

use std::fmt;

use stacyvm_fleet::identity::Scope as Right;

/// The right that a route demands. Each includes the rights before it, but those of workers, which
/// are a kind of their own: no key holds them, and who holds them holds no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// No credential: what a load balancer asks.
    Probe,
    /// Seeing what there is; changes nothing.
    Read,
    /// Creating, running and changing sandboxes.
    Api,
    /// Setting up what sandboxes are made from and how many there may be.
    Operator,
    /// Everything, credentials included.
    Admin,
    /// A right of the worker that the path names.
    Worker(Right),
}

impl Scope {
    /// Every scope that a key may hold, the smallest first.
    pub const ALL: &[Self] = &[Self::Probe, Self::Read, Self::Api, Self::Operator, Self::Admin];

    /// The scope in documents and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Read => "read",
            Self::Api => "api",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Worker(right) => right.as_str(),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
