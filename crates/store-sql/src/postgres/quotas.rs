//! Quotas in Postgres.

use async_trait::async_trait;
use stacyvm_store::{NewEvent, Quota, QuotaCounts, QuotaFields, QuotaStore, Result, Standing};
use stacyvm_types::{OwnerId, Timestamp, WorkerId};

use super::PostgresStore;
use crate::quotas;

#[async_trait]
impl QuotaStore for PostgresStore {
    async fn quota(&self, owner: &OwnerId) -> Result<Option<Quota>> {
        let owner = owner.clone();
        self.point(move |tx| quotas::one(tx, &owner)).await
    }

    async fn quotas(&self) -> Result<Vec<Quota>> {
        self.scan(quotas::list).await
    }

    async fn quota_counts(&self) -> Result<QuotaCounts> {
        self.scan(quotas::counts).await
    }

    async fn put_quota(
        &self,
        owner: &OwnerId,
        fields: QuotaFields,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Quota> {
        let owner = owner.clone();
        self.change(move |tx| quotas::put(tx, &owner, fields, events.clone(), now)).await
    }

    async fn delete_quota(
        &self,
        owner: &OwnerId,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<()> {
        let owner = owner.clone();
        self.change(move |tx| quotas::delete(tx, &owner, events.clone(), now)).await
    }

    async fn standing(&self, owner: Option<&OwnerId>, worker: &WorkerId) -> Result<Standing> {
        let (owner, worker) = (owner.cloned(), worker.clone());
        self.point(move |tx| tx.snapshot(|tx| quotas::standing(tx, owner.as_ref(), &worker))).await
    }
}
