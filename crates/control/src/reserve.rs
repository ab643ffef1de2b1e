//! From a decided spawn to a reserved place: at once, after a wait, or not.

use std::time::Duration;

use stacyvm_admission::Weight;
use stacyvm_store::{self as store, NewSandbox, Sandbox};
use stacyvm_types::{EventKind, format_duration};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Control, Error, Overflow, Result,
    events::{self, Record},
    queue::{Answer, GaveWay, Reservation, Waiting},
};

/// Why a wait ended without a place.
enum GaveUp {
    TimedOut(Duration),
    CallerGone,
    Stopping,
}

impl Control {
    /// Reserves a place for a spawn: its row is there, in phase `Creating`. `gone` is cancelled when
    /// the caller is not there any more, which ends a wait and nothing else.
    pub(crate) async fn reserve(
        &self,
        reservation: Reservation,
        gone: &CancellationToken,
    ) -> Result<Sandbox> {
        let overflow = self.rules().overflow;
        let Overflow::Queue { places, patience } = overflow else {
            // Some may still wait from before nobody was to wait any more: they have their turn.
            if self.0.queue.stands_before(&reservation.new.owner) {
                return Err(Error::Limit("earlier spawns still wait for a place".to_owned()));
            }
            return self.stored(self.admit_now(reservation).await);
        };
        // Whoever comes while others wait joins them: nobody is overtaken.
        if self.0.queue.is_open_to(&reservation.new.owner) {
            match self.admit_now(reservation.clone()).await {
                Err(store::Error::Full(_)) => {}
                answer => return self.stored(answer),
            }
        }
        let weight = self.weight_of(&reservation.new).await?;
        let new = reservation.new.clone();
        let Some(waiting) = self.0.queue.join(reservation, weight, places) else {
            return Err(queue_full(places));
        };
        self.wait(&new, waiting, patience, gone).await
    }

    async fn wait(
        &self,
        new: &NewSandbox,
        Waiting { ticket, mut answer, depth }: Waiting,
        patience: Duration,
        gone: &CancellationToken,
    ) -> Result<Sandbox> {
        let begun = Instant::now();
        self.note_queue(new, EventKind::SpawnQueued, [("depth", depth.to_string())]).await;
        let gave_up = tokio::select! {
            biased;
            answer = &mut answer => return self.heard(new, answer.ok(), begun).await,
            () = sleep(patience) => GaveUp::TimedOut(patience),
            () = gone.cancelled() => GaveUp::CallerGone,
            () = self.0.parts.stopping.cancelled() => GaveUp::Stopping,
        };
        self.0.queue.leave(ticket);
        let late = answer.await.ok();
        match gave_up {
            GaveUp::TimedOut(patience) => {
                if let Some(Ok(Ok(_) | Err(store::Error::Unavailable(_)))) = late {
                    return self.heard(new, late, begun).await;
                }
                let reason = format!("spawn queue timeout after {}", format_duration(patience));
                Err(self.without_a_place(new, Error::Limit(reason), begun).await)
            }
            GaveUp::CallerGone | GaveUp::Stopping => {
                self.0.queue.note_left(false);
                if let Some(Ok(answer)) = late
                    && let Ok(row) = self.stored(answer)
                {
                    let detail = "nobody waited for it any more when it was admitted";
                    self.undo(&row, detail.to_owned()).await;
                }
                Err(Error::unavailable("the server is stopping; try again"))
            }
        }
    }

    async fn heard(
        &self,
        new: &NewSandbox,
        answer: Option<Answer>,
        begun: Instant,
    ) -> Result<Sandbox> {
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(GaveWay { places })) => {
                return Err(self.without_a_place(new, queue_full(places), begun).await);
            }
            None => {
                return Err(Error::internal("a waiter lost its answer", "the queue dropped it"));
            }
        };
        let row = self.stored(answer)?;
        self.0.queue.waits.record(begun.elapsed());
        let data = [("wait_ms", begun.elapsed().as_millis().to_string())];
        self.note_queue(new, EventKind::SpawnDequeued, data).await;
        Ok(row)
    }

    /// Writes down that a wait is over which its caller would have gone on with.
    async fn without_a_place(&self, new: &NewSandbox, error: Error, begun: Instant) -> Error {
        self.0.queue.note_left(true);
        self.0.queue.waits.record(begun.elapsed());
        let reason = match &error {
            Error::Limit(reason) => reason.clone(),
            error => error.to_string(),
        };
        let wait = begun.elapsed().as_millis().to_string();
        let data = [("wait_ms", wait), ("error", reason)];
        self.note_queue(new, EventKind::SpawnQueueTimeout, data).await;
        error
    }

    fn stored(&self, answer: store::Result<Sandbox>) -> Result<Sandbox> {
        match answer {
            Ok(row) => {
                self.0.queue.tight(false);
                self.0.recorder.appended();
                self.0.reaper.expects(row.spec.expires_at);
                Ok(row)
            }
            Err(error) => {
                match error {
                    // It may have been stored: the reconciler ends a row that nobody works on.
                    store::Error::Unavailable(_) => self.0.reconcile.wake(),
                    store::Error::Full(_) => self.0.queue.tight(true),
                    _ => {}
                }
                Err(Error::from_store(error))
            }
        }
    }

    async fn weight_of(&self, new: &NewSandbox) -> Result<Weight> {
        let Some(owner) = &new.owner else { return Ok(Weight::default()) };
        let quota = self.store().quota(owner).await.map_err(Error::from_store)?;
        Ok(quota.and_then(|quota| quota.fields.weight).unwrap_or_default())
    }

    async fn note_queue<const N: usize>(
        &self,
        new: &NewSandbox,
        kind: EventKind,
        data: [(&str, String); N],
    ) {
        let mut event = events::general(kind, data);
        event.owner.clone_from(&new.owner);
        let owner = new.owner.as_ref().map(ToString::to_string).unwrap_or_default();
        event.data.extend([
            ("operation".to_owned(), "sandbox.spawn".to_owned()),
            ("provider".to_owned(), new.provider.clone()),
            ("owner_id".to_owned(), owner),
        ]);
        // Whoever waits for a place does not wait for the log without end.
        self.0.recorder.record_soon(Record::Event(event)).await;
    }
}

fn queue_full(places: usize) -> Error {
    Error::Limit(format!("spawn queue full ({places})"))
}
