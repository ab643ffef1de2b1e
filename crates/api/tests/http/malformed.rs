//! R9.5: whatever comes in, the answer is JSON and never a server error.

use std::sync::Arc;

use http::Method;

use stacyvm_api::{ApiConfig, Limits, Listed};
use stacyvm_fleet::identity::{KeyRing, Keys, Secret};

use crate::world::{BASE, Reply, World};

/// The token of every worker.
const WORKERS: &str = "a-worker-token";

/// An open server that lets workers in too.
async fn world() -> World {
    let keys = Keys { shared: vec![Secret::new(WORKERS)], ..Keys::default() };
    let config = ApiConfig { worker_keys: Arc::new(KeyRing::of(keys)), ..ApiConfig::default() };
    World::with(config, Limits::default()).await
}

/// Method, path (`{id}` is a live sandbox), and whether it must have a JSON object: every route but
/// the stream of events, which does not end.
async fn routes(world: &World) -> Vec<(Method, String, bool)> {
    let document = world.get("/openapi.json").await.json();
    let row = |route: Listed| {
        let path = route.path.strip_prefix(BASE)?.to_owned();
        let operation = path.replace("{*", "{");
        let operation = operation.strip_suffix('/').unwrap_or(&operation);
        let method = route.method.as_str().to_ascii_lowercase();
        let body = &document["paths"][operation][method]["requestBody"];
        let json = body["required"] == true && body["content"].get("application/json").is_some();
        let path = path.replace("{*name}", "x").replace("{name}", "x").replace("{exec_id}", "ex-0");
        let path = path.replace("{resource}", "sb-00000000000000000000");
        Some((route.method, path, json))
    };
    let rows = stacyvm_api::routes().into_iter().filter(|route| !route.path.ends_with("/events"));
    rows.filter_map(row).collect()
}

fn check(reply: &Reply, what: &str) {
    assert!(!reply.status.is_redirection(), "{what}");
    // A refusal: the mock has neither images nor users.
    let unsupported = reply.status == 501;
    if reply.status.is_client_error() || unsupported {
        reply.code();
    }
    assert!(
        unsupported || !reply.status.is_server_error(),
        "{what}: {} {:?}",
        reply.status,
        reply.body
    );
    assert_eq!(reply.header("x-content-type-options"), "nosniff", "{what}");
}

#[tokio::test]
async fn every_route_refuses_a_body_that_is_no_object() {
    let world = world().await;
    let id = world.sandbox().await;
    for (method, path, _) in routes(&world).await.into_iter().filter(|(.., json)| *json) {
        let path = path.replace("{id}", &id);
        let worker = [("x-worker-id", id.as_str()), ("x-worker-token", WORKERS)];
        for body in ["", "null", "[]", "\"x\"", "7", "{", "{\"a\":", "\u{0}", "{]", "nope"] {
            let reply = world.send(method.clone(), &path, &worker, body).await;
            assert_eq!(reply.code(), "BAD_REQUEST", "{path} {body:?}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        let reply = world.send(method.clone(), &path, &worker, deep).await;
        assert_eq!(reply.code(), "BAD_REQUEST", "{path} deep");
        let zipped = [worker[0], worker[1], ("content-encoding", "gzip")];
        let reply = world.send(method.clone(), &path, &zipped, "{}").await;
        assert_eq!(reply.code(), "UNSUPPORTED_MEDIA_TYPE", "{path}");
    }
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let exec = format!("/sandboxes/{id}/exec");
    let extend = format!("/sandboxes/{id}/extend");
    let files = format!("/sandboxes/{id}/files");
    let chmod = format!("/sandboxes/{id}/files/chmod");
    for (path, body, named) in [
        ("/sandboxes", r#"{"memory_mb":-1}"#, "memory_mb"),
        ("/sandboxes", r#"{"memory_mb":99999999999}"#, "memory_mb"),
        ("/sandboxes", r#"{"memory_mb":1.5}"#, "memory_mb"),
        ("/sandboxes", r#"{"vcpus":"2"}"#, "vcpus"),
        ("/sandboxes", r#"{"vcpus":4000000000}"#, "vcpus"),
        ("/sandboxes", r#"{"ttl":5}"#, "ttl"),
        ("/sandboxes", r#"{"ttl":"5"}"#, "ttl"),
        ("/sandboxes", r#"{"ttl":"-5m"}"#, "ttl"),
        ("/sandboxes", r#"{"ttl":"0s"}"#, "ttl"),
        ("/sandboxes", r#"{"metadata":{"a":1}}"#, "metadata"),
        ("/sandboxes", r#"{"owner_id":"a/b"}"#, "owner_id"),
        ("/sandboxes", r#"{"network_mode":"bridge"}"#, "network_mode"),
        ("/sandboxes/admission", r#"{"ttl":"x"}"#, "ttl"),
        ("/admin/keys", r#"{"name":7,"role":"api"}"#, "name"),
        ("/admin/keys", r#"{"name":"a","role":"root"}"#, "role"),
        ("/admin/keys", r#"{"name":"a","role":"api","speak_for":"yes"}"#, "speak_for"),
        ("/admin/worker-tokens", "{}", "worker_id is required"),
        ("/admin/worker-tokens", r#"{"worker_id":"a b"}"#, "worker_id is not valid"),
        ("/admin/worker-tokens", r#"{"worker_id":"w","ttl":"16m"}"#, "ttl must be"),
        ("/admin/worker-tokens", r#"{"worker_id":"w","ttl":"x"}"#, "ttl"),
        ("/admin/worker-tokens", r#"{"worker_id":"w","audience":"api"}"#, "audience must be"),
        ("/admin/worker-tokens", r#"{"worker_id":"w","scopes":["worker:all"]}"#, "scopes must be"),
        ("/admin/worker-tokens", r#"{"worker_id":"w","audience":"worker:rpc"}"#, "scopes are"),
        (&extend, "{}", "ttl is required"),
        (&extend, r#"{"ttl":"x"}"#, "ttl"),
        (&extend, r#"{"ttl":"0s"}"#, "ttl must be positive"),
        (&exec, r#"{"command":["ls"]}"#, "command"),
        (&exec, r#"{"command":"ls","mode":"bash"}"#, "mode"),
        (&exec, r#"{"mode":"argv"}"#, "command"),
        (&exec, r#"{"command":"ls","timeout":"soon"}"#, "timeout"),
        (&exec, r#"{"command":"ls","args":"x"}"#, "args"),
        (&exec, r#"{"command":"ls","env":{"":"x"}}"#, "env"),
        (&exec, r#"{"command":"a\u0000b"}"#, "command"),
        (&exec, r#"{"command":"ls","exec_id":"1"}"#, "exec_id"),
        (&exec, r#"{"command":"ls","workdir":"rel"}"#, "workdir"),
        (&exec, r#"{"command":"ls","tty":{"rows":1,"cols":1}}"#, "tty"),
        (&exec, r#"{"command":"ls","stream":"yes"}"#, "stream"),
        (&files, r#"{"content":"x"}"#, "path is required"),
        (&files, r#"{"path":"/workspace/x","content":1}"#, "content"),
        (&files, r#"{"path":"/workspace/x","mode":"rwx"}"#, "mode"),
        (&chmod, r#"{"path":"/workspace","mode":"99"}"#, "mode"),
        ("/templates", r#"{"image":"host"}"#, "name"),
        ("/templates", r#"{"name":"x"}"#, "image"),
        ("/templates", r#"{"name":"x","image":"host","ttl":"1d"}"#, "ttl"),
    ] {
        let reply = world.post(path, body).await;
        assert_eq!(reply.code(), "BAD_REQUEST", "{path} {body}");
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(named), "{body}: {message}");
    }
    for (path, named) in [
        (format!("/sandboxes/{id}/logs?lines=many"), "lines"),
        (format!("/sandboxes/{id}/logs?lines=-1"), "lines"),
        (format!("/sandboxes/{id}?include=all"), "include"),
        (format!("{files}?path="), "path"),
        (format!("/sandboxes/{id}/files/glob"), "pattern"),
        ("/events?type=nope".to_owned(), "type"),
        ("/events?sandbox=nope".to_owned(), "sandbox"),
        ("/events?after=soon".to_owned(), "event id"),
    ] {
        let reply = world.get(&path).await;
        assert_eq!(reply.code(), "BAD_REQUEST", "{path}");
        assert!(reply.text().contains(named), "{path}: {}", reply.text());
    }
    let user = world.send(Method::POST, "/sandboxes", &[("x-user-id", "a b")], "{}").await;
    assert_eq!(user.code(), "BAD_REQUEST");
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_json_and_say_what_is_allowed() {
    let world = World::new().await;
    for path in ["/nope", "/sandboxes/x/y", "/health/", "/quotas/ann", "/", "//sandboxes"] {
        assert_eq!(world.get(path).await.code(), "NOT_FOUND", "{path}");
    }
    let (root, ..) = world.open(Method::GET, "/", &[], "").await;
    assert_eq!(root.status, 404);
    let id = world.sandbox().await;
    for (method, path, _) in routes(&world).await {
        let path = path.replace("{id}", &id);
        for wrong in [Method::PATCH, Method::TRACE, Method::OPTIONS] {
            let reply = world.send(wrong.clone(), &path, &[], "").await;
            assert_eq!(reply.code(), "METHOD_NOT_ALLOWED", "{wrong} {path}");
            let allow = reply.header("allow").to_owned();
            assert!(allow.split(',').any(|one| one == method), "{path}: {allow}");
        }
        if method == Method::GET && !path.contains("/ws") {
            let reply = world.send(Method::HEAD, &path, &[], "").await;
            assert!(reply.status != 405 && reply.body.is_empty(), "{path}");
        }
    }
}

#[tokio::test]
async fn a_request_id_is_echoed_or_made() {
    let world = World::new().await;
    let mine = world.send(Method::GET, "/nope", &[("x-request-id", "mine-1.2_3")], "").await;
    assert_eq!((mine.code().as_str(), mine.header("x-request-id")), ("NOT_FOUND", "mine-1.2_3"));
    let bad = world.send(Method::GET, "/live", &[("x-request-id", "no spaces")], "").await;
    assert_eq!(bad.header("x-request-id").len(), 36);
}

/// A small generator, so that a failing seed is a failing test.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

/// Values of every kind. Commands stay harmless: the mock runs them on this very host.
const VALUES: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    "1e400",
    "18446744073709551616",
    "\"\"",
    "\"true\"",
    "[]",
    "{}",
    "[1]",
    "{\"a\":\"b\"}",
    "{\"\":\"\\u0000\"}",
    "\"5m\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"host\"",
    "[\"a\"]",
    "{\"rows\":0,\"cols\":70000}",
    "\"argv\"",
    "\"/workspace/f\"",
    "\"../..\"",
    "\"0777\"",
    "\"\\u2028\\u0085\"",
    "nope",
    "\"ex-00000000000000000000\"",
];
const KEYS: &[&str] = &[
    "hostname",
    "status",
    "providers",
    "capacity",
    "instance",
    "version",
    "offers",
    "worker_id",
    "audience",
    "scopes",
    "command",
    "args",
    "mode",
    "env",
    "workdir",
    "user",
    "timeout",
    "stdin",
    "exec_id",
    "image",
    "provider",
    "memory_mb",
    "vcpus",
    "disk_mb",
    "pids",
    "ttl",
    "owner_id",
    "template",
    "metadata",
    "network_mode",
    "path",
    "content",
    "old_path",
    "new_path",
    "name",
    "setup",
    "secrets",
    "cpu_cores",
    "ttl_seconds",
    "pool_size",
    "allowed_hosts",
    "tty",
    "binary",
];
const QUERIES: &[&str] = &[
    "",
    "?",
    "?path=",
    "?path=%00",
    "?path=/workspace/f",
    "?path=../../..",
    "?path=%ff%fe",
    "?lines=0",
    "?lines=99999999999999999999",
    "?offset=-1",
    "?offset=18446744073709551615",
    "?include=ended",
    "?pattern=[",
    "?pattern=**",
    "?pattern=/%2a%2a/%2a",
    "?mode=999",
    "?mode=0644&path=/workspace/g",
    "?recursive=maybe&path=/workspace/f",
    "?a=b&a=c&&&=",
    "?%zz",
    "?path=/proc/self/environ",
];
const HEADERS: &[(&str, &str)] = &[
    ("x-user-id", "ann"),
    ("x-user-id", "\u{e9}\u{e9}"),
    ("range", "bytes=0-"),
    ("range", "bytes=-"),
    ("accept", "application/x-ndjson"),
    ("content-type", "multipart/form-data"),
    ("expect", "x"),
    ("content-encoding", "br"),
    ("last-event-id", "evt-x"),
    ("x-request-id", "<script>"),
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
    ("if-range", "\"x\""),
    ("cookie", "a=b"),
];

#[tokio::test]
async fn a_seeded_fuzz_of_bodies_paths_queries_and_headers_meets_no_server_error() {
    let world = world().await;
    let id = world.sandbox().await;
    let routes = routes(&world).await;
    for seed in 1..=600_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (method, path, takes_json) = routes[dice.roll(routes.len())].clone();
        let shown =
            dice.pick(&[&id, &id, "sb-", "sb-00000000000000000000", "%2e%2e", "%ff", "a%2fb"]);
        let path = format!("{}{}", path.replace("{id}", shown), dice.pick(QUERIES));
        let mut body = String::new();
        if takes_json || dice.roll(4) == 0 {
            let pairs = (0..dice.roll(5))
                .map(|_| format!("\"{}\":{}", dice.pick(KEYS), dice.pick(VALUES)))
                .collect::<Vec<_>>();
            body = format!("{{{}}}", pairs.join(","));
            if dice.roll(8) == 0 {
                body.truncate(dice.roll(body.len()));
            }
        }
        let mut headers: Vec<_> =
            (0..dice.roll(3)).map(|_| HEADERS[dice.roll(HEADERS.len())]).collect();
        headers.extend([("x-worker-id", id.as_str()), ("x-worker-token", WORKERS)]);
        let what = format!("seed {seed}: {method} {path} {headers:?} {body}");
        let reply = world.send(method, &path, &headers, body).await;
        check(&reply, &what);
    }
}
