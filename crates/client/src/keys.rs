//! API keys.

use http::Method;
use stacyvm_api_types::{Key, KeyRequest, StatusReply};

use crate::{Answer, Client, Result, server::Target, transport::Call};

impl Client {
    /// Every key that was ever made, by name.
    pub async fn keys(&self) -> Result<Answer<Vec<Key>>> {
        self.ask(Call::get(Target::new("/admin/keys"))).await
    }

    /// Makes a key; the answer holds its text, this once. It is never sent twice.
    pub async fn create_key(&self, request: &KeyRequest) -> Result<Answer<Key>> {
        self.ask(Call::new(Method::POST, Target::new("/admin/keys")).json(request)?).await
    }

    /// Revokes the key with this id.
    pub async fn revoke_key(&self, id: &str) -> Result<Answer<StatusReply>> {
        self.ask(Call::new(Method::DELETE, Target::new("/admin/keys").segment(id))).await
    }
}
