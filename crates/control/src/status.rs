//! Whether the server can do its work.

use std::time::Duration;

use stacyvm_fleet::ProviderReport;
use tokio::time::{Instant, timeout};

use crate::{Control, Readiness};

const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// Longer than a look at a provider that is well.
const PROVIDER_PATIENCE: Duration = Duration::from_millis(250);

impl Control {
    /// The providers of this server's worker, and those that only others have, as they say with
    /// their heartbeats; the default one marked. A provider that hangs is reported as it was before,
    /// until the look at it has met its bound.
    pub async fn providers(&self) -> Vec<ProviderReport> {
        self.with_others(&self.provider_reports(PROVIDER_PATIENCE).await)
    }

    /// The providers of this server's worker, and those that only others have.
    pub(crate) fn with_others(&self, own: &[ProviderReport]) -> Vec<ProviderReport> {
        let mut reports = own.to_vec();
        reports.extend(self.offered_elsewhere(own));
        reports
    }

    /// Whether the store answers, and what the providers say. Bounded: what does not answer in
    /// time is reported so.
    pub async fn ready(&self) -> Readiness {
        let (store, own) =
            tokio::join!(self.store_answers(), self.provider_reports(PROVIDER_PATIENCE));
        let launches = || own.iter().any(|report| report.probe.usable);
        let launches = self.settings().runs_sandboxes.then(launches);
        Readiness { store, providers: self.with_others(&own), launches }
    }

    /// How long the store took to answer, or a sentence about why it did not. Bounded.
    pub async fn store_answers(&self) -> Result<Duration, String> {
        let begun = Instant::now();
        match timeout(STORE_PATIENCE, self.store().ping()).await {
            Ok(Ok(())) => Ok(begun.elapsed()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the store did not answer within 2 s".to_owned()),
        }
    }
}
