//! API keys in memory.

use async_trait::async_trait;
use stacyvm_types::{KeyId, Timestamp};

use super::MemoryStore;
use crate::{ApiKey, Error, KeyStore, Result};

#[async_trait]
impl KeyStore for MemoryStore {
    async fn create_key(&self, key: ApiKey) -> Result<()> {
        let keys = &mut self.state().keys;
        if keys.contains_key(&key.id) || keys.values().any(|known| known.name == key.name) {
            return Err(Error::Conflict);
        }
        keys.insert(key.id.clone(), key);
        Ok(())
    }

    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>> {
        Ok(self.state().keys.get(id).cloned())
    }

    async fn keys(&self) -> Result<Vec<ApiKey>> {
        let mut keys: Vec<_> = self.state().keys.values().cloned().collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(keys)
    }

    async fn has_keys(&self) -> Result<bool> {
        Ok(!self.state().keys.is_empty())
    }

    async fn revoke_key(&self, id: &KeyId, now: Timestamp) -> Result<ApiKey> {
        let mut state = self.state();
        let key = state.keys.get_mut(id).ok_or(Error::NotFound)?;
        key.revoked_at.get_or_insert(now);
        Ok(key.clone())
    }

    async fn note_key_use(&self, id: &KeyId, at: Timestamp) -> Result<()> {
        if let Some(key) = self.state().keys.get_mut(id) {
            key.last_used_at = key.last_used_at.max(Some(at));
        }
        Ok(())
    }
}
