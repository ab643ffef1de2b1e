//! One request against the limits.

use std::{fmt, time::Duration};

use stacyvm_types::{Resources, format_duration};

/// What the operator allows. Zero of a count is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Sandboxes that hold a place at the same time.
    pub max_sandboxes: u64,
    /// Of one owner.
    pub max_per_owner: u64,
    /// The longest time to live.
    pub max_ttl: Option<Duration>,
}

/// What one owner may do otherwise; `None` is what the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnerLimits {
    /// Sandboxes at the same time, above or below the policy's.
    pub max_sandboxes: Option<u64>,
    /// The longest time to live, above or below the policy's.
    pub max_ttl: Option<Duration>,
}

/// Places that are taken. A sandbox takes one from its admission until its runtime is proved gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// By all.
    pub total: u64,
    /// By the request's owner.
    pub owner: u64,
    /// On the request's worker.
    pub worker: Resources,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Whether somebody owns it: limits by owner are for owners.
    pub owned: bool,
    /// Its time to live.
    pub ttl: Duration,
    /// What it takes from its worker.
    pub takes: Resources,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may take a place now.
    Admit,
    /// All places are taken; one that becomes free changes the answer.
    Wait(Full),
    /// No wait changes the answer.
    Refuse(Refusal),
}

/// Which places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// What the worker can hold.
    Worker {
        /// Its capacity.
        max: Resources,
    },
    /// All that there are.
    Total {
        /// How many there are.
        max: u64,
    },
    /// All of the owner's.
    Owner {
        /// How many the owner may have.
        max: u64,
    },
}

/// Why it is refused whatever becomes free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It would live too long.
    Ttl {
        /// The longest time to live.
        max: Duration,
    },
    /// It takes more than any worker has.
    Size {
        /// What it takes.
        takes: Resources,
    },
}

/// Decides one request: its time to live first, because no wait cures it, then the places.
/// `capacity` is the worker's.
pub fn decide(
    policy: &Policy,
    owner: &OwnerLimits,
    capacity: &Resources,
    usage: Usage,
    request: Request,
) -> Decision {
    if let Some(max) = policy.ttl_of(owner)
        && max < request.ttl
    {
        return Decision::Refuse(Refusal::Ttl { max });
    }
    let full = |max: u64, taken: u64| max != 0 && max <= taken;
    if !capacity.holds(&usage.worker.plus(request.takes)) {
        return Decision::Wait(Full::Worker { max: *capacity });
    }
    if full(policy.max_sandboxes, usage.total) {
        return Decision::Wait(Full::Total { max: policy.max_sandboxes });
    }
    let max = policy.sandboxes_of(owner);
    if request.owned && full(max, usage.owner) {
        return Decision::Wait(Full::Owner { max });
    }
    Decision::Admit
}

impl Policy {
    /// The longest time to live of an owner with these limits.
    pub fn ttl_of(&self, owner: &OwnerLimits) -> Option<Duration> {
        owner.max_ttl.or(self.max_ttl)
    }

    /// How many sandboxes an owner with these limits may have; 0 is no limit.
    pub fn sandboxes_of(&self, owner: &OwnerLimits) -> u64 {
        owner.max_sandboxes.unwrap_or(self.max_per_owner)
    }
}

impl Full {
    /// The reason as a word that programs can match.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Worker { .. } => "worker_unavailable",
            Self::Total { .. } => "max_sandboxes",
            Self::Owner { .. } => "max_sandboxes_per_owner",
        }
    }
}

impl Refusal {
    /// The reason as a word that programs can match.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ttl { .. } => "max_ttl",
            Self::Size { .. } => "worker_capacity",
        }
    }
}

/// The client's sentence; published clients match it.
impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker { .. } => f.write_str("no eligible worker available"),
            Self::Total { max } => write!(f, "max sandboxes reached ({max})"),
            Self::Owner { max } => write!(f, "max sandboxes per owner reached ({max})"),
        }
    }
}

/// The client's sentence; published clients match it.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ttl { max } => write!(f, "ttl exceeds max ttl {}", format_duration(*max)),
            Self::Size { takes: Resources { memory_mb, vcpus, .. } } => {
                write!(f, "no worker holds a sandbox of {memory_mb} MiB and {vcpus} processors")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    const TAKES: Resources = Resources { sandboxes: 1, memory_mb: 100, vcpus: 2 };
    const NO_LIMIT: Resources = Resources { sandboxes: 0, memory_mb: 0, vcpus: 0 };

    fn asked(policy: &Policy, owner: OwnerLimits, usage: Usage) -> Decision {
        decide(policy, &owner, &NO_LIMIT, usage, Request { owned: true, ttl: TTL, takes: TAKES })
    }

    #[test]
    fn a_limit_admits_up_to_itself_and_zero_is_none() {
        let usage = |n| Usage { total: n, owner: n, ..Usage::default() };
        let none = OwnerLimits::default();
        assert_eq!(asked(&Policy::default(), none, usage(u64::MAX)), Decision::Admit);
        for (policy, full) in [
            (Policy { max_sandboxes: 3, ..Policy::default() }, Full::Total { max: 3 }),
            (Policy { max_per_owner: 3, ..Policy::default() }, Full::Owner { max: 3 }),
        ] {
            assert_eq!(asked(&policy, none, usage(2)), Decision::Admit, "{full:?}");
            assert_eq!(asked(&policy, none, usage(3)), Decision::Wait(full));
            assert_eq!(asked(&policy, none, usage(4)), Decision::Wait(full), "after a lower limit");
        }
    }

    /// R3.1: an owner's own limits replace the policy's, upward and downward.
    #[test]
    fn an_owners_limits_replace_the_policys() {
        let policy = Policy { max_per_owner: 2, max_ttl: Some(TTL), ..Policy::default() };
        let usage = Usage { owner: 2, ..Usage::default() };
        let more = OwnerLimits { max_sandboxes: Some(3), max_ttl: None };
        let less = OwnerLimits { max_sandboxes: Some(1), max_ttl: None };
        assert_eq!(asked(&policy, more, usage), Decision::Admit);
        let one = Usage { owner: 1, ..Usage::default() };
        assert_eq!(asked(&policy, less, one), Decision::Wait(Full::Owner { max: 1 }));
        let short = OwnerLimits { max_sandboxes: None, max_ttl: Some(TTL / 2) };
        let refused = Decision::Refuse(Refusal::Ttl { max: TTL / 2 });
        assert_eq!(asked(&policy, short, Usage::default()), refused);
    }

    #[test]
    fn what_nobody_owns_has_no_owners_limit() {
        let policy = Policy { max_per_owner: 1, ..Policy::default() };
        let usage = Usage { owner: 9, ..Usage::default() };
        let request = Request { owned: false, ttl: TTL, takes: TAKES };
        let decision = decide(&policy, &OwnerLimits::default(), &NO_LIMIT, usage, request);
        assert_eq!(decision, Decision::Admit);
    }

    /// R4.4: a worker holds as much as it said, of each kind, the request included.
    #[test]
    fn a_worker_is_filled_up_to_its_capacity_of_each_kind() {
        let taken = Resources { sandboxes: 3, memory_mb: 900, vcpus: 6 };
        let usage = Usage { worker: taken, ..Usage::default() };
        let request = Request { owned: false, ttl: TTL, takes: TAKES };
        let asked = |capacity: Resources| {
            decide(&Policy::default(), &OwnerLimits::default(), &capacity, usage, request)
        };
        let exact = Resources { sandboxes: 4, memory_mb: 1000, vcpus: 8 };
        assert_eq!(asked(exact), Decision::Admit);
        for less in [
            Resources { sandboxes: 3, ..exact },
            Resources { memory_mb: 999, ..exact },
            Resources { vcpus: 7, ..exact },
        ] {
            assert_eq!(asked(less), Decision::Wait(Full::Worker { max: less }));
        }
    }
}
