//! Idempotency keys in Postgres.

use async_trait::async_trait;
use stacyvm_store::{Allowance, Answer, Begun, Durability, IdempotencyStore, NewKey, Result};
use stacyvm_types::Timestamp;

use super::PostgresStore;
use crate::idempotency as keys;

#[async_trait]
impl IdempotencyStore for PostgresStore {
    async fn begin_key(
        &self,
        new: NewKey,
        _durability: Durability,
        now: Timestamp,
    ) -> Result<Begun> {
        self.change(move |tx| keys::begin(tx, &new, now)).await
    }

    async fn hold_key(&self, id: &str, attempt: u64, until: Timestamp) -> Result<()> {
        let id = id.to_owned();
        self.change(move |tx| keys::hold(tx, &id, attempt, until)).await
    }

    async fn renew_key(&self, id: &str, attempt: u64, resource: &str) -> Result<()> {
        let (id, resource) = (id.to_owned(), resource.to_owned());
        self.change(move |tx| keys::renew(tx, &id, attempt, &resource)).await
    }

    async fn finish_key(
        &self,
        id: &str,
        attempt: u64,
        answer: Answer,
        allowance: Option<Allowance>,
    ) -> Result<()> {
        let id = id.to_owned();
        self.change(move |tx| keys::finish(tx, &id, attempt, answer.clone(), allowance.as_ref()))
            .await
    }

    async fn release_key(&self, id: &str, attempt: u64) -> Result<()> {
        let id = id.to_owned();
        self.change(move |tx| keys::release(tx, &id, attempt)).await
    }

    async fn prune_keys(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.change(move |tx| keys::prune(tx, before, limit)).await
    }
}
