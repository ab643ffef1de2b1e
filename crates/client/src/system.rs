//! The server itself.

use std::collections::BTreeMap;

use http::Method;
use serde_json::Value;
use stacyvm_api_types::{Health, PoolStatus, Provider, ProviderDetail, QuotaSummary, Ready};

use crate::{Answer, Client, Result, server::Target, transport::Call};

impl Client {
    /// Whether the process answers, with its version.
    pub async fn health(&self) -> Result<Answer<Health>> {
        self.ask(Call::get(Target::new("/health"))).await
    }

    /// Whether the process answers.
    pub async fn live(&self) -> Result<Answer<Health>> {
        self.ask(Call::get(Target::new("/live"))).await
    }

    /// Whether the server can do its work. A server that is not ready says so with a 503 of the
    /// same shape; here it is an answer and not an error.
    pub async fn ready(&self) -> Result<Answer<Ready>> {
        let (status, text) = self.read_any(Call::get(Target::new("/ready"))).await?;
        Answer::parse(text.clone()).map_err(|error| match status.is_success() {
            true => error,
            false => crate::error::from_answer(status, &http::HeaderMap::new(), &text),
        })
    }

    /// The providers and what they can do.
    pub async fn providers(&self) -> Result<Answer<Vec<Provider>>> {
        self.ask(Call::get(Target::new("/providers"))).await
    }

    /// One provider.
    pub async fn provider(&self, name: &str) -> Result<Answer<ProviderDetail>> {
        self.ask(Call::get(Target::new("/providers").segment(name))).await
    }

    /// Looks at every provider now: name to whether it is usable.
    pub async fn test_providers(&self) -> Result<Answer<BTreeMap<String, bool>>> {
        let target = Target::new("/providers/test");
        self.ask(Call::new(Method::POST, target).repeatable()).await
    }

    /// Whether users share runtimes.
    pub async fn pool_status(&self) -> Result<Answer<PoolStatus>> {
        self.ask(Call::get(Target::new("/pool/status"))).await
    }

    /// How many owners have which quota.
    pub async fn quota_summary(&self) -> Result<Answer<QuotaSummary>> {
        self.ask(Call::get(Target::new("/quotas/summary"))).await
    }

    /// The quotas, by owner.
    pub async fn quotas(&self) -> Result<Answer<Vec<Value>>> {
        self.ask(Call::get(Target::new("/quotas"))).await
    }

    /// The snapshots.
    pub async fn snapshots(&self) -> Result<Answer<Vec<Value>>> {
        self.ask(Call::get(Target::new("/snapshots"))).await
    }
}
