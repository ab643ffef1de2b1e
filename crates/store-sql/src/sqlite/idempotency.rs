//! Idempotency keys in the SQLite file.

use async_trait::async_trait;
use stacyvm_store::{Allowance, Answer, Begun, Durability, IdempotencyStore, NewKey, Result};
use stacyvm_types::Timestamp;

use super::{SqliteStore, writer::Needs};
use crate::idempotency as keys;

/// What survives the process is enough: a change that the host loses is one that did not happen.
const KERNEL: Needs = Needs::Kernel { events: 0 };

#[async_trait]
impl IdempotencyStore for SqliteStore {
    async fn begin_key(
        &self,
        new: NewKey,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Begun> {
        let needs = Needs::of(durability, 0);
        self.writer.run_to(needs, move |tx| keys::begin(tx, &new, now)).await
    }

    async fn hold_key(&self, id: &str, attempt: u64, until: Timestamp) -> Result<()> {
        let id = id.to_owned();
        self.writer.run_to(KERNEL, move |tx| keys::hold(tx, &id, attempt, until)).await
    }

    async fn renew_key(&self, id: &str, attempt: u64, resource: &str) -> Result<()> {
        let (id, resource) = (id.to_owned(), resource.to_owned());
        self.writer.run_to(KERNEL, move |tx| keys::renew(tx, &id, attempt, &resource)).await
    }

    async fn finish_key(
        &self,
        id: &str,
        attempt: u64,
        answer: Answer,
        allowance: Option<Allowance>,
    ) -> Result<()> {
        let id = id.to_owned();
        self.writer.run(move |tx| keys::finish(tx, &id, attempt, answer, allowance.as_ref())).await
    }

    async fn release_key(&self, id: &str, attempt: u64) -> Result<()> {
        let id = id.to_owned();
        self.writer.run_to(KERNEL, move |tx| keys::release(tx, &id, attempt)).await
    }

    async fn prune_keys(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.writer.run_to(KERNEL, move |tx| keys::prune(tx, before, limit)).await
    }
}
