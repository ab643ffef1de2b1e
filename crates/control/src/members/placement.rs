//! Where a sandbox would run, and where it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use stacyvm_admission::{self as admission, Candidate, Placement, Rejection, Wanted};
use stacyvm_fleet::{ProviderReport, Worker};
use stacyvm_provider::{self as provider, Capabilities, ErrorKind};
use stacyvm_store::{self as store, NewSandbox, Sandbox, WorkerRow};
use stacyvm_types::{Offer, Resources, SandboxId, Timestamp, WorkerId};

use super::{FIRST_PAUSE, images::has_image, view::Known};
use crate::Control;

impl Control {
    /// Where a sandbox would run, as far as is known, in a time that does not grow with the workers
    /// while most of them have room. `refused` are those that the store refused.
    pub(crate) fn choose(
        &self,
        new: &NewSandbox,
        refused: &BTreeSet<WorkerId>,
    ) -> Option<WorkerId> {
        let (view, now) = (self.0.members.view(), self.now());
        let holders = view.holders(&new.provider, &new.image);
        let chosen = admission::choose(&wanted(new), holders.len(), |at| {
            let id = holders.get(at)?;
            Some(self.candidate(new, refused, id, view.get(id)?, now))
        });
        chosen.or_else(|| self.place(new, refused).chosen)
    }

    /// The same, with a look at every worker and a reason for each that is not chosen.
    pub(crate) fn place(&self, new: &NewSandbox, refused: &BTreeSet<WorkerId>) -> Placement {
        let (view, now) = (self.0.members.view(), self.now());
        let candidates =
            view.iter().map(|(id, known)| self.candidate(new, refused, id, known, now));
        let mut placement = admission::place(&wanted(new), candidates);
        if placement.chosen.is_none() && !placement.waits_for_room() {
            // Where its provider cannot run the launch at least says why.
            let not_ready = placement
                .rejected
                .iter()
                .position(|(id, why)| *why == Rejection::NotReady && !refused.contains(id));
            placement.chosen = not_ready.map(|index| placement.rejected.swap_remove(index).0);
        }
        placement
    }

    fn candidate<'a>(
        &self,
        new: &NewSandbox,
        refused: &BTreeSet<WorkerId>,
        id: &'a WorkerId,
        Known { row, load }: &Known,
        now: Timestamp,
    ) -> Candidate<'a> {
        let offer = row.beat.offers.iter().find(|offer| offer.provider == new.provider);
        let worker = self.0.parts.fleet.worker(id).ok();
        let failed_at = worker.as_ref().and_then(|worker| worker.failed_at());
        Candidate {
            id,
            unfit: row.unfit(now),
            provider_ready: offer.map(|offer| offer.ready),
            has_image: offer.and_then(|offer| has_image(offer, &new.image)),
            reachable: worker.is_some(),
            backed_off: self.0.members.is_paused(id)
                || failed_at.is_some_and(|at| at.elapsed() < FIRST_PAUSE),
            refused: refused.contains(id),
            capacity: row.beat.capacity,
            load: load.now(),
        }
    }

    /// The worker that a sandbox is on.
    pub(crate) async fn worker_of(&self, row: &Sandbox) -> provider::Result<Arc<dyn Worker>> {
        let (fleet, id) = (&self.0.parts.fleet, &row.spec.worker);
        let found = fleet.worker(id);
        if found.is_ok() {
            return found;
        }
        if !self.0.members.view().contains_key(id) && self.look_again().await.is_ok() {
            // It came after the last look, and another server gave it the sandbox.
            let found = fleet.worker(id);
            if found.is_ok() {
                return found;
            }
        }
        match self.0.members.view().get(id) {
            Some(known) if known.row.beat.url.is_none() => Err(provider::Error::new(
                ErrorKind::Unavailable,
                format!(
                    "worker {id} takes no calls from other servers: worker.listen_addr is not \
                     set there"
                ),
            )),
            _ => found,
        }
    }

    /// Looks at the registry now; a server that is not in it yet joins it first.
    pub(crate) async fn look_again(&self) -> store::Result<()> {
        let looked = if self.0.members.view().contains_key(&self.settings().worker) {
            self.look_at_workers().await.map(drop)
        } else {
            self.join().await
        };
        looked.map_err(|error| store::Error::Unavailable(Box::new(error)))
    }

    /// Whether some worker that has this provider could hold so much, if nothing else were there; also
    /// one that takes nothing now. Where none has the provider, nobody knows.
    pub(crate) fn may_be_held(&self, provider: &str, takes: &Resources) -> bool {
        let view = self.0.members.view();
        let has = |known: &&Known| known.row.beat.offers.iter().any(|o| o.provider == provider);
        let mut having = view.values().filter(has).peekable();
        having.peek().is_none() || having.any(|known| known.row.beat.capacity.holds(takes))
    }

    /// Whether some worker has this provider.
    pub(crate) fn some_worker_has(&self, provider: &str) -> bool {
        let has = |known: &Known| known.row.beat.offers.iter().any(|o| o.provider == provider);
        self.0.members.view().values().any(has)
            || self.0.parts.fleet.workers().iter().any(|w| w.capabilities(provider).is_ok())
    }

    /// The providers that only other workers have, by name: ready where one of them can run there.
    pub(crate) fn offered_elsewhere(&self, own: &[ProviderReport]) -> Vec<ProviderReport> {
        let (view, now) = (self.0.members.view(), self.now());
        let mut offered = BTreeMap::<&str, Vec<(&WorkerRow, &Offer)>>::new();
        for Known { row, .. } in view.values().filter(|known| known.row.is_fresh(now)) {
            for offer in &row.beat.offers {
                offered.entry(&offer.provider).or_default().push((row, offer));
            }
        }
        offered.retain(|name, _| own.iter().all(|report| *report.name != **name));
        let report = |(name, by): (&str, Vec<(&WorkerRow, &Offer)>)| {
            let ready = by.iter().filter(|(_, offer)| offer.ready).count();
            let names = by.iter().flat_map(|(_, offer)| &offer.capabilities).map(String::as_str);
            ProviderReport {
                name: name.into(),
                default: name == self.settings().default_provider,
                capabilities: Capabilities::from_names(names),
                probe: provider::Probe {
                    usable: 0 < ready,
                    summary: format!("usable on {ready} of {} workers", by.len()),
                    findings: Vec::new(),
                },
                runtimes: None,
                latency: Duration::ZERO,
                checked_at: by.iter().map(|(row, _)| row.heartbeat_at).max().unwrap_or(now),
            }
        };
        offered.into_iter().map(report).collect()
    }
}

fn wanted(new: &NewSandbox) -> Wanted<'_> {
    Wanted {
        provider: &new.provider,
        image: &new.image,
        takes: Resources::of_one(&new.limits),
        salt: salt(&new.id),
    }
}

fn salt(id: &SandboxId) -> u64 {
    id.as_str().bytes().fold(0, |salt: u64, byte| salt.rotate_left(5) ^ u64::from(byte))
}
