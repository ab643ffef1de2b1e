//! The limits that an operator sets, in force at this moment.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use stacyvm_admission::Policy;
use stacyvm_store::Sandbox;
use stacyvm_types::{Resources, format_duration};

use crate::{Control, Error, Result};

/// The limits that an operator sets. They can change while the server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Who is admitted.
    pub policy: Policy,
    /// What this server's own worker can hold.
    pub capacity: Resources,
    /// What becomes of a spawn that finds no free place.
    pub overflow: Overflow,
    /// The deadline of a command that names none.
    pub default_exec_timeout: Option<Duration>,
    /// The longest deadline of a command.
    pub max_exec_timeout: Option<Duration>,
}

/// What becomes of a spawn that finds no free place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It is refused.
    Reject,
    /// It waits for its turn.
    Queue {
        /// How many may wait.
        places: usize,
        /// How long one may wait.
        patience: Duration,
    },
}

impl Default for Rules {
    /// A longest life of a day, a longest command of ten minutes, and no other limit.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            policy: Policy { max_ttl: Some(day), ..Policy::default() },
            capacity: Resources::default(),
            overflow: Overflow::Reject,
            default_exec_timeout: None,
            max_exec_timeout: Some(Duration::from_secs(10 * 60)),
        }
    }
}

/// The rules in force.
pub(crate) struct InForce(RwLock<Arc<Rules>>);

impl InForce {
    pub(crate) fn new(rules: Rules) -> Self {
        Self(RwLock::new(Arc::new(rules)))
    }
}

impl Control {
    /// The limits in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.0.rules.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other limits in force. Nothing that was admitted is ended by a lower one.
    pub fn set_rules(&self, rules: Rules) {
        *self.0.rules.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.0.heart.wake();
        self.0.queue.limits_changed();
    }

    /// The deadline of a command: what was asked for, else the default, and never above the longest
    /// one of the sandbox's owner or of all. Zero asks for none, and gets the longest there is.
    pub(crate) async fn exec_deadline(
        &self,
        row: &Sandbox,
        asked: Option<Duration>,
    ) -> Result<Option<Duration>> {
        let rules = self.rules();
        let of_owner = match &row.spec.owner {
            Some(owner) => self.store().quota(owner).await.map_err(Error::from_store)?,
            None => None,
        };
        let max = of_owner.and_then(|quota| quota.fields.max_exec_timeout);
        let max = max.or(rules.max_exec_timeout);
        let asked = asked.filter(|asked| !asked.is_zero());
        match (asked, max) {
            (Some(asked), Some(max)) if max < asked => Err(Error::Limit(format!(
                "exec timeout {} exceeds max exec timeout {}",
                format_duration(asked),
                format_duration(max)
            ))),
            (Some(asked), _) => Ok(Some(asked)),
            (None, max) => Ok([rules.default_exec_timeout, max].into_iter().flatten().min()),
        }
    }
}
