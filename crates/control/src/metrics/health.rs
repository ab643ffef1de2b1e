//! How the providers are: looked at together, bounded, and remembered for a moment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stacyvm_fleet::ProviderReport;
use stacyvm_types::{Histogram, Tally, Timestamp};
use tokio::time::timeout;

use super::looked::Looked;
use crate::Control;

/// How long a look stays good. Workers remember theirs too, for about as long.
const FRESH: Duration = Duration::from_secs(1);
/// How long the last look is given when no look comes to its end: then it says too little.
const TOO_OLD: Duration = Duration::from_secs(10);
/// The longest look. A worker bounds each of its providers below this, at the same time.
const LOOK: Duration = Duration::from_millis(2_500);

/// The last look at the providers, and how long all looks took.
#[derive(Default)]
pub(crate) struct ProviderHealth {
    last: Arc<Looked<Arc<[ProviderReport]>>>,
    looks: Mutex<BTreeMap<Arc<str>, Looks>>,
}

#[derive(Default)]
struct Looks {
    counted: Option<Timestamp>,
    times: Histogram,
}

impl ProviderHealth {
    /// Counts the looks that were not counted yet.
    fn count(&self, reports: &[ProviderReport]) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        for report in reports {
            let looks = looks.entry(report.name.clone()).or_default();
            if looks.counted.replace(report.checked_at) != Some(report.checked_at) {
                looks.times.record(report.latency);
            }
        }
    }

    /// How long the looks at each provider took.
    pub(crate) fn tallies(&self) -> Vec<(String, Tally)> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.iter().map(|(name, looks)| (name.to_string(), looks.times.tally())).collect()
    }
}

impl Control {
    /// The providers of this server's worker, the default one marked. A look that takes longer
    /// than `patience` is not waited for when there was one before; its age then shows in
    /// `checked_at`.
    pub(crate) async fn provider_reports(&self, patience: Duration) -> Arc<[ProviderReport]> {
        let look = || {
            let control = self.clone();
            async move {
                let worker = control.0.parts.fleet.worker(&control.settings().worker).ok()?;
                let mut reports = timeout(LOOK, worker.providers()).await.ok()?;
                for report in &mut reports {
                    report.default = *report.name == *control.settings().default_provider;
                }
                control.0.health.count(&reports);
                Some(reports.into())
            }
        };
        let found = self.0.health.last.get(self, FRESH..TOO_OLD, patience, look).await;
        found.map(|(_, reports)| reports).unwrap_or_default()
    }
}
