//! What operators see, as wire values.

use std::time::Duration;

use stacyvm_api_types as wire;
use stacyvm_control::{
    Rules, Settings,
    metrics::{EventCounts, OperationTally, SchedulerStatus, WorkerReport},
};
use stacyvm_store::{Census, QuotaCounts};
use stacyvm_types::format_duration;

use super::{Reader, Shown};
use crate::{
    access::RateLimitStatus,
    routes,
    views::{self, millis},
};

/// What diagnostics never hold.
const REDACTIONS: &[&str] = &[
    "API keys, admin keys and worker tokens",
    "registry credentials and provider secrets",
    "environment variables and secrets of templates and sandboxes",
    "owners, metadata, commands, their output and file contents",
];

/// Pages of this project that say what to do, by what they are about.
pub(super) const REMEDIATION: &[(&str, &str)] = &[
    ("alerts", "docs/howto/observe.md#alerts"),
    ("configuration", "docs/config.md"),
    ("errors", "docs/errors/README.md"),
    ("images", "docs/howto/import-an-image.md"),
    ("interface", "docs/http.md"),
    ("metrics", "docs/howto/observe.md"),
    ("performance", "docs/performance.md"),
    ("resource_limits", "docs/errors/RESOURCE_LIMIT.md"),
    ("traces", "docs/howto/observe.md#traces"),
    ("unavailable", "docs/errors/UNAVAILABLE.md"),
];

pub(super) fn metrics(shown: &Shown, reader: Reader, settings: &Settings) -> wire::Metrics {
    let overview = &shown.overview;
    let items = providers(shown);
    wire::Metrics {
        events: events(overview.events),
        gc_cycles: 0,
        goroutines: shown.tasks as u64,
        leases: leases(census(shown)),
        memory_alloc: shown.memory.resident,
        memory_heap_alloc: shown.memory.anonymous,
        memory_sys: shown.memory.virtual_size,
        operations: overview.operations.iter().map(|tally| operation(tally, reader)).collect(),
        providers: wire::ProviderStats {
            total: items.len(),
            healthy: items.iter().filter(|provider| provider.healthy).count(),
            items,
        },
        quotas: quotas(overview.quotas),
        rate_limit: rate_limit(&shown.rate_limit),
        sandboxes: sandboxes(census(shown)),
        scheduler: scheduler(&overview.scheduler, settings),
        uptime: format_duration(shown.uptime),
        workers: workers(&overview.workers),
    }
}

pub(super) fn diagnostics(
    shown: &Shown,
    reader: Reader,
    store: Result<Duration, String>,
    settings: &Settings,
    rules: &Rules,
) -> wire::Diagnostics {
    let overview = &shown.overview;
    wire::Diagnostics {
        build: build(shown.version.clone()),
        events: events(overview.events),
        generated_at: views::to_the_second(overview.at),
        jobs: overview
            .jobs
            .iter()
            .map(|job| wire::JobStats {
                name: job.name.to_owned(),
                runs: job.runs,
                failures_in_row: job.failures_in_row,
            })
            .collect(),
        leases: leases(census(shown)),
        limits: limits(&overview.scheduler, rules),
        operations: overview.operations.iter().map(|tally| operation(tally, reader)).collect(),
        process: wire::Process {
            uptime: format_duration(shown.uptime),
            goroutines: shown.tasks as u64,
            memory: wire::Memory {
                alloc: shown.memory.resident,
                sys: shown.memory.virtual_size,
                heap_alloc: shown.memory.anonymous,
                gc_cycles: 0,
            },
        },
        providers: providers(shown),
        quotas: quotas(overview.quotas),
        rate_limit: rate_limit(&shown.rate_limit),
        redactions: REDACTIONS.iter().map(|&text| text.to_owned()).collect(),
        remediation: REMEDIATION.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect(),
        sandboxes: sandboxes(census(shown)),
        scheduler: scheduler(&overview.scheduler, settings),
        store: views::store(store),
        workers: workers(&overview.workers),
    }
}

/// The workers by what they do. Each but the first counts those that are nothing before it.
pub(super) struct WorkerCounts {
    pub(super) total: usize,
    pub(super) stale: usize,
    pub(super) online: usize,
    pub(super) draining: usize,
    pub(super) unhealthy: usize,
}

impl WorkerCounts {
    pub(super) fn of(workers: &[WorkerReport]) -> Self {
        let mut counts = Self { total: 0, stale: 0, online: 0, draining: 0, unhealthy: 0 };
        for worker in workers {
            counts.total += 1;
            match worker.status {
                _ if worker.stale => counts.stale += 1,
                "online" => counts.online += 1,
                "draining" => counts.draining += 1,
                _ => counts.unhealthy += 1,
            }
        }
        counts
    }
}

fn census(shown: &Shown) -> Option<&Census> {
    shown.overview.census.as_ref().map(|(_, census)| &**census)
}

fn providers(shown: &Shown) -> Vec<wire::Provider> {
    shown.overview.providers.iter().map(routes::provider).collect()
}

/// The names by which earlier servers called the platform.
fn build(version: String) -> wire::Build {
    let goarch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    wire::Build { version, goos: std::env::consts::OS.to_owned(), goarch: goarch.to_owned() }
}

fn sandboxes(census: Option<&Census>) -> wire::SandboxStats {
    census.map_or_else(wire::SandboxStats::default, |census| wire::SandboxStats {
        total: census.total,
        active: census.active,
        by_state: census.by_state.iter().map(|(state, n)| ((*state).to_owned(), *n)).collect(),
        by_provider: census.by_provider.clone(),
        by_worker: census.by_worker.clone(),
    })
}

fn leases(census: Option<&Census>) -> wire::LeaseStats {
    census.map_or_else(wire::LeaseStats::default, |census| wire::LeaseStats {
        total: census.leases.total,
        active: census.leases.total - census.leases.lapsed,
        expired: census.leases.lapsed,
        by_holder: census.leases.by_holder.clone(),
    })
}

fn workers(reports: &[WorkerReport]) -> wire::WorkerStats {
    let WorkerCounts { total, stale, online, draining, unhealthy } = WorkerCounts::of(reports);
    let item = |report: &WorkerReport| wire::WorkerItem {
        id: report.id.to_string(),
        status: report.status.to_owned(),
        stale: report.stale,
        providers: report.providers.clone(),
    };
    let items = reports.iter().map(item).collect();
    wire::WorkerStats { total, online, draining, stale, unhealthy, items }
}

fn events(counts: EventCounts) -> wire::EventStats {
    let total = counts.total.unwrap_or(0);
    wire::EventStats { subscribers: counts.subscribers, history_size: total, events_total: total }
}

fn operation(tally: &OperationTally, reader: Reader) -> wire::OperationStats {
    let (succeeded, failed) = (tally.succeeded.count(), tally.failed.count());
    let last_error = tally.last_error.as_ref().map(|last| match reader {
        Reader::Any => last.kind.to_owned(),
        Reader::Admin => last.text.clone(),
    });
    let (count, total) = (succeeded + failed, tally.succeeded.total() + tally.failed.total());
    wire::OperationStats {
        operation: tally.operation.as_str().to_owned(),
        provider: tally.provider.clone(),
        success_total: succeeded,
        failure_total: failed,
        latency_count: count,
        latency_total_ms: millis(total),
        latency_min_ms: millis(tally.shortest),
        latency_max_ms: millis(tally.longest),
        latency_avg_ms: millis(mean(total, count)),
        last_error: last_error.unwrap_or_default(),
        last_observed_unix: Some(tally.last_observed),
    }
}

fn scheduler(status: &SchedulerStatus, settings: &Settings) -> wire::SchedulerStats {
    let (count, total) = (status.waits.count(), status.waits.total());
    let (max, avg) = (status.longest_wait, mean(total, count));
    wire::SchedulerStats {
        spawn_overflow: status.overflow.to_owned(),
        spawn_queue_depth: status.depth,
        max_spawn_queue: status.capacity,
        spawn_queue_timeout: format_duration(status.timeout),
        admission_control: "worker_aware_local".to_owned(),
        worker_id: settings.worker.to_string(),
        selected_worker_id: String::new(),
        eligible_workers: status.eligible_workers,
        spawn_queued_total: status.queued,
        spawn_dequeued_total: status.dequeued,
        spawn_queue_timeouts: status.timed_out,
        spawn_queue_wait_count: count,
        spawn_queue_wait_total: format_duration(total),
        spawn_queue_wait_max: format_duration(max),
        spawn_queue_wait_avg: format_duration(avg),
        spawn_queue_wait_total_ms: millis(total),
        spawn_queue_wait_max_ms: millis(max),
        spawn_queue_wait_avg_ms: millis(avg),
    }
}

fn quotas(counts: Option<QuotaCounts>) -> wire::QuotaSummary {
    let counts = counts.unwrap_or_default();
    wire::QuotaSummary {
        total: counts.total,
        with_max_sandboxes: counts.with_max_sandboxes,
        with_max_ttl: counts.with_max_ttl,
        with_max_exec_timeout: counts.with_max_exec_timeout,
    }
}

/// Zeros and empty texts when nothing is limited.
fn rate_limit(status: &RateLimitStatus) -> wire::RateLimitStats {
    if !status.enabled {
        return wire::RateLimitStats::default();
    }
    wire::RateLimitStats {
        enabled: true,
        requests_per_minute: status.requests_per_minute.into(),
        burst: status.burst.into(),
        key_by: status.key_by.as_str().to_owned(),
        active_buckets: status.active_buckets as u64,
        allowed_total: status.allowed_total,
        limited_total: status.limited_total,
        evicted_total: status.evicted_total,
        bucket_ttl: format_duration(status.bucket_ttl),
        cleanup_interval: format_duration(status.cleanup_interval),
    }
}

fn limits(status: &SchedulerStatus, rules: &Rules) -> wire::LimitStats {
    let time = |limit: Option<Duration>| format_duration(limit.unwrap_or_default());
    wire::LimitStats {
        max_sandboxes: rules.policy.max_sandboxes,
        max_sandboxes_per_owner: rules.policy.max_per_owner,
        default_exec_timeout: time(rules.default_exec_timeout),
        max_exec_timeout: time(rules.max_exec_timeout),
        max_ttl: time(rules.policy.max_ttl),
        spawn_overflow: status.overflow.to_owned(),
        spawn_queue_timeout: format_duration(status.timeout),
        max_spawn_queue: status.capacity,
    }
}

fn mean(total: Duration, count: u64) -> Duration {
    let nanos = total.as_nanos().checked_div(u128::from(count)).unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R2.8: every page that is named is there, and every heading in it.
    #[test]
    fn remediation_names_pages_that_exist() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        for (about, link) in REMEDIATION {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let page = std::fs::read_to_string(format!("{root}/{path}"))
                .unwrap_or_else(|error| panic!("{about}: {path}: {error}"));
            let headings: Vec<_> = page
                .lines()
                .filter_map(|line| line.strip_prefix("## "))
                .map(|line| line.to_lowercase().replace(' ', "-"))
                .collect();
            assert!(heading.is_empty() || headings.iter().any(|h| h == heading), "{about}: {link}");
        }
        assert!(REMEDIATION.is_sorted_by(|a, b| a.0 < b.0), "each once");
    }

    #[test]
    fn a_worker_is_counted_by_what_it_does() {
        let report = |status, stale| WorkerReport {
            id: stacyvm_types::WorkerId::parse("w").unwrap(),
            status,
            stale,
            providers: Vec::new(),
        };
        let all = [report("online", false), report("offline", true), report("draining", false)];
        let counts = WorkerCounts::of(&all);
        assert_eq!((counts.total, counts.online, counts.stale), (3, 1, 1));
        assert_eq!((counts.draining, counts.unhealthy), (1, 0));
    }

    #[test]
    fn the_mean_of_nothing_is_nothing() {
        assert_eq!(mean(Duration::ZERO, 0), Duration::ZERO);
        assert_eq!(mean(Duration::from_secs(3), 2), Duration::from_millis(1_500));
    }
}
