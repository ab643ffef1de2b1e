//! Whether the server can do its work.

use std::time::Duration;

use stacyvm_fleet::ProviderReport;
use tokio::time::{Instant, timeout};

use crate::{Control, Readiness};

const STORE_PATIENCE: Duration = Duration::from_secs(2);

impl Control {
    /// The providers of this server's worker, the default one marked.
    pub async fn providers(&self) -> Vec<ProviderReport> {
        let settings = self.settings();
        let Ok(worker) = self.0.parts.fleet.worker(&settings.worker) else {
            return Vec::new();
        };
        let mut reports = worker.providers().await;
        for report in &mut reports {
            report.default = report.name == settings.default_provider;
        }
        reports
    }

    /// Whether the store answers, and what the providers say. Bounded: what does not answer in
    /// time is reported so.
    pub async fn ready(&self) -> Readiness {
        let store = async {
            let begun = Instant::now();
            match timeout(STORE_PATIENCE, self.store().ping()).await {
                Ok(Ok(())) => Ok(begun.elapsed()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the store did not answer within 2 s".to_owned()),
            }
        };
        let (store, providers) = tokio::join!(store, self.providers());
        Readiness { store, providers }
    }
}
