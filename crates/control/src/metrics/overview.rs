//! Everything that operators see, gathered in one bounded look.

use std::{collections::HashMap, sync::Arc, time::Duration};

use stacyvm_fleet::ProviderReport;
use stacyvm_store::{Census, Include, QuotaCounts, Timings};
use stacyvm_types::{OwnerId, Tally, Timestamp, WorkerId};
use tokio::time::timeout;

use super::{Looked, OperationTally, SchedulerStatus};
use crate::{Control, Error, JobStatus, Member};

/// How long a count of what lives stays good.
const CENSUS_FRESH: Duration = Duration::from_secs(5);
/// How long the last count is given while the store cannot count.
const CENSUS_TOO_OLD: Duration = Duration::from_secs(60);
/// The longest count; the store bounds it too.
const CENSUS: Duration = Duration::from_millis(2_500);
/// How long a scrape waits for fresher answers than it could have at once: 10,000 sandboxes are
/// counted in less.
const SCRAPE: Duration = Duration::from_millis(10);
/// How long it waits for the number of the newest event, which is one small read.
const EVENTS: Duration = Duration::from_millis(100);

/// How long somebody waits for a fresher count who asks about one provider.
const COUNT: Duration = Duration::from_millis(250);

/// Sandboxes that have not ended, by owner and provider.
pub(crate) type Owned = Arc<Looked<Arc<HashMap<(OwnerId, String), u64>>>>;

/// What operators see.
#[derive(Debug, Clone)]
pub struct Overview {
    /// When it was gathered.
    pub at: Timestamp,
    /// The providers of this server's worker, those that only others have, and how each is.
    pub providers: Vec<ProviderReport>,
    /// How long the looks at each provider took, since the start.
    pub provider_looks: Vec<(String, Tally)>,
    /// What lives, and how long ago that was counted; `None` when the store could not say for a
    /// while.
    pub census: Option<(Duration, Arc<Census>)>,
    /// The workers of the registry; none when the store could not say for a while.
    pub workers: Vec<WorkerReport>,
    /// What callers asked for.
    pub operations: Vec<OperationTally>,
    /// The spawns that have to wait.
    pub scheduler: SchedulerStatus,
    /// The owners with limits of their own; `None` when the store could not say for a while.
    pub quotas: Option<QuotaCounts>,
    /// The event log.
    pub events: EventCounts,
    /// The background jobs.
    pub jobs: Vec<JobStatus>,
    /// How long the store took to answer, since the start, by kind of question.
    pub store: Vec<(&'static str, Tally)>,
}

/// A worker, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerReport {
    /// Its id.
    pub id: WorkerId,
    /// `online`, `draining` or `offline`.
    pub status: &'static str,
    /// Whether it was not heard for too long.
    pub stale: bool,
    /// What it can launch sandboxes with.
    pub providers: Vec<String>,
}

/// The event log, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCounts {
    /// Events that were ever written, also before this process; `None` when the store did not
    /// answer at once.
    pub total: Option<u64>,
    /// Clients that follow the log here.
    pub subscribers: usize,
    /// Records that wait to be written.
    pub queued: usize,
}

impl Control {
    /// Everything that operators see. It waits for nothing slow: what was not found out just now
    /// is given as it was a moment ago.
    pub async fn overview(&self) -> Overview {
        let total = timeout(EVENTS, self.store().last_event());
        let (own, census, workers, quotas, total) = tokio::join!(
            self.provider_reports(SCRAPE),
            self.census(SCRAPE),
            self.worker_reports(),
            self.counted_quotas(),
            total
        );
        Overview {
            at: self.now(),
            workers,
            providers: self.with_others(&own),
            provider_looks: self.0.health.tallies(),
            census,
            operations: self.operations().tallies(),
            scheduler: self.scheduler_status(),
            quotas,
            events: EventCounts {
                total: total.ok().and_then(Result::ok),
                subscribers: self.event_followers(),
                queued: self.event_backlog(),
            },
            jobs: self.jobs(),
            store: self.store().timings().map_or_else(Vec::new, by_kind),
        }
    }

    /// How many sandboxes that exist for the caller have not ended, by provider. Everybody who asks
    /// shares one count, which is at most five seconds old unless the store is slow.
    pub async fn sandboxes_of_provider(&self, name: &str) -> Result<u64, Error> {
        let counted = match &self.caller().only {
            None => {
                let census = self.census(COUNT).await;
                census.map(|(_, census)| census.by_provider.get(name).copied())
            }
            Some(owner) => {
                let owned = self.counted_by_owner().await;
                owned.map(|owned| owned.get(&(owner.clone(), name.to_owned())).copied())
            }
        };
        let counted = counted.ok_or_else(|| {
            Error::unavailable("the sandboxes could not be counted in time; try again")
        })?;
        Ok(counted.unwrap_or(0))
    }

    async fn counted_by_owner(&self) -> Option<Arc<HashMap<(OwnerId, String), u64>>> {
        let look = || {
            let store = self.0.parts.store.clone();
            async move {
                let rows = timeout(CENSUS, store.sandboxes(Include::Live)).await.ok()?.ok()?;
                let mut owned = HashMap::<_, u64>::new();
                for row in rows {
                    if let Some(owner) = row.spec.owner {
                        *owned.entry((owner, row.spec.provider)).or_default() += 1;
                    }
                }
                Some(Arc::new(owned))
            }
        };
        let found = self.0.owned.get(self, CENSUS_FRESH..CENSUS_TOO_OLD, COUNT, look).await;
        found.map(|(_, owned)| owned)
    }

    async fn census(&self, patience: Duration) -> Option<(Duration, Arc<Census>)> {
        let look = || {
            let (store, now) = (self.0.parts.store.clone(), self.now());
            async move {
                match timeout(CENSUS, store.census(now)).await {
                    Ok(Ok(census)) => Some(Arc::new(census)),
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the sandboxes could not be counted");
                        None
                    }
                    Err(_) => {
                        tracing::warn!("the sandboxes could not be counted in time");
                        None
                    }
                }
            }
        };
        self.0.census.get(self, CENSUS_FRESH..CENSUS_TOO_OLD, patience, look).await
    }

    async fn counted_quotas(&self) -> Option<QuotaCounts> {
        let look = || {
            let store = self.0.parts.store.clone();
            async move { timeout(CENSUS, store.quota_counts()).await.ok()?.ok() }
        };
        let found = self.0.counted.get(self, CENSUS_FRESH..CENSUS_TOO_OLD, SCRAPE, look).await;
        found.map(|(_, counts)| counts)
    }

    /// The registry.
    async fn worker_reports(&self) -> Vec<WorkerReport> {
        let look = || {
            let control = self.clone();
            async move {
                let members = timeout(CENSUS, control.workers()).await.ok()?.ok()?;
                let now = control.now();
                let report = |member: Member| WorkerReport {
                    status: member.row.status(now),
                    stale: member.stale,
                    providers: member.row.beat.offers.into_iter().map(|o| o.provider).collect(),
                    id: member.row.beat.id,
                };
                Some(members.into_iter().map(report).collect())
            }
        };
        let found = self.0.registry.get(self, CENSUS_FRESH..CENSUS_TOO_OLD, SCRAPE, look).await;
        found.map(|(_, reports)| reports.to_vec()).unwrap_or_default()
    }
}

fn by_kind(timings: &Timings) -> Vec<(&'static str, Tally)> {
    let Timings { reads, scans, writes } = timings;
    vec![("read", reads.tally()), ("scan", scans.tally()), ("write", writes.tally())]
}
