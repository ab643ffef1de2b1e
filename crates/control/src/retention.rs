//! Forgets what is older than the operator wants to keep, a little at a time.
//!
//! A run takes small steps with pauses between them, so that whoever waits for the store waits for
//! one step at most, and ends after a bounded number of steps; what is left is the next run's.

use std::time::Duration;

use async_trait::async_trait;
use stacyvm_store::{self as store, retention::Walk};
use stacyvm_types::Timestamp;
use tokio::time::sleep;

use crate::{
    Control, Error, Result,
    jobs::{Job, Progress},
};

/// Rows of one step.
const STEP: u32 = 500;
/// Steps of one run and one kind. With the pauses below, a run forgets some thousands of rows a
/// second of each kind: more than a server adds for long, or its store would only ever grow.
const STEPS: usize = 40;
/// The time between two steps, in which the store is everybody else's.
const PAUSE: Duration = Duration::from_millis(50);
/// The time between two runs while there is more to forget.
const SOON: Duration = Duration::from_millis(500);
/// The time before the first run: the start of a server belongs to its callers.
const AFTER_START: Duration = Duration::from_secs(60);

/// How long things are kept; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Sandboxes, from their end.
    pub ended_sandboxes: Option<Duration>,
    /// Records of commands, from the command's end.
    pub exec_logs: Option<Duration>,
    /// Events.
    pub events: Option<Duration>,
    /// Records of operations.
    pub audit: Option<Duration>,
    /// Records of admin requests.
    pub admin_audit: Option<Duration>,
    /// Idempotency keys with their answers.
    pub idempotency_keys: Option<Duration>,
}

impl Default for Retention {
    /// A week of what happened, 90 days of who did it, a day of answers to repeat.
    fn default() -> Self {
        let week = Some(Duration::from_secs(168 * 60 * 60));
        let quarter = Some(Duration::from_secs(2160 * 60 * 60));
        Self {
            ended_sandboxes: week,
            exec_logs: week,
            events: week,
            audit: quarter,
            admin_audit: quarter,
            idempotency_keys: Some(Duration::from_secs(24 * 60 * 60)),
        }
    }
}

/// What is forgotten by age.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Sandboxes,
    ExecLogs,
    Events,
    Audit,
    AdminAudit,
    IdempotencyKeys,
}

const KINDS: [Kind; 6] = [
    Kind::Sandboxes,
    Kind::ExecLogs,
    Kind::Events,
    Kind::Audit,
    Kind::AdminAudit,
    Kind::IdempotencyKeys,
];

impl Retention {
    const fn of(&self, kind: Kind) -> Option<Duration> {
        match kind {
            Kind::Sandboxes => self.ended_sandboxes,
            Kind::ExecLogs => self.exec_logs,
            Kind::Events => self.events,
            Kind::Audit => self.audit,
            Kind::AdminAudit => self.admin_audit,
            Kind::IdempotencyKeys => self.idempotency_keys,
        }
    }
}

/// The job.
pub(crate) struct Forgetter {
    control: Control,
    has_started: bool,
    /// Where the walk through the sandboxes stands: those that are kept must not be looked at over
    /// and over before the ones behind them are reached.
    walk: Walk,
}

/// What a step did.
#[derive(Default)]
struct Forgot {
    rows: u64,
    more: bool,
}

impl Forgetter {
    pub(crate) const fn new(control: Control) -> Self {
        Self { control, has_started: false, walk: Walk::START }
    }

    /// One step of a kind.
    async fn forget(&mut self, kind: Kind) -> store::Result<Forgot> {
        let Some(keep) = self.control.settings().retention.of(kind) else {
            return Ok(Forgot::default());
        };
        let keep = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
        let now = self.control.now().as_micros();
        let mut before = Timestamp::from_micros(now.saturating_sub(keep));
        if let (Kind::IdempotencyKeys, Some(oldest)) = (kind, self.control.0.turns.oldest()) {
            before = before.min(oldest);
        }
        self.step(kind, before).await
    }

    async fn step(&mut self, kind: Kind, before: Timestamp) -> store::Result<Forgot> {
        let store = self.control.store();
        let rows = match kind {
            Kind::Sandboxes => {
                let swept = store.prune_sandboxes(before, self.walk.clone(), STEP).await?;
                let more = swept.next.is_some();
                self.walk = swept.next.unwrap_or(Walk::START);
                return Ok(Forgot { rows: swept.removed, more });
            }
            Kind::ExecLogs => store.prune_exec_logs(before, STEP).await?,
            Kind::Events => store.prune_events(before, STEP).await?,
            Kind::Audit => store.prune_operation_records(before, STEP).await?,
            Kind::AdminAudit => store.prune_admin_records(before, STEP).await?,
            Kind::IdempotencyKeys => store.prune_keys(before, STEP).await?,
        };
        Ok(Forgot { rows, more: rows == u64::from(STEP) })
    }
}

#[async_trait]
impl Job for Forgetter {
    const NAME: &'static str = "retention";
    const PERIOD: Duration = Duration::from_secs(10 * 60);
    const GAP: Duration = Duration::from_secs(1);

    async fn run_once(&mut self) -> Result<Progress> {
        if !self.has_started {
            self.has_started = true;
            return Ok(Progress { done: 0, next: Some(AFTER_START) });
        }
        let mut rows = 0;
        let mut failure = None;
        let mut kinds = KINDS.to_vec();
        // All kinds in turn, so that none waits for the backlog of another.
        for _ in 0..STEPS {
            let mut more = Vec::new();
            for kind in kinds {
                match self.forget(kind).await {
                    Ok(forgot) => {
                        rows += forgot.rows;
                        more.extend(forgot.more.then_some(kind));
                    }
                    // What one kind meets does not keep the others.
                    Err(error) => failure = Some(error),
                }
            }
            kinds = more;
            if kinds.is_empty() {
                break;
            }
            sleep(PAUSE).await;
        }
        if 0 < rows {
            tracing::info!(rows, "what was kept long enough is forgotten");
        }
        match failure {
            Some(error) => Err(Error::from_store(error)),
            None => Ok(Progress { done: rows, next: (!kinds.is_empty()).then_some(SOON) }),
        }
    }
}
