//! What this server says to the registry of workers, and what operators and workers do.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use stacyvm_store::{self as store, WorkerRow};
use stacyvm_types::{Beat, Timestamp, WorkerId};

use super::Member;
use crate::{Control, Error, Result};

impl Control {
    /// Puts this server's own worker into the registry and looks at the others there.
    pub async fn join(&self) -> Result<()> {
        self.follow_clock().await.map_err(Error::from_store)?;
        self.0.members.began.get_or_init(|| self.now());
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
        Arc::make_mut(&mut view).update(row);
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
