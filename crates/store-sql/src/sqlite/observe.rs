//! What operators ask of the store in a SQLite file.

use async_trait::async_trait;
use stacyvm_store::{Census, ObserveStore, Result, Timings};
use stacyvm_types::Timestamp;

use super::SqliteStore;
use crate::observe;

#[async_trait]
impl ObserveStore for SqliteStore {
    async fn census(&self, now: Timestamp) -> Result<Census> {
        self.readers.scan(move |tx| observe::census(tx, now)).await
    }

    fn timings(&self) -> Option<&Timings> {
        Some(&self.timings)
    }
}
