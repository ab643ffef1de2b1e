//! Limits of single owners, and the places that are taken.

use std::time::Duration;

use async_trait::async_trait;
use stacyvm_admission::{OwnerLimits, Usage, Weight};
use stacyvm_types::{OwnerId, Timestamp, WorkerId};

use crate::{NewEvent, Result};

/// What one owner may do otherwise than everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The owner, and the key.
    pub owner: OwnerId,
    /// What was decided.
    pub fields: QuotaFields,
    /// When it was first decided.
    pub created_at: Timestamp,
    /// When it was last decided.
    pub updated_at: Timestamp,
}

/// What is decided about one owner; `None` is what everybody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaFields {
    /// Sandboxes at the same time.
    pub max_sandboxes: Option<u32>,
    /// The longest time to live; kept in microseconds.
    pub max_ttl: Option<Duration>,
    /// The longest deadline of a command; kept in microseconds.
    pub max_exec_timeout: Option<Duration>,
    /// The share of places that become free, against other owners that wait.
    pub weight: Option<Weight>,
}

impl QuotaFields {
    /// What admission needs of it.
    pub fn limits(&self) -> OwnerLimits {
        OwnerLimits { max_sandboxes: self.max_sandboxes.map(u64::from), max_ttl: self.max_ttl }
    }
}

/// How many owners have limits of their own, by kind. It names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaCounts {
    /// Owners with a quota.
    pub total: u64,
    /// Of these, with a number of sandboxes.
    pub with_max_sandboxes: u64,
    /// With a longest time to live.
    pub with_max_ttl: u64,
    /// With a longest deadline.
    pub with_max_exec_timeout: u64,
}

/// What is known about one owner at an instant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Its quota, if it has one.
    pub quota: Option<Quota>,
    /// The places that are taken; `owner` is 0 for nobody.
    pub usage: Usage,
}

/// The part of the store about quotas.
#[async_trait]
pub trait QuotaStore: Send + Sync {
    /// The quota of an owner.
    async fn quota(&self, owner: &OwnerId) -> Result<Option<Quota>>;

    /// All quotas, by owner.
    async fn quotas(&self) -> Result<Vec<Quota>>;

    /// How many there are.
    async fn quota_counts(&self) -> Result<QuotaCounts>;

    /// Decides an owner's quota, replacing what was decided before, and appends `events`.
    async fn put_quota(
        &self,
        owner: &OwnerId,
        fields: QuotaFields,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Quota>;

    /// Removes an owner's quota and appends `events`; an owner without one is
    /// [`Error::NotFound`](crate::Error::NotFound).
    async fn delete_quota(
        &self,
        owner: &OwnerId,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<()>;

    /// The quota of an owner and the places that are taken, as one instant saw them.
    async fn standing(&self, owner: Option<&OwnerId>, worker: &WorkerId) -> Result<Standing>;
}
