//! Traces of a real server, as a collector gets them.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::{collections::BTreeMap, fs, path::Path};

use stacyvm_tests::{Options, Server, collector::Collector, http};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn server(dir: &Path, settings: &str) -> Server {
    let file = dir.join("stacyvm.yaml");
    fs::write(&file, settings).unwrap();
    let config = file.display().to_string();
    let args = ["--provider", "mock", "--config", &config].map(str::to_owned).to_vec();
    Server::start(&dir.join("data"), &Options { args, ..Options::default() }).unwrap()
}

fn post(server: &Server, path: &str, body: &str) -> http::Reply {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         traceparent: 00-{TRACE}-{CALLER}-01\r\nX-Request-ID: planted-request\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        server.at,
        body.len()
    );
    http::raw(server.at, head.as_bytes()).unwrap()
}

/// R2.10: what a request caused is one tree below its caller's span, down to the guest, and names
/// the sandbox. A server that stops hands over what it has.
#[test]
fn a_request_is_one_tree_from_the_caller_to_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start().unwrap();
    let settings = format!(
        "telemetry:\n  otlp_endpoint: http://{}\n  otlp_headers: x-collector-key=planted-secret\n",
        collector.at
    );
    let server = server(dir.path(), &settings);
    let reply = post(&server, "/api/v1/sandboxes", "{}");
    assert_eq!(reply.status, 201);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    let exec = format!("/api/v1/sandboxes/{id}/exec");
    assert_eq!(post(&server, &exec, r#"{"command":"true"}"#).status, 200);
    drop(server);

    let spans: BTreeMap<_, _> = collector
        .spans()
        .into_iter()
        .filter(|span| span.trace == TRACE)
        .map(|span| (span.id.clone(), span))
        .collect();
    for (name, parent) in [
        ("spawn", "POST /api/v1/sandboxes"),
        ("worker.spawn", "spawn"),
        ("provider.launch", "worker.spawn"),
        ("exec", "POST /api/v1/sandboxes/{id}/exec"),
        ("worker.guest", "exec"),
        ("provider.guest", "worker.guest"),
        ("guest.exec", "exec"),
    ] {
        let span = spans.values().find(|span| span.name == name);
        let span = span.unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
        assert_eq!(spans.get(&span.parent).map(|span| &*span.name), Some(parent), "{name}");
    }
    for span in spans.values() {
        assert!(span.parent == CALLER || spans.contains_key(&span.parent), "{span:#?}");
        let named = span.attributes.get("sandbox.id");
        let about = matches!(&*span.name, "spawn" | "exec" | "worker.spawn" | "provider.launch");
        assert!(!about || named == Some(&id), "{span:#?}");
    }
    assert!(spans.values().any(|span| {
        span.parent == CALLER
            && span.attributes.get("request.id").is_some_and(|id| id == "planted-request")
    }));
    let heads = collector.heads();
    assert!(heads.iter().all(|head| head.starts_with("POST /v1/traces ")), "{heads:#?}");
    assert!(heads.iter().all(|head| head.contains("x-collector-key: planted-secret")));

    let log = fs::read_to_string(dir.path().join("data/log")).unwrap();
    let line = log.lines().find(|line| line.contains("a sandbox runs")).unwrap();
    for part in ["planted-request", TRACE, &id] {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
    assert!(!log.contains("planted-secret"), "{log}");
}

/// R2.10: a trace that begins here has an id that the log tells; none is made of what was not
/// sampled.
#[test]
fn the_share_of_traces_that_begin_here_is_the_operators() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start().unwrap();
    let settings =
        format!("telemetry:\n  otlp_endpoint: http://{}/\n  sample_ratio: 0\n", collector.at);
    let server = server(dir.path(), &settings);
    let id = server.spawn().unwrap();
    post(&server, &format!("/api/v1/sandboxes/{id}/extend"), r#"{"ttl":"1h"}"#);
    drop(server);
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.name == "extend"), "a caller decides about its traces");
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
}

/// R2.10: a collector that is away costs nothing but the spans.
#[test]
fn a_collector_that_is_away_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings =
        format!("telemetry:\n  otlp_endpoint: http://{}\n", nobody.local_addr().unwrap());
    drop(nobody);
    let mut server = server(dir.path(), &settings);
    server.spawn().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&server.child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let status = server.wait(std::time::Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{status}");
}
