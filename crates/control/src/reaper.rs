//! Ends sandboxes whose time is over, within a second of their deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stacyvm_store::Durability;
use stacyvm_types::Timestamp;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    Control, Error, Result,
    jobs::{Job, Progress, Wake},
    sandboxes::expiry_of,
};

/// How often the clock is looked at while a deadline is known. Half of what is promised: the wall
/// clock may jump, and a sleep cannot know.
const TICK: Duration = Duration::from_millis(500);
/// How often the store is asked anyway: another process may have moved a deadline.
const REFRESH: Duration = Duration::from_secs(10);
/// Sandboxes taken in one run.
const BATCH: u32 = 256;
/// Ends under way at once. Those of a provider that hangs must not hold up the others', so a run
/// waits for none of them; above this number the reconciler finishes what is decided.
const ENDS: usize = 1024;

/// The earliest deadline that is known, and the way to say that there is an earlier one.
pub(crate) struct Alarm {
    next: Arc<AtomicI64>,
    pub(crate) wake: Wake,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { next: Arc::new(AtomicI64::new(i64::MAX)), wake: Wake::default() }
    }
}

impl Alarm {
    /// Tells the reaper of a deadline.
    pub(crate) fn expects(&self, deadline: Timestamp) {
        let micros = deadline.as_micros();
        if micros < self.next.fetch_min(micros, Ordering::SeqCst) {
            self.wake.wake();
        }
    }
}

/// The job.
pub(crate) struct Reaper {
    control: Control,
    asked: Option<Instant>,
    ends: Arc<Semaphore>,
}

impl Reaper {
    pub(crate) fn new(control: Control) -> Self {
        Self { control, asked: None, ends: Arc::new(Semaphore::new(ENDS)) }
    }

    /// Decides the end of what is due, and lets each end take its own time.
    async fn reap(&self) -> Result<u64> {
        let control = &self.control;
        let due = control.store().expired(control.now(), BATCH).await.map_err(Error::from_store)?;
        let mut done = 0;
        for row in due {
            // A host that loses the decision finds the deadline over again.
            let decided = control.stop(&row, expiry_of(&row), Vec::new(), Durability::Kernel);
            let stopping = match decided.await {
                Ok(stopping) => stopping,
                // Ended, extended or taken over since it was read: no longer this run's business.
                Err(
                    Error::Fenced
                    | Error::Conflict(_)
                    | Error::NotFound(_)
                    | Error::WrongState { .. },
                ) => continue,
                Err(error) => return Err(error),
            };
            done += 1;
            let Ok(permit) = self.ends.clone().try_acquire_owned() else {
                control.0.reconcile.wake();
                continue;
            };
            let control = control.clone();
            self.control.0.parts.tasks.spawn(async move {
                if let Err(error) = control.finish_stop(&stopping).await {
                    tracing::warn!(
                        sandbox.id = %stopping.spec.id,
                        %error,
                        "an expired sandbox is not gone yet"
                    );
                    control.audit_not_ended(&stopping, &error).await;
                }
                drop(permit);
            });
        }
        Ok(done)
    }
}

#[async_trait]
impl Job for Reaper {
    const NAME: &'static str = "reaper";
    const PERIOD: Duration = REFRESH;
    const GAP: Duration = Duration::from_millis(10);

    async fn run_once(&mut self) -> Result<Progress> {
        let alarm = &self.control.0.reaper;
        let known = Timestamp::from_micros(alarm.next.load(Ordering::SeqCst));
        let stale = self.asked.is_none_or(|asked| REFRESH <= asked.elapsed());
        if !stale && self.control.now() < known {
            return Ok(Progress { done: 0, next: pause(self.control.now(), known) });
        }
        // Reset before reading: a deadline that arrives meanwhile is then kept as the earlier one.
        alarm.next.store(i64::MAX, Ordering::SeqCst);
        self.asked = None;
        let done = self.reap().await?;
        let next = self.control.store().next_expiry().await.map_err(Error::from_store)?;
        let next = next.map_or(i64::MAX, Timestamp::as_micros);
        let known = next.min(alarm.next.fetch_min(next, Ordering::SeqCst));
        self.asked = Some(Instant::now());
        let next = pause(self.control.now(), Timestamp::from_micros(known));
        Ok(Progress { done, next })
    }
}

/// How long to wait for a deadline; `None` when it is so far away that the next ordinary run, late
/// as it may be, still comes in time.
fn pause(now: Timestamp, deadline: Timestamp) -> Option<Duration> {
    let left = deadline.saturating_since(now);
    (left < 2 * REFRESH).then(|| left.clamp(Duration::from_millis(1), TICK))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R1.6
    #[test]
    fn no_wait_ends_later_than_a_second_after_the_deadline() {
        let now = Timestamp::from_micros(0);
        for left in (0..60_000).step_by(50).map(Duration::from_millis) {
            let longest = Reaper::PERIOD.mul_f64(1.2);
            let wait = pause(now, now.saturating_add(left)).unwrap_or(longest);
            assert!(wait + Reaper::GAP <= left + Duration::from_secs(1), "{left:?} {wait:?}");
        }
    }
}
