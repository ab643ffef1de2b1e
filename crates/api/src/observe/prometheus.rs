//! The scrape: every family in one place, the older names first.
//!
//! Dashboards that were made for the earlier implementation read those as they are called here,
//! also where they are gauges that end in `_total` or count milliseconds. What is new follows the
//! conventions: counters end in `_total`, times are histograms in seconds, sizes are bytes.

use stacyvm_control::metrics::{Overview, SchedulerStatus};
use stacyvm_store::Census;
use stacyvm_types::Tally;

use super::{
    Shown,
    exposition::{Exposition, Kind},
    host,
    http::HttpMetrics,
    views,
};
use crate::access::RateLimitStatus;

/// States that are shown with 0 when no sandbox is in them.
const STATES: [&str; 8] =
    ["creating", "running", "paused", "unhealthy", "expired", "stopped", "error", "destroyed"];

/// The scrape as text.
pub(super) fn text(shown: &Shown, http: &HttpMetrics) -> String {
    let mut out = Exposition::default();
    process(&mut out, shown);
    let overview = &shown.overview;
    providers(&mut out, overview);
    sandboxes(&mut out, overview);
    workers(&mut out, overview);
    events(&mut out, overview);
    queue(&mut out, &overview.scheduler);
    quotas(&mut out, overview);
    rate_limit(&mut out, &shown.rate_limit);
    operations(&mut out, overview);
    jobs(&mut out, overview);
    store(&mut out, overview);
    requests(&mut out, http);
    out.into_text()
}

fn process(out: &mut Exposition, shown: &Shown) {
    out.gauge(
        "stacyvm_uptime_seconds",
        "Time since the server started.",
        shown.uptime.as_secs_f64(),
    );
    out.gauge("stacyvm_runtime_goroutines", "Tasks that are alive.", shown.tasks);
    out.gauge("stacyvm_runtime_memory_alloc_bytes", "Resident memory.", shown.memory.resident);
    out.gauge("stacyvm_runtime_memory_sys_bytes", "Address space.", shown.memory.virtual_size);
    out.counter("stacyvm_runtime_gc_cycles_total", "Always 0: nothing is collected.", 0);
    out.family("stacyvm_build_info", Kind::Gauge, "Always 1; the labels say what runs.")
        .sample(&[("version", &shown.version)], 1);
    out.gauge(
        "process_resident_memory_bytes",
        "Resident memory of the server.",
        shown.memory.resident,
    );
    out.gauge(
        "process_virtual_memory_bytes",
        "Address space of the server.",
        shown.memory.virtual_size,
    );
    if let Some(time) = host::process_time() {
        out.counter(
            "process_cpu_seconds_total",
            "Processor time of the server.",
            time.as_secs_f64(),
        );
    }
    if let Some(open) = host::open_descriptors() {
        out.gauge("process_open_fds", "Open descriptors of the server.", open);
    }
}

fn providers(out: &mut Exposition, overview: &Overview) {
    let mut family = out.family(
        "stacyvm_provider_healthy",
        Kind::Gauge,
        "1 when the provider can launch sandboxes, else 0.",
    );
    for report in &overview.providers {
        let default = if report.default { "true" } else { "false" };
        let healthy = u8::from(report.probe.usable);
        family.sample(&[("provider", &*report.name), ("default", default)], healthy);
    }
    let mut family = out.family(
        "stacyvm_provider_health_latency_milliseconds",
        Kind::Gauge,
        "How long the last look at the provider took.",
    );
    // What only other workers have is told by their heartbeats, and not looked at from here.
    for report in overview.providers.iter().filter(|report| !report.latency.is_zero()) {
        let millis = report.latency.as_secs_f64() * 1_000.0;
        family.sample(&[("provider", &*report.name)], millis);
    }
    let mut family = out.family(
        "stacyvm_provider_runtime_sandboxes",
        Kind::Gauge,
        "Runtimes that the provider has, where it can count them.",
    );
    for report in &overview.providers {
        if let Some(runtimes) = report.runtimes {
            family.sample(&[("provider", &*report.name)], runtimes);
        }
    }
    let mut family = out.family(
        "stacyvm_provider_health_latency_seconds",
        Kind::Histogram,
        "How long the looks at the provider took.",
    );
    for (provider, looks) in &overview.provider_looks {
        family.histogram(&[("provider", provider)], looks);
    }
}

fn sandboxes(out: &mut Exposition, overview: &Overview) {
    let census = overview.census.as_ref().map(|(_, census)| &**census);
    let mut family =
        out.family("stacyvm_sandboxes_total", Kind::Gauge, "Sandboxes that have not ended.");
    if let Some(Census { by_state, .. }) = census {
        for state in STATES {
            let count = by_state.get(state).copied().unwrap_or(0);
            family.sample(&[("state", state)], count);
        }
    }
    let mut family = out.family(
        "stacyvm_sandboxes_by_provider_total",
        Kind::Gauge,
        "Sandboxes that have not ended, by provider.",
    );
    if let Some(Census { by_provider, .. }) = census {
        let idle = overview.providers.iter().map(|report| &*report.name);
        let idle = idle.filter(|name| !by_provider.contains_key(*name)).map(|name| (name, 0));
        let counts = by_provider.iter().map(|(name, count)| (name.as_str(), *count));
        for (name, count) in counts.chain(idle) {
            family.sample(&[("provider", name)], count);
        }
    }
    let mut family = out.family(
        "stacyvm_sandboxes_by_worker_total",
        Kind::Gauge,
        "Sandboxes that have not ended, by worker.",
    );
    if let Some(Census { by_worker, .. }) = census {
        let idle = overview.workers.iter().map(|worker| worker.id.as_str());
        let idle = idle.filter(|name| !by_worker.contains_key(*name)).map(|name| (name, 0));
        let counts = by_worker.iter().map(|(name, count)| (name.as_str(), *count));
        for (name, count) in counts.chain(idle) {
            family.sample(&[("worker", name)], count);
        }
    }
    if let Some((age, _)) = &overview.census {
        out.gauge(
            "stacyvm_sandboxes_counted_age_seconds",
            "How long ago the sandboxes and leases of this scrape were counted.",
            age.as_secs_f64(),
        );
    }
}

fn workers(out: &mut Exposition, overview: &Overview) {
    let counts = views::WorkerCounts::of(&overview.workers);
    let mut family = out.family("stacyvm_workers_total", Kind::Gauge, "Workers by status.");
    for (status, count) in [
        ("total", counts.total),
        ("online", counts.online),
        ("draining", counts.draining),
        ("stale", counts.stale),
        ("unhealthy", counts.unhealthy),
    ] {
        family.sample(&[("status", status)], count);
    }
    out.gauge(
        "stacyvm_workers_eligible",
        "Workers that could take a sandbox now.",
        overview.scheduler.eligible_workers,
    );
    let leases = overview.census.as_ref().map(|(_, census)| &census.leases);
    let mut family =
        out.family("stacyvm_leases_total", Kind::Gauge, "Leases of live sandboxes by status.");
    if let Some(leases) = leases {
        family.sample(&[("status", "total")], leases.total);
        family.sample(&[("status", "active")], leases.total - leases.lapsed);
        family.sample(&[("status", "expired")], leases.lapsed);
    }
    let mut family = out.family(
        "stacyvm_leases_by_holder",
        Kind::Gauge,
        "Leases of live sandboxes, lapsed ones too, by the worker that holds them.",
    );
    for (holder, count) in leases.into_iter().flat_map(|leases| &leases.by_holder) {
        family.sample(&[("worker", holder)], count);
    }
}

fn events(out: &mut Exposition, overview: &Overview) {
    let events = overview.events;
    if let Some(total) = events.total {
        out.counter("stacyvm_events_total", "Events that were ever written.", total);
        out.gauge(
            "stacyvm_event_history_size",
            "Events up to which the log can be replayed.",
            total,
        );
    }
    out.gauge(
        "stacyvm_event_subscribers",
        "Clients that follow the event log on this server.",
        events.subscribers,
    );
    out.gauge(
        "stacyvm_event_backlog",
        "Records of commands and files that wait to be written.",
        events.queued,
    );
}

fn queue(out: &mut Exposition, queue: &SchedulerStatus) {
    out.gauge("stacyvm_spawn_queue_depth", "Spawns that wait now.", queue.depth);
    out.gauge("stacyvm_spawn_queue_capacity", "How many spawns may wait.", queue.capacity);
    out.counter("stacyvm_spawn_queue_enqueued_total", "Spawns that had to wait.", queue.queued);
    out.counter(
        "stacyvm_spawn_queue_dequeued_total",
        "Spawns that waited and came to their turn.",
        queue.dequeued,
    );
    out.counter(
        "stacyvm_spawn_queue_timeout_total",
        "Spawns that waited and gave up.",
        queue.timed_out,
    );
    out.counter(
        "stacyvm_spawn_queue_cancelled_total",
        "Spawns that waited and whose caller went away.",
        queue.cancelled,
    );
    out.family(
        "stacyvm_spawn_queue_wait_milliseconds",
        Kind::Summary,
        "How long spawns waited whose wait is over.",
    )
    .summary_ms(&[], &queue.waits);
    out.gauge(
        "stacyvm_spawn_queue_wait_milliseconds_max",
        "The longest wait of a spawn.",
        queue.longest_wait.as_secs_f64() * 1_000.0,
    );
    out.family(
        "stacyvm_spawn_queue_wait_seconds",
        Kind::Histogram,
        "How long spawns waited whose wait is over.",
    )
    .histogram(&[], &queue.waits);
}

fn quotas(out: &mut Exposition, overview: &Overview) {
    let Some(quotas) = overview.quotas else { return };
    out.gauge("stacyvm_owner_quotas_total", "Owners with limits of their own.", quotas.total);
    let mut family = out.family(
        "stacyvm_owner_quota_overrides_total",
        Kind::Gauge,
        "Owners with a limit of their own of this type.",
    );
    for (kind, count) in [
        ("max_sandboxes", quotas.with_max_sandboxes),
        ("max_ttl", quotas.with_max_ttl),
        ("max_exec_timeout", quotas.with_max_exec_timeout),
    ] {
        family.sample(&[("type", kind)], count);
    }
}

fn rate_limit(out: &mut Exposition, limit: &RateLimitStatus) {
    out.counter("stacyvm_rate_limit_allowed_total", "Requests let through.", limit.allowed_total);
    out.counter("stacyvm_rate_limit_blocked_total", "Requests refused.", limit.limited_total);
    out.counter("stacyvm_rate_limit_evicted_buckets_total", "Keys forgotten.", limit.evicted_total);
    out.gauge("stacyvm_rate_limit_active_buckets", "Keys remembered.", limit.active_buckets);
}

fn operations(out: &mut Exposition, overview: &Overview) {
    let all = &overview.operations;
    let labels = |name: &'static str, provider| [("operation", name), ("provider", provider)];
    let mut family =
        out.family("stacyvm_operation_success_total", Kind::Counter, "Operations that succeeded.");
    for one in all {
        let labels = labels(one.operation.as_str(), &*one.provider);
        family.sample(&labels, one.succeeded.count());
    }
    let mut family =
        out.family("stacyvm_operation_failure_total", Kind::Counter, "Operations that failed.");
    for one in all {
        family.sample(&labels(one.operation.as_str(), &one.provider), one.failed.count());
    }
    let mut family = out.family(
        "stacyvm_operation_latency_milliseconds",
        Kind::Summary,
        "How long operations took.",
    );
    for one in all {
        let mut tally = one.succeeded;
        tally.add(&one.failed);
        family.summary_ms(&labels(one.operation.as_str(), &one.provider), &tally);
    }
    let mut family = out.family(
        "stacyvm_operation_latency_milliseconds_max",
        Kind::Gauge,
        "The longest operation.",
    );
    for one in all {
        let millis = one.longest.as_secs_f64() * 1_000.0;
        family.sample(&labels(one.operation.as_str(), &one.provider), millis);
    }
    let mut family = out.family(
        "stacyvm_operation_duration_seconds",
        Kind::Histogram,
        "How long operations took, by how they ended.",
    );
    for one in all {
        for (outcome, tally) in [("success", &one.succeeded), ("failure", &one.failed)] {
            let [operation, provider] = labels(one.operation.as_str(), &one.provider);
            family.histogram(&[operation, provider, ("outcome", outcome)], tally);
        }
    }
}

fn jobs(out: &mut Exposition, overview: &Overview) {
    let mut family =
        out.family("stacyvm_job_runs_total", Kind::Counter, "Finished runs of background jobs.");
    for job in &overview.jobs {
        family.sample(&[("job", job.name)], job.runs);
    }
    let mut family = out.family(
        "stacyvm_job_failures_in_row",
        Kind::Gauge,
        "Failed runs of background jobs since the last that succeeded.",
    );
    for job in &overview.jobs {
        family.sample(&[("job", job.name)], job.failures_in_row);
    }
}

fn store(out: &mut Exposition, overview: &Overview) {
    let healthy = u8::from(overview.events.total.is_some());
    out.gauge("stacyvm_store_healthy", "1 when the store answers at once, else 0.", healthy);
    let mut family = out.family(
        "stacyvm_store_latency_seconds",
        Kind::Histogram,
        "How long the store took to answer, waits for a turn included.",
    );
    for (kind, tally) in &overview.store {
        family.histogram(&[("kind", kind)], tally);
    }
}

fn requests(out: &mut Exposition, http: &HttpMetrics) {
    out.gauge(
        "stacyvm_http_requests_in_flight",
        "Requests whose reply has not begun.",
        http.in_flight(),
    );
    let tallies = http.tallies();
    let mut family = out.family(
        "stacyvm_http_requests_total",
        Kind::Counter,
        "Requests by route and class of status.",
    );
    for tally in &tallies {
        let labels = [("method", tally.method), ("route", tally.route), ("class", tally.class)];
        family.sample(&labels, tally.times.count());
    }
    let mut family = out.family(
        "stacyvm_http_request_duration_seconds",
        Kind::Histogram,
        "How long requests took until the head of their reply.",
    );
    for same in tallies.chunk_by(|a, b| (a.method, a.route) == (b.method, b.route)) {
        let mut times = Tally::default();
        for tally in same {
            times.add(&tally.times);
        }
        let [first, ..] = same else { continue };
        family.histogram(&[("method", first.method), ("route", first.route)], &times);
    }
}
