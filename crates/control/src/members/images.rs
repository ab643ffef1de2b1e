//! Which worker has which image.

use std::sync::{Arc, PoisonError};

use stacyvm_types::{Offer, WorkerId, full_image_name};

use super::view::{HOST, Known};
use crate::Control;

/// What a provider can do that launches what was imported only.
const IMPORTS: &str = "images";

impl Control {
    /// The workers that import images, as far as they were heard of in time or not; and the provider
    /// of each that does: the default one where it has that.
    pub(crate) fn importers(&self, is_fresh: bool) -> Vec<(WorkerId, String)> {
        let (view, now) = (self.0.members.view(), self.now());
        let of = |(id, known): (&WorkerId, &Known)| {
            let offers = known.row.beat.offers.iter().filter(|offer| imports(offer));
            let default = &self.settings().default_provider;
            let offer = offers.clone().find(|offer| offer.provider == *default);
            let offer = offer.or_else(|| offers.clone().next())?;
            (known.row.is_fresh(now) == is_fresh).then(|| (id.clone(), offer.provider.clone()))
        };
        view.iter().filter_map(of).collect()
    }

    /// Whether the worker is known to have the image.
    pub(crate) fn is_known_to_have(&self, worker: &WorkerId, provider: &str, image: &str) -> bool {
        let view = self.0.members.view();
        let mut offers = view.get(worker).into_iter().flat_map(|known| &known.row.beat.offers);
        offers.any(|offer| offer.provider == provider && has_image(offer, image) == Some(true))
    }

    /// An image was imported or removed at a worker, which says so itself with its next heartbeat.
    pub(crate) fn note_image(&self, worker: &WorkerId, provider: &str, image: &str, has: bool) {
        let mut view = self.0.members.view.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut view).set_image(worker, provider, &full_image_name(image), has);
    }
}

fn imports(offer: &Offer) -> bool {
    offer.capabilities.iter().any(|name| name == IMPORTS)
}

/// Whether the image is there; `None` where it needs no import. Offered names have their tags.
pub(super) fn has_image(offer: &Offer, image: &str) -> Option<bool> {
    let needed = image != HOST && imports(offer);
    needed.then(|| offer.images.contains(&*full_image_name(image)))
}
