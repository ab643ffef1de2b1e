//! What a worker says of its providers.

use std::time::Duration;

use stacyvm_types::Offer;
use tokio::time::timeout;

use crate::Worker;

/// How long the list of a provider's images is waited for. Without it the images are taken for
/// absent, which only makes another worker more likely to be chosen.
const IMAGES_PATIENCE: Duration = Duration::from_secs(2);
/// Images of one provider that are told at most.
pub const MOST_IMAGES: usize = 1000;

/// The providers of a worker and how they are now, for its heartbeat.
pub async fn offers(worker: &dyn Worker) -> Vec<Offer> {
    let mut offers = Vec::new();
    for report in worker.providers().await {
        let images = match worker.images(&report.name) {
            Ok(images) if report.probe.usable => {
                timeout(IMAGES_PATIENCE, images.list()).await.ok().and_then(Result::ok)
            }
            _ => None,
        };
        let images = images.unwrap_or_default().into_iter().map(|image| image.name);
        offers.push(Offer {
            provider: report.name.to_string(),
            default: report.default,
            ready: report.probe.usable,
            capabilities: report.capabilities.names().into_iter().map(str::to_owned).collect(),
            images: images.take(MOST_IMAGES).collect(),
        });
    }
    offers
}
