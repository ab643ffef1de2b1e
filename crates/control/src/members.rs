//! The workers as this server knows them: its own in the registry, the others by looking.
//!
//! What is known here is a second old at most and decides nothing by itself: a placement proposes,
//! and the store's transaction looks at the one worker again. A worker that does not answer is left
//! alone for a moment, whatever the registry says of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_admission::{self as admission, Candidate, Placement, Rejection, Wanted};
use stacyvm_fleet::{ProviderReport, Worker};
use stacyvm_provider::{self as provider, Capabilities, Error as ProviderError, ErrorKind};
use stacyvm_store::{self as store, Durability, NewSandbox, Sandbox, WorkerRow};
use stacyvm_types::{
    Beat, EventKind, Offer, Phase, Resources, SandboxId, Timestamp, Transition, WorkerId,
    full_image_name,
};
use tokio::time::Instant;

use crate::{
    Control, Error, Result,
    decide::loss,
    events,
    jobs::{Job, Progress},
    operations::Act,
};

/// The first pause after a worker failed, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// The time between two looks of a server that has its store for itself.
const ALONE: Duration = Duration::from_secs(10);
/// The longest way to the store and back on which its clock is read: what was told may be wrong by
/// half of it. A longer one means that one of both was held up.
const WAY: Duration = Duration::from_millis(500);
/// How often the clock is asked for at the start until a longer way has to do.
const ASKED: u32 = 5;
/// What a provider can do that launches what was imported only.
const IMPORTS: &str = "images";
/// Sandboxes of a lost worker that are marked in one read.
const PAGE: u32 = 256;

/// A worker as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its row in the registry.
    pub row: WorkerRow,
    /// What its sandboxes take.
    pub load: Resources,
    /// Whether its lease has lapsed.
    pub stale: bool,
}

/// What is known of the workers.
#[derive(Default)]
pub(crate) struct Members {
    view: RwLock<Arc<BTreeMap<WorkerId, Known>>>,
    pauses: Mutex<HashMap<WorkerId, Pause>>,
    /// Where the dialled workers take calls.
    dialled: Mutex<BTreeMap<WorkerId, String>>,
    /// The lapses whose sandboxes were all marked, each a worker and the end of its lease.
    mourned: Mutex<BTreeMap<WorkerId, Timestamp>>,
    /// Workers that were lost and are heard of again, whose sandboxes are to be settled.
    returned: Mutex<BTreeSet<WorkerId>>,
    /// How far the store's clock is ahead of this process's, in microseconds.
    ahead: AtomicI64,
    /// Whether that was found out.
    followed: AtomicBool,
}

/// Clones share the load, which changes between two looks.
#[derive(Clone)]
struct Known {
    row: Arc<WorkerRow>,
    load: Arc<Load>,
}

#[derive(Default)]
struct Load {
    sandboxes: AtomicU64,
    memory_mb: AtomicU64,
    vcpus: AtomicU64,
}

impl Load {
    fn of(taken: Resources) -> Self {
        let Resources { sandboxes, memory_mb, vcpus } = taken;
        Self { sandboxes: sandboxes.into(), memory_mb: memory_mb.into(), vcpus: vcpus.into() }
    }

    fn now(&self) -> Resources {
        Resources {
            sandboxes: self.sandboxes.load(Ordering::Relaxed),
            memory_mb: self.memory_mb.load(Ordering::Relaxed),
            vcpus: self.vcpus.load(Ordering::Relaxed),
        }
    }

    /// The three are changed one after the other: what is read is a hint anyway.
    fn change(&self, how: fn(u64, u64) -> u64, by: Resources) {
        let each = [
            (&self.sandboxes, by.sandboxes),
            (&self.memory_mb, by.memory_mb),
            (&self.vcpus, by.vcpus),
        ];
        for (taken, by) in each {
            let changed = |old| Some(how(old, by));
            _ = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        }
    }
}

struct Pause {
    failures: u32,
    until: Instant,
}

impl Members {
    fn view(&self) -> Arc<BTreeMap<WorkerId, Known>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is taken of a worker until it is looked at again.
    fn adjust(&self, worker: &WorkerId, how: fn(u64, u64) -> u64, by: Resources) {
        if let Some(known) = self.view().get(worker) {
            known.load.change(how, by);
        }
    }

    /// A place went from one worker to another.
    pub(crate) fn moved(&self, from: &NewSandbox, to: &NewSandbox) {
        let one = Resources::of_one(&from.limits);
        self.adjust(&from.worker, u64::saturating_sub, one);
        self.adjust(&to.worker, u64::saturating_add, one);
    }

    fn is_paused(&self, worker: &WorkerId) -> bool {
        let pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.get(worker).is_some_and(|pause| Instant::now() < pause.until)
    }

    fn failed(&self, worker: &WorkerId) {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = pauses
            .entry(worker.clone())
            .or_insert_with(|| Pause { failures: 0, until: Instant::now() });
        let time = LAST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(pause.failures));
        pause.failures = pause.failures.saturating_add(1);
        pause.until = Instant::now() + time;
    }

    fn answered(&self, worker: &WorkerId) {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner).remove(worker);
    }

    /// The time by the store's clock.
    pub(crate) fn corrected(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_micros(now.as_micros().saturating_add(self.ahead.load(Ordering::Relaxed)))
    }
}

impl Control {
    /// Puts this server's own worker into the registry and looks at the others there.
    pub async fn join(&self) -> Result<()> {
        self.follow_clock().await.map_err(Error::from_store)?;
        if self.settings().membership.term.is_none() {
            self.let_go_of_former_selves().await?;
        }
        self.renew().await?;
        self.look_at_workers().await.map(drop)
    }

    /// This server ends and its own worker holds nothing: others need not hear of it any more. One
    /// that holds something stays in the registry, and what it holds waits for it to come back.
    pub async fn leave(&self) {
        let settings = self.settings();
        if settings.membership.term.is_none() {
            return;
        }
        match self.store().remove_worker(&settings.worker).await {
            Ok(()) | Err(store::Error::NotFound | store::Error::Conflict) => {}
            Err(error) => tracing::warn!(%error, "this server's worker stays in the registry"),
        }
    }

    /// Says that this server's own worker lives, which renews its lease.
    pub(crate) async fn renew(&self) -> Result<()> {
        let settings = self.settings();
        let beat = self.own_beat().await?;
        let row = self.store().beat(beat, settings.membership.term, self.now()).await;
        let row = row.map_err(|error| match error {
            store::Error::LeaseHeld => Error::Conflict(format!(
                "another server uses the worker id {}: give this one its own with worker.id",
                settings.worker
            )),
            error => Error::from_store(error),
        })?;
        let mut view = self.0.members.view.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = Arc::make_mut(&mut view).get_mut(&settings.worker) {
            known.row = Arc::new(row);
        }
        Ok(())
    }

    /// A server that has its store for itself is the only one whose lease has no end: whoever else
    /// has one is this server under another name, or over the data directory that this store was
    /// restored from, which it will not come back to.
    async fn let_go_of_former_selves(&self) -> Result<()> {
        let settings = self.settings();
        for (row, _) in self.store().workers().await.map_err(Error::from_store)? {
            let is_this =
                row.beat.id == settings.worker && row.beat.instance == settings.membership.instance;
            if row.lease_until == Timestamp::MAX && !is_this {
                let ended = self.store().beat(row.beat, Some(Duration::ZERO), self.now()).await;
                ended.map_err(Error::from_store)?;
            }
        }
        Ok(())
    }

    /// A worker at a distance is alive.
    pub async fn heard_of(&self, beat: Beat) -> Result<WorkerRow> {
        if beat.id == self.settings().worker {
            return Err(Error::Conflict(format!("{} is this server's own worker", beat.id)));
        }
        let id = beat.id.clone();
        let term = self.settings().membership.lease_term;
        let says_the_same = self.0.members.view().get(&id).is_some_and(|known| {
            // One that started again may take calls elsewhere.
            known.row.is_fresh(self.now()) && known.row.beat == beat
        });
        let row = self.store().beat(beat, Some(term), self.now()).await;
        let row = row.map_err(|error| match error {
            store::Error::LeaseHeld => Error::Conflict(format!(
                "another worker uses the id {id}: give each its own with worker.id"
            )),
            error => Error::from_store(error),
        })?;
        if !says_the_same {
            // One that is back, or elsewhere, is tried at once. That it is heard says nothing of
            // whether it can be called.
            self.0.members.answered(&id);
            self.0.lookout.wake();
        }
        Ok(row)
    }

    /// The registry, by id.
    pub async fn workers(&self) -> Result<Vec<Member>> {
        let rows = self.store().workers().await.map_err(Error::from_store)?;
        let now = self.now();
        let member = |(row, load): (WorkerRow, _)| Member { stale: !row.is_fresh(now), row, load };
        Ok(rows.into_iter().map(member).collect())
    }

    /// Takes nothing new on a worker from now on, or again. What runs goes on.
    pub async fn drain_worker(&self, id: &WorkerId, drain: bool) -> Result<WorkerRow> {
        let (control, own) = (self.clone(), id.clone());
        let action = if drain { "worker.drain" } else { "worker.undrain" };
        self.change(action, id.as_str(), |_: &WorkerRow| String::new(), async move {
            let row = control.store().cordon(&own, drain, control.now()).await;
            let row = row.map_err(|error| unknown_worker(error, &own))?;
            control.look_at_workers().await?;
            control.0.queue.limits_changed();
            Ok(row)
        })
        .await
    }

    /// Forgets a worker that holds nothing.
    pub async fn remove_worker(&self, id: &WorkerId) -> Result<()> {
        let (control, own) = (self.clone(), id.clone());
        self.change("worker.remove", id.as_str(), |()| String::new(), async move {
            let removed = control.store().remove_worker(&own).await;
            removed.map_err(|error| unknown_worker(error, &own))?;
            control.look_at_workers().await.map(drop)
        })
        .await
    }

    /// Where a sandbox would run, as far as is known. `refused` are those that the store refused.
    pub(crate) fn place(&self, new: &NewSandbox, refused: &BTreeSet<WorkerId>) -> Placement {
        let (members, now) = (&self.0.members, self.now());
        let view = members.view();
        let candidates = view.iter().map(|(id, Known { row, load })| {
            let offer = row.beat.offers.iter().find(|offer| offer.provider == new.provider);
            let worker = self.0.parts.fleet.worker(id).ok();
            let failed_at = worker.as_ref().and_then(|worker| worker.failed_at());
            Candidate {
                id,
                unfit: row.unfit(now),
                provider_ready: offer.map(|offer| offer.ready),
                has_image: offer.and_then(|offer| has_image(offer, &new.image)),
                reachable: worker.is_some(),
                backed_off: members.is_paused(id)
                    || failed_at.is_some_and(|at| at.elapsed() < FIRST_PAUSE),
                refused: refused.contains(id),
                capacity: row.beat.capacity,
                load: load.now(),
            }
        });
        let wanted = Wanted {
            provider: &new.provider,
            image: &new.image,
            takes: Resources::of_one(&new.limits),
            salt: salt(&new.id),
        };
        let mut placement = admission::place(&wanted, candidates);
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

    /// What a worker can hold, as far as is known.
    pub(crate) fn capacity_of(&self, worker: &WorkerId) -> Resources {
        self.0.members.view().get(worker).map(|k| k.row.beat.capacity).unwrap_or_default()
    }

    /// The workers that import images, as far as they were heard of in time or not; and the provider
    /// of each that does: the default one where it has that.
    pub(crate) fn importers(&self, is_fresh: bool) -> Vec<(WorkerId, String)> {
        let (view, now) = (self.0.members.view(), self.now());
        let imports = |offer: &&Offer| offer.capabilities.iter().any(|name| name == IMPORTS);
        let of = |(id, known): (&WorkerId, &Known)| {
            let offers = &known.row.beat.offers;
            let default = &self.settings().default_provider;
            let offer = offers.iter().filter(imports).find(|offer| offer.provider == *default);
            let offer = offer.or_else(|| offers.iter().find(imports))?;
            (known.row.is_fresh(now) == is_fresh).then(|| (id.clone(), offer.provider.clone()))
        };
        view.iter().filter_map(of).collect()
    }

    /// Whether the worker is known to have the image.
    pub(crate) fn is_known_to_have(&self, worker: &WorkerId, provider: &str, image: &str) -> bool {
        let view = self.0.members.view();
        let mut offers = view.get(worker).into_iter().flat_map(|known| &known.row.beat.offers);
        offers.any(|offer| offer.provider == provider && offers_image(offer, image))
    }

    /// An image was imported or removed at a worker, which says so itself with its next heartbeat.
    pub(crate) fn note_image(
        &self,
        worker: &WorkerId,
        provider: &str,
        image: &str,
        is_there: bool,
    ) {
        let mut view = self.0.members.view.write().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = Arc::make_mut(&mut view).get_mut(worker) else { return };
        let offers = &mut Arc::make_mut(&mut known.row).beat.offers;
        let Some(offer) = offers.iter_mut().find(|offer| offer.provider == provider) else {
            return;
        };
        let full = full_image_name(image);
        match is_there {
            true => offer.images.insert(full.into_owned()),
            false => offer.images.remove(&*full),
        };
    }

    /// The workers that take something new now.
    pub(crate) fn eligible_workers(&self) -> usize {
        let now = self.now();
        let takes =
            |known: &&Known| known.row.unfit(now).is_none() && !known.row.beat.offers.is_empty();
        self.0.members.view().values().filter(takes).count()
    }

    /// All workers of the registry, as far as is known, by id.
    pub(crate) fn known_workers(&self) -> Vec<WorkerId> {
        self.0.members.view().keys().cloned().collect()
    }

    /// The workers that were lost and are heard of again since this was asked last.
    pub(crate) fn take_returned(&self) -> BTreeSet<WorkerId> {
        let mut returned = self.0.members.returned.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *returned)
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

    /// Since when the worker was not heard of, when its lease has lapsed.
    pub(crate) fn lost_since(&self, worker: &WorkerId) -> Option<Timestamp> {
        let view = self.0.members.view();
        let row = &view.get(worker)?.row;
        (!row.is_fresh(self.now())).then_some(row.lease_until)
    }

    /// A place was taken on a worker, or given back there.
    pub(crate) fn note_place(&self, row: &Sandbox) {
        let one = Resources::of_one(&row.spec.limits);
        let how = if row.phase.is_live() { u64::saturating_add } else { u64::saturating_sub };
        self.0.members.adjust(&row.spec.worker, how, one);
    }

    /// How a call to a worker went: one that does not answer is left alone for a moment.
    pub(crate) fn note_answer(&self, worker: &WorkerId, error: Option<&ProviderError>) {
        match error {
            Some(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Timeout) => {
                self.0.members.failed(worker);
            }
            _ => self.0.members.answered(worker),
        }
    }

    async fn own_beat(&self) -> Result<Beat> {
        let settings = self.settings();
        let worker = self.0.parts.fleet.worker(&settings.worker);
        let worker = worker.map_err(|error| Error::from_provider(error, None))?;
        let mut offers = stacyvm_fleet::offers(&*worker).await;
        for offer in &mut offers {
            offer.default = offer.provider == settings.default_provider;
        }
        Ok(Beat {
            id: settings.worker.clone(),
            instance: settings.membership.instance.clone(),
            hostname: settings.membership.hostname.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            url: settings.membership.url.clone(),
            draining: false,
            offers,
            capacity: self.rules().capacity,
        })
    }

    async fn follow_clock(&self) -> store::Result<()> {
        let (clock, members) = (&self.0.parts.clock, &self.0.members);
        for asked in 1..=ASKED {
            let (before, begun) = (clock.now(), Instant::now());
            let told = self.store().time(before).await?;
            let way = begun.elapsed();
            if WAY < way {
                if members.followed.load(Ordering::Relaxed) {
                    // What was found out before is better.
                    return Ok(());
                }
                if asked < ASKED {
                    continue;
                }
            }
            // Half-way between asking and hearing, as in NTP.
            let middle = before.saturating_add(way / 2);
            let ahead = told.as_micros().saturating_sub(middle.as_micros());
            let ahead = if told == before { 0 } else { ahead };
            members.ahead.store(ahead, Ordering::Relaxed);
            members.followed.store(WAY >= way, Ordering::Relaxed);
            break;
        }
        Ok(())
    }

    /// Looks at the registry; those whose lease has lapsed.
    pub(crate) async fn look_at_workers(&self) -> Result<Vec<WorkerRow>> {
        let rows = self.store().workers().await.map_err(Error::from_store)?;
        let now = self.now();
        let known = |(row, load): (WorkerRow, _)| {
            let known = Known { row: Arc::new(row), load: Arc::new(Load::of(load)) };
            (known.row.beat.id.clone(), known)
        };
        let view: BTreeMap<_, _> = rows.into_iter().map(known).collect();
        self.connect(&view);
        let lapsed = view.values().filter(|known| !known.row.is_fresh(now));
        let lapsed = lapsed.map(|known| WorkerRow::clone(&known.row)).collect();
        let before = self.0.members.view();
        let takes = |known: &Known| known.row.unfit(now).is_none();
        let is_new =
            |(id, known): (&WorkerId, &Known)| takes(known) && !before.get(id).is_some_and(takes);
        if view.iter().any(is_new) {
            // Whoever waits for room may have it there.
            self.0.queue.limits_changed();
        }
        *self.0.members.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        Ok(lapsed)
    }

    /// Makes the fleet what the registry says.
    fn connect(&self, view: &BTreeMap<WorkerId, Known>) {
        let Some(dial) = &self.0.parts.dial else { return };
        let fleet = &self.0.parts.fleet;
        let mut dialled = self.0.members.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        dialled.retain(|id, _| {
            let stays = view.get(id).is_some_and(|known| known.row.beat.url.is_some());
            if !stays {
                fleet.remove(id);
            }
            stays
        });
        for (id, Known { row, .. }) in view {
            let Some(url) = &row.beat.url else { continue };
            if *id == self.settings().worker {
                continue;
            }
            if dialled.get(id) != Some(url) {
                match dial.dial(id, url) {
                    Ok(worker) => {
                        fleet.insert(worker);
                        dialled.insert(id.clone(), url.clone());
                    }
                    Err(error) => {
                        tracing::warn!(worker.id = %id, ?error, "a worker cannot be reached");
                    }
                }
            }
            if let Ok(worker) = fleet.worker(id) {
                let offer = |offer: &Offer| {
                    let names = offer.capabilities.iter().map(String::as_str);
                    (Arc::from(offer.provider.as_str()), Capabilities::from_names(names))
                };
                worker.set_offers(row.beat.offers.iter().map(offer).collect());
            }
        }
    }

    /// When the next look is worth it: when the first lease lapses that is not renewed, so that a
    /// lost worker is noticed at once; and soon where other servers change the store too.
    fn next_look(&self) -> Duration {
        let shared = self.settings().membership.term.is_some();
        let longest = if shared { Lookout::PERIOD } else { ALONE };
        let (view, now) = (self.0.members.view(), self.now());
        let lapses = view.values().map(|known| known.row.lease_until);
        let next = lapses.filter(|until| now < *until).map(|until| until.saturating_since(now));
        next.min().map_or(longest, |next| next.clamp(Lookout::GAP, longest))
    }

    /// Marks the sandboxes of a worker whose lease has lapsed. How many were.
    async fn mourn(&self, lost: &WorkerRow) -> Result<u64> {
        let (id, until) = (&lost.beat.id, lost.lease_until);
        let mut marked = 0;
        let mut after = None;
        loop {
            let page = self.store().sandboxes_of(id, after, PAGE).await;
            let page = page.map_err(Error::from_store)?;
            let Some(last) = page.last() else { break };
            after = Some((last.created_at, last.spec.id.clone()));
            for row in page {
                if matches!(row.phase, Phase::Creating | Phase::Running | Phase::Paused) {
                    let detail = format!("its worker {id} was not heard of since {until}");
                    marked += u64::from(self.lose(&row, detail).await?);
                }
            }
        }
        let mut mourned = self.0.members.mourned.lock().unwrap_or_else(PoisonError::into_inner);
        mourned.insert(id.clone(), until);
        Ok(marked)
    }

    /// Whether the sandbox was marked here, and not by another server or its own end before.
    async fn lose(&self, row: &Sandbox, detail: String) -> Result<bool> {
        // Where everything stands still there is nothing to lose in between.
        let cause = loss(row, detail.clone());
        let data = [
            ("action", "marked_unhealthy".to_owned()),
            ("reason", detail.clone()),
            ("provider", row.spec.provider.clone()),
        ];
        let event = events::about(row, EventKind::ReconcileAction, data);
        let transition = Transition::Lost(cause);
        match self.transition(row, transition, vec![event], Durability::Disk).await {
            Ok(after) => {
                let is_new = after.version == row.version + 1;
                if is_new {
                    let mut attempt =
                        self.attempt(Act::Change("reconcile.action"), "marked_unhealthy");
                    attempt.concerns(&after);
                    attempt.succeeded(detail).await;
                }
                Ok(is_new)
            }
            Err(store::Error::Fenced | store::Error::Refused(_) | store::Error::NotFound) => {
                Ok(false)
            }
            Err(error) => Err(Error::from_store(error)),
        }
    }
}

/// Whether the image is there; `None` where it needs no import.
fn has_image(offer: &Offer, image: &str) -> Option<bool> {
    let imports = image != "host" && offer.capabilities.iter().any(|name| name == IMPORTS);
    imports.then(|| offers_image(offer, image))
}

/// Offered names have their tags.
fn offers_image(offer: &Offer, image: &str) -> bool {
    offer.images.contains(&*full_image_name(image))
}

fn unknown_worker(error: store::Error, id: &WorkerId) -> Error {
    match error {
        store::Error::NotFound => Error::NotFound(format!("not found: worker {:?}", id.as_str())),
        store::Error::Conflict => Error::Conflict(format!(
            "worker {id} holds sandboxes; drain it and destroy them, or wait for their end"
        )),
        error => Error::from_store(error),
    }
}

fn salt(id: &SandboxId) -> u64 {
    id.as_str().bytes().fold(0, |salt: u64, byte| salt.rotate_left(5) ^ u64::from(byte))
}

/// The job that says that this server's own worker lives.
pub(crate) struct Heart(Control);

impl Heart {
    pub(crate) const fn new(control: Control) -> Self {
        Self(control)
    }
}

#[async_trait]
impl Job for Heart {
    const NAME: &'static str = "heartbeat";
    const PERIOD: Duration = Duration::from_secs(10);
    const GAP: Duration = Duration::ZERO;

    async fn run_once(&mut self) -> Result<Progress> {
        self.0.renew().await?;
        Ok(Progress { done: 1, next: Some(self.0.settings().membership.heartbeat) })
    }
}

/// The job that looks at the other workers.
pub(crate) struct Lookout(Control);

impl Lookout {
    pub(crate) const fn new(control: Control) -> Self {
        Self(control)
    }
}

#[async_trait]
impl Job for Lookout {
    const NAME: &'static str = "workers";
    const PERIOD: Duration = Duration::from_secs(1);
    const GAP: Duration = Duration::from_millis(20);

    async fn run_once(&mut self) -> Result<Progress> {
        let control = &self.0;
        control.follow_clock().await.map_err(Error::from_store)?;
        let lapsed = control.look_at_workers().await?;
        let members = &control.0.members;
        let due: Vec<_> = {
            let mut mourned = members.mourned.lock().unwrap_or_else(PoisonError::into_inner);
            let mut returned = members.returned.lock().unwrap_or_else(PoisonError::into_inner);
            let before = mourned.len();
            mourned.retain(|id, until| {
                let is_lost =
                    lapsed.iter().any(|row| row.beat.id == *id && row.lease_until == *until);
                if !is_lost {
                    returned.insert(id.clone());
                }
                is_lost
            });
            if mourned.len() < before {
                control.wake_reconciler();
                control.0.queue.limits_changed();
            }
            lapsed.into_iter().filter(|row| !mourned.contains_key(&row.beat.id)).collect()
        };
        let mut done = 0;
        for lost in due {
            if lost.beat.id == control.settings().worker {
                // This server was asleep, or its store: it is here.
                control.join().await?;
                continue;
            }
            tracing::warn!(worker.id = %lost.beat.id, "a worker was not heard of in time");
            done += control.mourn(&lost).await?;
        }
        Ok(Progress { done, next: Some(control.next_look()) })
    }
}
