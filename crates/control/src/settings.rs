//! What the operator decides.

use std::time::Duration;

use stacyvm_types::{Limits, WorkerId};

use crate::{Retention, Rules};

/// What the operator decides about sandboxes and commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The provider of a request that names none.
    pub default_provider: String,
    /// The image of a request that names none.
    pub default_image: String,
    /// The time to live of a request that names none.
    pub default_ttl: Duration,
    /// The limits to begin with; see [`crate::Control::set_rules`].
    pub rules: Rules,
    /// The limits of a request that names none.
    pub default_limits: Limits,
    /// The most that a request may ask for.
    pub max_limits: Limits,
    /// The worker that holds new sandboxes.
    pub worker: WorkerId,
    /// What this server's own worker says of itself.
    pub membership: Membership,
    /// Whether this server's own worker has providers: one without them is ready for what others run.
    pub runs_sandboxes: bool,
    /// How many bytes of each output stream [`crate::Control::exec_collect`] keeps.
    pub exec_output_cap: usize,
    /// How long things are kept.
    pub retention: Retention,
}

/// What a server's own worker says of itself in the registry, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The random word of its data directory.
    pub instance: String,
    /// The host that it runs on.
    pub hostname: String,
    /// Where it takes the calls of other servers, if it does.
    pub url: Option<String>,
    /// The time between two heartbeats.
    pub heartbeat: Duration,
    /// How long the lease of a worker at a distance holds after each of its heartbeats.
    pub lease_term: Duration,
    /// How long its own lease holds after each, or without end: a server that has its store for itself
    /// has nobody to be fenced from.
    pub term: Option<Duration>,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            instance: "only".to_owned(),
            hostname: "localhost".to_owned(),
            url: None,
            heartbeat: Duration::from_secs(10),
            lease_term: Duration::from_secs(30),
            term: None,
        }
    }
}

impl Settings {
    /// The settings of a server whose operator decided nothing, with this worker and provider.
    pub fn new(worker: WorkerId, default_provider: impl Into<String>) -> Self {
        Self {
            default_provider: default_provider.into(),
            default_image: "host".to_owned(),
            default_ttl: Duration::from_secs(30 * 60),
            rules: Rules::default(),
            default_limits: Limits::DEFAULT,
            max_limits: Limits { memory_mb: 65_536, vcpus: 64, pids: 32_768, disk_mb: 65_536 },
            worker,
            membership: Membership::default(),
            runs_sandboxes: true,
            exec_output_cap: 8 * 1024 * 1024,
            retention: Retention::default(),
        }
    }

    /// Every problem of these settings, as sentences; empty when there is none.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: String| {
            if !ok {
                problems.push(problem);
            }
        };
        check(!self.default_provider.is_empty(), "default_provider is empty".to_owned());
        check(
            crate::validate::image(&self.default_image).is_ok(),
            format!("default_image {:?} is not an image name", self.default_image),
        );
        check(!self.default_ttl.is_zero(), "default_ttl must be positive".to_owned());
        if let Some(max) = self.rules.policy.max_ttl {
            check(!max.is_zero(), "max_ttl must be positive".to_owned());
            check(self.default_ttl <= max, "default_ttl is above max_ttl".to_owned());
        }
        for (name, default, max) in [
            ("memory_mb", self.default_limits.memory_mb, self.max_limits.memory_mb),
            ("vcpus", self.default_limits.vcpus, self.max_limits.vcpus),
            ("pids", self.default_limits.pids, self.max_limits.pids),
            ("disk_mb", self.default_limits.disk_mb, self.max_limits.disk_mb),
        ] {
            check(0 < default, format!("the default of {name} must be positive"));
            check(default <= max, format!("the default of {name} is above its maximum {max}"));
        }
        check(
            self.rules.default_exec_timeout != Some(Duration::ZERO),
            "default_exec_timeout must be positive or absent".to_owned(),
        );
        check(0 < self.exec_output_cap, "exec_output_cap must be positive".to_owned());
        problems
    }
}
