//! Quotas in memory. Places are counted anew each time: nothing can drift.

use async_trait::async_trait;
use stacyvm_admission::{self as admission, Decision, Policy, Usage};
use stacyvm_types::{OwnerId, Resources, Timestamp, WorkerId};

use super::{MemoryStore, State, whole_micros};
use crate::{
    Error, NewEvent, NewSandbox, Quota, QuotaCounts, QuotaFields, QuotaStore, Result, Standing,
};

impl State {
    fn usage(&self, owner: Option<&OwnerId>, worker: &WorkerId) -> Usage {
        let live = || self.sandboxes.values().filter(|row| row.phase.is_live());
        Usage {
            total: live().count() as u64,
            owner: live().filter(|row| owner.is_some() && row.spec.owner.as_ref() == owner).count()
                as u64,
            worker: self.load(worker),
        }
    }

    /// What the sandboxes of a worker take.
    pub(super) fn load(&self, worker: &WorkerId) -> Resources {
        self.sandboxes
            .values()
            .filter(|row| row.phase.is_live() && row.spec.worker == *worker)
            .map(|row| Resources::of_one(&row.spec.limits))
            .fold(Resources::default(), Resources::plus)
    }

    fn standing(&self, owner: Option<&OwnerId>, worker: &WorkerId) -> Standing {
        let quota = owner.and_then(|owner| self.quotas.get(owner)).cloned();
        Standing { quota, usage: self.usage(owner, worker) }
    }

    /// Whether the limits let this sandbox in.
    pub(super) fn decide(&self, policy: &Policy, new: &NewSandbox, now: Timestamp) -> Result<()> {
        let capacity = self.capacity(&new.worker, now)?;
        let Standing { quota, usage } = self.standing(new.owner.as_ref(), &new.worker);
        let limits = quota.map(|quota| quota.fields.limits()).unwrap_or_default();
        match admission::decide(policy, &limits, &capacity, usage, new.request(now)) {
            Decision::Admit => Ok(()),
            Decision::Wait(full) => Err(Error::Full(full)),
            Decision::Refuse(refusal) => Err(Error::NotAllowed(refusal)),
        }
    }
}

#[async_trait]
impl QuotaStore for MemoryStore {
    async fn quota(&self, owner: &OwnerId) -> Result<Option<Quota>> {
        Ok(self.state().quotas.get(owner).cloned())
    }

    async fn quotas(&self) -> Result<Vec<Quota>> {
        Ok(self.state().quotas.values().cloned().collect())
    }

    async fn quota_counts(&self) -> Result<QuotaCounts> {
        let state = self.state();
        let count = |has: fn(&QuotaFields) -> bool| {
            state.quotas.values().filter(|quota| has(&quota.fields)).count() as u64
        };
        Ok(QuotaCounts {
            total: count(|_| true),
            with_max_sandboxes: count(|fields| fields.max_sandboxes.is_some()),
            with_max_ttl: count(|fields| fields.max_ttl.is_some()),
            with_max_exec_timeout: count(|fields| fields.max_exec_timeout.is_some()),
        })
    }

    async fn put_quota(
        &self,
        owner: &OwnerId,
        mut fields: QuotaFields,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Quota> {
        let mut state = self.state();
        fields.max_ttl = fields.max_ttl.map(whole_micros);
        fields.max_exec_timeout = fields.max_exec_timeout.map(whole_micros);
        let quota = Quota { owner: owner.clone(), fields, created_at: now, updated_at: now };
        let row = state.quotas.entry(owner.clone()).or_insert(quota);
        row.fields = fields;
        row.updated_at = now;
        let row = row.clone();
        state.append(events, now);
        Ok(row)
    }

    async fn delete_quota(
        &self,
        owner: &OwnerId,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<()> {
        let mut state = self.state();
        state.quotas.remove(owner).ok_or(Error::NotFound)?;
        state.append(events, now);
        Ok(())
    }

    async fn standing(&self, owner: Option<&OwnerId>, worker: &WorkerId) -> Result<Standing> {
        Ok(self.state().standing(owner, worker))
    }
}
