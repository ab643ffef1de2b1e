//! What looks at the workers: the registry, the store's clock, and those that are lost.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_provider::Capabilities;
use stacyvm_store::{self as store, Durability, Sandbox, WorkerRow};
use stacyvm_types::{EventKind, Offer, Phase, Transition, WorkerId};
use tokio::time::Instant;

use super::{Known, View};
use crate::{
    Control, Error, Result, events,
    jobs::{Job, Progress},
    operations::Act,
};

/// The time between two looks of a server that has its store for itself.
const ALONE: Duration = Duration::from_secs(10);
/// The longest way to the store and back on which its clock is read: what was told may be wrong by
/// half of it. A longer one means that one of both was held up.
const WAY: Duration = Duration::from_millis(500);
/// How often the clock is asked for at the start until a longer way has to do.
const ASKED: u32 = 5;
/// Sandboxes of a lost worker that are marked in one read.
const PAGE: u32 = 256;

impl Control {
    pub(super) async fn follow_clock(&self) -> store::Result<()> {
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
        let view = View::new(rows);
        self.connect(&view);
        self.0.members.forget_all_but(&view);
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
    fn connect(&self, view: &View) {
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
        for (id, Known { row, .. }) in view.iter() {
            let Some(url) = &row.beat.url else { continue };
            if *id == self.settings().worker {
                continue;
            }
            if dialled.get(id) != Some(url) {
                match dial.dial(id, url) {
                    Ok(worker) => drop(fleet.insert(worker)),
                    Err(error) => {
                        // Said once: it stays so until the worker says another address.
                        tracing::warn!(worker.id = %id, ?error, "a worker cannot be reached");
                        fleet.remove(id);
                    }
                }
                dialled.insert(id.clone(), url.clone());
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

    /// When the next look is worth it: where other servers change the store too soon, and else
    /// half-way to where the first lease lapses that is known here, because a worker that lives has
    /// renewed it by then. A lost one is noticed at once, after ever shorter ways.
    fn next_look(&self) -> Duration {
        let shared = self.settings().membership.term.is_some();
        let (longest, part) = if shared { (Lookout::PERIOD, 1) } else { (ALONE, 2) };
        let (view, now) = (self.0.members.view(), self.now());
        let lapses = view.values().map(|known| known.row.lease_until);
        let next = lapses.filter(|until| now < *until).map(|until| until.saturating_since(now));
        next.min().map_or(longest, |next| (next / part).clamp(Lookout::GAP, longest))
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
                    match self.lose(&row, detail).await? {
                        Loss::Marked => marked += 1,
                        Loss::SettledBefore => {}
                        Loss::HeardAgain => {
                            self.note_returned(id);
                            return Ok(marked);
                        }
                    }
                }
            }
        }
        let mut mourned = self.0.members.mourned.lock().unwrap_or_else(PoisonError::into_inner);
        mourned.insert(id.clone(), until);
        Ok(marked)
    }

    /// The worker was heard of while its sandboxes were marked: those that were are to be settled.
    fn note_returned(&self, id: &WorkerId) {
        let mut returned = self.0.members.returned.lock().unwrap_or_else(PoisonError::into_inner);
        returned.insert(id.clone());
        drop(returned);
        self.wake_reconciler();
    }

    async fn lose(&self, row: &Sandbox, detail: String) -> Result<Loss> {
        // Where everything stands still there is nothing to lose in between.
        let data = [
            ("action", "marked_unhealthy".to_owned()),
            ("reason", detail.clone()),
            ("provider", row.spec.provider.clone()),
        ];
        let event = events::about(row, EventKind::ReconcileAction, data);
        let transition = Transition::Lost(detail.clone());
        match self.transition(row, transition, vec![event], Durability::Disk).await {
            Ok(after) => {
                let is_new = after.version == row.version + 1;
                if is_new {
                    let mut attempt =
                        self.attempt(Act::Change("reconcile.action"), "marked_unhealthy");
                    attempt.concerns(&after);
                    attempt.succeeded(detail).await;
                }
                Ok(if is_new { Loss::Marked } else { Loss::SettledBefore })
            }
            Err(store::Error::Fenced | store::Error::Refused(_) | store::Error::NotFound) => {
                Ok(Loss::SettledBefore)
            }
            Err(store::Error::LeaseHeld) => Ok(Loss::HeardAgain),
            Err(error) => Err(Error::from_store(error)),
        }
    }
}

/// What came of marking a sandbox whose worker was lost.
enum Loss {
    Marked,
    /// Another server or its own end was first.
    SettledBefore,
    /// The worker's lease holds: what this server knew of it is old.
    HeardAgain,
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
