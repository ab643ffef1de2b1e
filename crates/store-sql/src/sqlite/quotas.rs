//! Quotas in the SQLite file.

use async_trait::async_trait;
use stacyvm_store::{NewEvent, Quota, QuotaCounts, QuotaFields, QuotaStore, Result, Standing};
use stacyvm_types::{OwnerId, Timestamp, WorkerId};

use super::SqliteStore;
use crate::quotas;

#[async_trait]
impl QuotaStore for SqliteStore {
    async fn quota(&self, owner: &OwnerId) -> Result<Option<Quota>> {
        self.readers.point(|tx| quotas::one(tx, owner)).await
    }

    async fn quotas(&self) -> Result<Vec<Quota>> {
        self.readers.scan(quotas::list).await
    }

    async fn quota_counts(&self) -> Result<QuotaCounts> {
        self.readers.scan(quotas::counts).await
    }

    async fn put_quota(
        &self,
        owner: &OwnerId,
        fields: QuotaFields,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Quota> {
        let owner = owner.clone();
        self.writer.run(move |tx| quotas::put(tx, &owner, fields, events, now)).await
    }

    async fn delete_quota(
        &self,
        owner: &OwnerId,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<()> {
        let owner = owner.clone();
        self.writer.run(move |tx| quotas::delete(tx, &owner, events, now)).await
    }

    async fn standing(&self, owner: Option<&OwnerId>, worker: &WorkerId) -> Result<Standing> {
        self.readers.point(|tx| tx.snapshot(|tx| quotas::standing(tx, owner, worker))).await
    }
}
