//! What operators ask of the store in Postgres.

use async_trait::async_trait;
use stacyvm_store::{Census, ObserveStore, Result, Timings};
use stacyvm_types::Timestamp;

use super::PostgresStore;
use crate::observe;

#[async_trait]
impl ObserveStore for PostgresStore {
    async fn census(&self, now: Timestamp) -> Result<Census> {
        self.scan(move |tx| observe::census(tx, now)).await
    }

    fn timings(&self) -> Option<&Timings> {
        Some(&self.timings)
    }
}
