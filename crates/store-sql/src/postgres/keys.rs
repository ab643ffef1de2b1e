//! API keys in Postgres.

use async_trait::async_trait;
use stacyvm_store::{ApiKey, KeyStore, Result};
use stacyvm_types::{KeyId, Timestamp};

use super::PostgresStore;
use crate::keys;

#[async_trait]
impl KeyStore for PostgresStore {
    async fn create_key(&self, key: ApiKey) -> Result<()> {
        self.change(move |tx| keys::create(tx, &key)).await
    }

    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>> {
        let id = id.clone();
        self.point(move |tx| keys::one(tx, &id)).await
    }

    async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.scan(keys::list).await
    }

    async fn has_keys(&self) -> Result<bool> {
        self.point(keys::any).await
    }

    async fn revoke_key(&self, id: &KeyId, now: Timestamp) -> Result<ApiKey> {
        let id = id.clone();
        self.change(move |tx| keys::revoke(tx, &id, now)).await
    }

    async fn note_key_use(&self, id: &KeyId, at: Timestamp) -> Result<()> {
        let id = id.clone();
        self.change(move |tx| keys::note_use(tx, &id, at)).await
    }
}
