//! Background jobs: work that is found by looking, not by being told.
//!
//! A job takes no input, may run at any time and any number of times, does a bounded amount, and
//! does not retry: the next run is the retry. A wake-up is only a hint.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use crate::{Control, Result};

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many things it acted on.
    pub done: u64,
    /// When the next run is worth it, if that is known better than by the period.
    pub next: Option<Duration>,
}

/// How a job is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// The job's name.
    pub name: &'static str,
    /// Its finished runs.
    pub runs: u64,
    /// The failures since the last success.
    pub failures_in_row: u64,
    /// What the last successful run did.
    pub last: Option<Progress>,
    /// Why the last run failed, if it did.
    pub last_error: Option<String>,
}

/// One kind of background work.
#[async_trait]
pub(crate) trait Job: Send + 'static {
    /// Its name in logs and status.
    const NAME: &'static str;
    /// The time between two runs when nothing says otherwise; up to a fifth is added or taken.
    const PERIOD: Duration;
    /// The time that a wake-up waits for others, so that a storm of hints is one run.
    const GAP: Duration;

    /// Looks once and does what is due. Dropping it half-way is safe.
    async fn run_once(&mut self) -> Result<Progress>;
}

/// Asks a job to run soon. Clones wake the same job.
#[derive(Clone, Default)]
pub(crate) struct Wake(Arc<Notify>);

impl Wake {
    /// Asks for a run; asking again before it has begun changes nothing.
    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }
}

/// The jobs that were started.
#[derive(Default)]
pub(crate) struct Registry(Mutex<Vec<watch::Receiver<JobStatus>>>);

impl Control {
    /// Starts the background jobs on the server's task tracker; they end when it stops. Call it
    /// once, after [`Control::recover`].
    pub fn start_jobs(&self) {
        self.drive(crate::members::Heart::new(self.clone()), self.0.heart.clone());
        self.drive(crate::members::Lookout::new(self.clone()), self.0.lookout.clone());
        self.drive(crate::reaper::Reaper::new(self.clone()), self.0.reaper.wake.clone());
        self.drive(crate::queue::Turnstile::new(self.clone()), self.0.queue.wake.clone());
        self.drive(crate::reconcile::Reconciler::new(self.clone()), self.0.reconcile.clone());
        self.drive(crate::retention::Forgetter::new(self.clone()), Wake::default());
        self.follow_hints();
    }

    /// How the background jobs are doing.
    pub fn jobs(&self) -> Vec<JobStatus> {
        let jobs = self.0.jobs.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().map(|status| status.borrow().clone()).collect()
    }

    fn drive<J: Job>(&self, mut job: J, wake: Wake) {
        let (status, seen) = watch::channel(JobStatus {
            name: J::NAME,
            runs: 0,
            failures_in_row: 0,
            last: None,
            last_error: None,
        });
        self.0.jobs.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        let stopping = self.0.parts.stopping.clone();
        let entropy = self.0.entropy.clone();
        let work = async move {
            loop {
                let outcome = job.run_once().await;
                let next = outcome.as_ref().ok().and_then(|progress| progress.next);
                note(&status, outcome);
                let pause = next.unwrap_or_else(|| entropy.jittered(J::PERIOD));
                tokio::select! {
                    biased;
                    () = sleep(pause) => {}
                    () = wake.0.notified() => if !J::GAP.is_zero() {
                        sleep(J::GAP).await;
                    },
                }
            }
        };
        self.0.parts.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                () = work => {}
            }
        });
    }
}

fn note(status: &watch::Sender<JobStatus>, outcome: Result<Progress>) {
    status.send_modify(|status| {
        status.runs += 1;
        match outcome {
            Ok(progress) => {
                status.failures_in_row = 0;
                status.last = Some(progress);
                status.last_error = None;
            }
            Err(error) => {
                if status.failures_in_row == 0 {
                    tracing::warn!(job = status.name, %error, "a background job fails");
                }
                status.failures_in_row += 1;
                status.last_error = Some(error.to_string());
            }
        }
    });
}
