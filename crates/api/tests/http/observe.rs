//! What operators see over HTTP.

use std::{collections::BTreeSet, time::Duration};

use http::Method;
use serde_json::{Value, json};
use stacyvm_control::{Error, Overflow, Rules};
use stacyvm_types::{Operation, SandboxId};

use crate::{
    IS_REMOTE,
    world::{OWN, WORKER, World},
};

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Providers without what another look may find different.
fn steady(providers: &Value) -> Value {
    let mut providers = providers.clone();
    for provider in providers.as_array_mut().unwrap() {
        let provider = provider.as_object_mut().unwrap();
        assert!(provider.remove("latency_ms").is_some_and(|latency| latency.is_f64()));
        assert!(provider.remove("last_checked").is_some_and(|at| at.is_string()));
    }
    providers
}

const SCHEDULER: &[&str] = &[
    "admission_control",
    "eligible_workers",
    "max_spawn_queue",
    "spawn_dequeued_total",
    "spawn_overflow",
    "spawn_queue_depth",
    "spawn_queue_timeout",
    "spawn_queue_timeouts",
    "spawn_queue_wait_avg",
    "spawn_queue_wait_avg_ms",
    "spawn_queue_wait_count",
    "spawn_queue_wait_max",
    "spawn_queue_wait_max_ms",
    "spawn_queue_wait_total",
    "spawn_queue_wait_total_ms",
    "spawn_queued_total",
    "worker_id",
];
const RATE_LIMIT: &[&str] = &[
    "active_buckets",
    "allowed_total",
    "bucket_ttl",
    "burst",
    "cleanup_interval",
    "enabled",
    "evicted_total",
    "key_by",
    "limited_total",
    "requests_per_minute",
];
const QUOTAS: &[&str] = &["total", "with_max_exec_timeout", "with_max_sandboxes", "with_max_ttl"];

/// R2.3, R3.8: the keys that earlier clients read, and their meaning.
#[tokio::test]
async fn metrics_are_the_numbers_of_every_part() {
    let world = World::new().await;
    world.sandbox().await;
    let took = Duration::from_millis(4);
    let late = Error::ExecTimeout(SandboxId::from_entropy([0; 10]));
    world.control.operations().record(Operation::Exec, "mock", took, Some(&late));
    let reply = world.get("/metrics").await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
    let body = reply.json();
    assert_eq!(
        keys(&body),
        [
            "events",
            "gc_cycles",
            "goroutines",
            "leases",
            "memory_alloc",
            "memory_heap_alloc",
            "memory_sys",
            "operations",
            "providers",
            "quotas",
            "rate_limit",
            "sandboxes",
            "scheduler",
            "uptime",
            "workers",
        ]
    );
    let sandboxes = json!({
        "total": 1, "active": 1, "by_state": {"running": 1}, "by_provider": {"mock": 1},
        "by_worker": {WORKER: 1},
    });
    assert_eq!(body["sandboxes"], sandboxes);
    let leases = json!({"total": 1, "active": 1, "expired": 0, "by_holder": {WORKER: 1}});
    assert_eq!(body["leases"], leases);
    let item = |id: &str, providers: &[&str]| json!({"id": id, "status": "online", "stale": false, "providers": providers});
    let items = match IS_REMOTE {
        true => json!([item(WORKER, &["mock"]), item(OWN, &[])]),
        false => json!([item(WORKER, &["mock"])]),
    };
    let count = items.as_array().unwrap().len();
    let workers = json!({
        "total": count, "online": count, "draining": 0, "stale": 0, "unhealthy": 0,
        "items": items,
    });
    assert_eq!(body["workers"], workers);
    assert_eq!(
        (&body["providers"]["total"], &body["providers"]["healthy"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(body["events"]["events_total"], 2);
    assert_eq!(keys(&body["events"]), ["events_total", "history_size", "subscribers"]);
    assert!(body["goroutines"].is_u64() && 0 < body["memory_alloc"].as_u64().unwrap());
    assert_eq!(keys(&body["scheduler"]), SCHEDULER);
    assert_eq!(body["scheduler"]["spawn_overflow"], "reject");
    assert_eq!(keys(&body["rate_limit"]), RATE_LIMIT);
    assert_eq!(body["rate_limit"]["enabled"], false);
    assert_eq!(keys(&body["quotas"]), QUOTAS);
    let exec = body["operations"].as_array().unwrap().iter().find(|o| o["operation"] == "exec");
    let exec = exec.unwrap();
    let expected = json!({
        "operation": "exec", "provider": "mock", "success_total": 0, "failure_total": 1,
        "latency_count": 1, "latency_total_ms": 4.0, "latency_min_ms": 4.0,
        "latency_max_ms": 4.0, "latency_avg_ms": 4.0, "last_error": "exec_timeout",
        "last_observed_unix": exec["last_observed_unix"],
    });
    assert_eq!(*exec, expected);
    assert!(exec["last_observed_unix"].is_i64());
}

/// R3.8: what waited is counted with its time, and the limits are those in force.
#[tokio::test]
async fn a_wait_is_counted_when_it_is_over() {
    let world = World::new().await;
    let mut rules = Rules::clone(&world.control.rules());
    rules.policy.max_sandboxes = 1;
    rules.overflow = Overflow::Queue { places: 3, patience: Duration::from_millis(50) };
    world.control.set_rules(rules);
    world.sandbox().await;
    assert_eq!(world.post("/sandboxes", "{}").await.status, 429);
    let scheduler = world.get("/metrics").await.json()["scheduler"].clone();
    for (key, value) in [
        ("spawn_overflow", json!("queue")),
        ("max_spawn_queue", json!(3)),
        ("spawn_queue_timeout", json!("50ms")),
        ("spawn_queue_depth", json!(0)),
        ("spawn_queued_total", json!(1)),
        ("spawn_dequeued_total", json!(0)),
        ("spawn_queue_timeouts", json!(1)),
        ("spawn_queue_wait_count", json!(1)),
    ] {
        assert_eq!(scheduler[key], value, "{key}");
    }
    assert!(50.0 <= scheduler["spawn_queue_wait_max_ms"].as_f64().unwrap());
    assert_eq!(scheduler["spawn_queue_wait_avg_ms"], scheduler["spawn_queue_wait_total_ms"]);
    let limits = world.get("/diagnostics").await.json()["limits"].clone();
    assert_eq!((&limits["max_sandboxes"], &limits["max_spawn_queue"]), (&json!(1), &json!(3)));
    let scrape = world.get("/metrics/prometheus").await;
    assert!(scrape.text().contains("\nstacyvm_spawn_queue_wait_seconds_count 1\n"));
    assert!(scrape.text().contains("\nstacyvm_spawn_queue_timeout_total 1\n"));
}

/// R2.8: one page for a report about a fault.
#[tokio::test]
async fn diagnostics_hold_what_a_report_needs() {
    let world = World::new().await;
    let body = world.get("/diagnostics").await.json();
    assert_eq!(
        keys(&body),
        [
            "build",
            "events",
            "generated_at",
            "jobs",
            "leases",
            "limits",
            "operations",
            "process",
            "providers",
            "quotas",
            "rate_limit",
            "redactions",
            "remediation",
            "sandboxes",
            "scheduler",
            "store",
            "workers",
        ]
    );
    assert_eq!(keys(&body["build"]), ["goarch", "goos", "version"]);
    assert_eq!(body["build"]["goos"], "linux");
    assert_eq!(keys(&body["process"]), ["goroutines", "memory", "uptime"]);
    assert_eq!(keys(&body["process"]["memory"]), ["alloc", "gc_cycles", "heap_alloc", "sys"]);
    assert_eq!(body["store"]["healthy"], true);
    assert_eq!(
        keys(&body["limits"]),
        [
            "default_exec_timeout",
            "max_exec_timeout",
            "max_sandboxes",
            "max_sandboxes_per_owner",
            "max_spawn_queue",
            "max_ttl",
            "spawn_overflow",
            "spawn_queue_timeout",
        ]
    );
    assert_eq!(body["limits"]["max_ttl"], "24h0m0s");
    assert_eq!(body["redactions"].as_array().map(Vec::len), Some(4));
    assert_eq!(body["remediation"].as_object().map(serde_json::Map::len), Some(10));
    assert_eq!(body["generated_at"].as_str().map(str::len), Some("2026-01-01T00:00:00Z".len()));
    assert_eq!(steady(&body["providers"]), steady(&world.get("/providers").await.json()));
}

/// R2.7: a provider is the same object wherever it is shown.
#[tokio::test]
async fn a_provider_is_the_same_object_everywhere() {
    let world = World::new().await;
    let listed = steady(&world.get("/providers").await.json());
    assert_eq!(steady(&world.get("/ready").await.json()["providers"]), listed);
    assert_eq!(steady(&world.get("/metrics").await.json()["providers"]["items"]), listed);
    let detail = world.get("/providers/mock").await.json()["health"].clone();
    assert_eq!(steady(&json!([detail])), listed);
}

/// The names that older dashboards read.
const KEPT: &[&str] = &[
    "stacyvm_uptime_seconds",
    "stacyvm_runtime_goroutines",
    "stacyvm_runtime_memory_alloc_bytes",
    "stacyvm_runtime_memory_sys_bytes",
    "stacyvm_runtime_gc_cycles_total",
    "stacyvm_sandboxes_total{state=\"running\"}",
    "stacyvm_sandboxes_by_provider_total{provider=\"mock\"}",
    "stacyvm_provider_healthy{provider=\"mock\",default=\"true\"}",
    "stacyvm_workers_total{status=\"total\"}",
    "stacyvm_workers_total{status=\"online\"}",
    "stacyvm_workers_total{status=\"stale\"}",
    "stacyvm_workers_total{status=\"unhealthy\"}",
    "stacyvm_leases_total{status=\"total\"}",
    "stacyvm_leases_total{status=\"active\"}",
    "stacyvm_leases_total{status=\"expired\"}",
    "stacyvm_events_total",
    "stacyvm_event_subscribers",
    "stacyvm_event_history_size",
    "stacyvm_spawn_queue_depth",
    "stacyvm_spawn_queue_capacity",
    "stacyvm_spawn_queue_enqueued_total",
    "stacyvm_spawn_queue_dequeued_total",
    "stacyvm_spawn_queue_timeout_total",
    "stacyvm_spawn_queue_wait_milliseconds_sum",
    "stacyvm_spawn_queue_wait_milliseconds_count",
    "stacyvm_spawn_queue_wait_milliseconds_max",
    "stacyvm_owner_quotas_total",
    "stacyvm_owner_quota_overrides_total{type=\"max_sandboxes\"}",
    "stacyvm_owner_quota_overrides_total{type=\"max_ttl\"}",
    "stacyvm_owner_quota_overrides_total{type=\"max_exec_timeout\"}",
    "stacyvm_rate_limit_allowed_total",
    "stacyvm_rate_limit_blocked_total",
    "stacyvm_rate_limit_evicted_buckets_total",
    "stacyvm_rate_limit_active_buckets",
    "stacyvm_operation_success_total{operation=\"exec\",provider=\"mock\"}",
    "stacyvm_operation_failure_total{operation=\"exec\",provider=\"mock\"}",
    "stacyvm_operation_latency_milliseconds_sum{operation=\"exec\",provider=\"mock\"}",
    "stacyvm_operation_latency_milliseconds_count{operation=\"exec\",provider=\"mock\"}",
    "stacyvm_operation_latency_milliseconds_max{operation=\"exec\",provider=\"mock\"}",
];

/// The same, about what a server finds out by looking at its own worker's providers. It does not
/// look at another worker's for each scrape: how those are is told by heartbeats.
const LOOKED_AT: &[&str] = &[
    "stacyvm_provider_health_latency_milliseconds{provider=\"mock\"}",
    "stacyvm_provider_runtime_sandboxes{provider=\"mock\"}",
];

/// R2.4: every name that older dashboards read is there, with the labels that they read.
#[tokio::test]
async fn a_scrape_keeps_every_older_name() {
    let world = World::new().await;
    world.sandbox().await;
    world.control.operations().record(Operation::Exec, "mock", Duration::from_millis(1), None);
    let reply = world.get("/metrics/prometheus").await;
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = reply.text();
    let series: BTreeSet<_> =
        text.lines().filter_map(|line| line.rsplit_once(' ').map(|(series, _)| series)).collect();
    let held = format!("stacyvm_sandboxes_by_worker_total{{worker=\"{WORKER}\"}}");
    for name in KEPT.iter().copied().chain([held.as_str()]) {
        assert!(series.contains(name), "{name} is not in\n{text}");
    }
    for name in LOOKED_AT {
        assert_eq!(series.contains(name), !IS_REMOTE, "{name}");
    }
}

/// R2.4: samples follow their family's type, each family once, and no series twice.
#[tokio::test]
async fn a_scrape_is_well_formed() {
    let world = World::new().await;
    let no = Error::DiskFull;
    for operation in Operation::ALL {
        let took = Duration::from_millis(1);
        world.control.operations().record(*operation, "mock", took, None);
        world.control.operations().record(*operation, "none\"\n\\", took, Some(&no));
    }
    world.get("/nonexistent/%22%0Apath").await;
    let reply = world.get("/metrics/prometheus").await;
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    let mut family = ("", "");
    for line in reply.text().lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = (rest.split_once(' ').unwrap().0, "");
            assert!(families.insert(family.0), "{line}");
            assert!(rest.ends_with('.'), "a sentence: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family.0);
            family.1 = kind;
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
            assert!(series.insert(name), "twice: {line}");
            let name = name.split('{').next().unwrap();
            let suffix = name.strip_prefix(family.0).unwrap_or_else(|| panic!("{line}"));
            let suffixes: &[&str] = match family.1 {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["_sum", "_count"],
                "counter" | "gauge" => &[""],
                other => panic!("{other}"),
            };
            assert!(suffixes.contains(&suffix), "{line}");
        }
    }
    assert!(series.iter().any(|name| name.contains("provider=\"unknown\"")));
}

/// R2.4: requests are counted by pattern, whatever paths and methods clients make up.
#[tokio::test]
async fn requests_are_counted_by_route_and_class() {
    let world = World::new().await;
    for n in 0..3 {
        world.get(&format!("/sandboxes/sb-{n}")).await;
        world.get(&format!("/made-up-{n}")).await;
        let method = Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
        world.send(method, "/health", &[], "").await;
    }
    let scrape = world.get("/metrics/prometheus").await;
    let http: BTreeSet<_> = scrape
        .text()
        .lines()
        .filter(|line| line.starts_with("stacyvm_http_requests_total{"))
        .collect();
    let expected = [
        r#"stacyvm_http_requests_total{method="GET",route="/api/v1/sandboxes/{id}",class="4xx"} 3"#,
        r#"stacyvm_http_requests_total{method="GET",route="unmatched",class="4xx"} 3"#,
        r#"stacyvm_http_requests_total{method="other",route="/api/v1/health",class="4xx"} 3"#,
    ];
    assert_eq!(http, BTreeSet::from(expected));
}

/// R2.4: nothing that a client chose to call an owner or a request names a series.
#[tokio::test]
async fn no_owner_is_named_anywhere() {
    let world = World::new().await;
    let owned = r#"{"owner_id":"planted-owner","metadata":{"a":"planted-metadata"}}"#;
    assert_eq!(world.post("/sandboxes", owned).await.status, 201);
    for path in ["/metrics", "/metrics/prometheus", "/diagnostics", "/system/stats", "/ready"] {
        let reply = world.get(path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.text().contains("planted"), "{path}: {}", reply.text());
    }
}

/// R2.2, R2.8: what failed may name paths and what others named; only administrators read that.
#[tokio::test]
async fn a_last_error_is_a_word_for_readers_and_a_sentence_for_administrators() {
    let world = World::new().await;
    let reply = world.post("/sandboxes", r#"{"template":"planted/of-somebody"}"#).await;
    assert_eq!(reply.status, 404);
    for path in ["/metrics", "/diagnostics"] {
        let error = |body: serde_json::Value| body["operations"][0]["last_error"].clone();
        let (plain, admin) = (world.get(path).await, world.get(&format!("/admin{path}")).await);
        assert!(!plain.text().contains("planted"), "{path}: {}", plain.text());
        assert_eq!(error(plain.json()), "no_template", "{path}");
        assert_eq!(error(admin.json()), "not found: template \"planted/of-somebody\"", "{path}");
    }
}

/// R2.3: the addresses for administrators answer the same.
#[tokio::test]
async fn administrators_have_addresses_of_their_own() {
    let world = World::new().await;
    for path in ["/metrics", "/diagnostics"] {
        let (plain, admin) =
            (world.get(path).await.json(), world.get(&format!("/admin{path}")).await.json());
        assert_eq!(keys(&plain), keys(&admin));
    }
    let scrape = world.get("/admin/metrics/prometheus").await;
    assert!(scrape.text().contains("stacyvm_uptime_seconds"));
}

#[tokio::test]
async fn the_host_is_shown_as_numbers() {
    let world = World::new().await;
    let body = world.get("/system/stats").await.json();
    let names = ["cpu_pct", "disk_pct", "load1", "mem_pct", "net_rx_bps", "net_tx_bps"];
    assert_eq!(keys(&body), names);
    assert!(names.iter().all(|name| body[*name].as_f64().is_some_and(|n| 0.0 <= n)));
    assert!(0.0 < body["mem_pct"].as_f64().unwrap());
}
