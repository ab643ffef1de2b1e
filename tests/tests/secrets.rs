//! Secrets are planted wherever somebody can put one, and looked for wherever somebody else reads.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use stacyvm_tests::{Options, Reply, Server, http};

/// What every planted secret holds. It looks like no key, so that only leaving it out helps.
const PLANTED: &str = "planted";

/// What operators and everybody's programs read.
const SURFACES: &[&str] = &[
    "/health",
    "/live",
    "/ready",
    "/metrics",
    "/metrics/prometheus",
    "/diagnostics",
    "/system/stats",
    "/admin/metrics",
    "/admin/metrics/prometheus",
    "/admin/diagnostics",
    "/providers",
    "/providers/mock",
    "/pool/status",
    "/quotas",
    "/quotas/summary",
    "/snapshots",
];

/// A request with a credential in every header that can hold one.
fn send(at: SocketAddr, method: &str, path: &str, body: &str) -> Reply {
    static KEYS: AtomicUsize = AtomicUsize::new(0);
    let key = KEYS.fetch_add(1, Ordering::Relaxed);
    let request = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\n\
         Authorization: Bearer planted-bearer\r\nX-API-Key: planted-api-key\r\n\
         X-Admin-API-Key: planted-admin-key\r\nX-Worker-Token: planted-worker-token\r\n\
         Cookie: session=planted-cookie\r\nIdempotency-Key: planted-idempotency-{key}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    http::raw(at, request.as_bytes()).unwrap()
}

fn find(place: &str, text: &str) {
    if let Some(at) = text.find(PLANTED) {
        let from = text.floor_char_boundary(at.saturating_sub(200));
        let to = text.ceil_char_boundary((at + 80).min(text.len()));
        panic!("{place} holds a secret: …{}…", &text[from..to]);
    }
}

/// Puts a secret wherever a client can, through requests that succeed and requests that fail.
/// Returns the sandbox.
fn plant(at: SocketAddr) -> String {
    let template = json!({
        "name": "t", "image": "host", "env": {"DB_PASSWORD": "planted-template-env"},
        "metadata": {"note": "planted-template-metadata"},
        "secrets": [{"name": "PLAIN", "inject_at": "planted-inject-at"}],
        "setup": ["true # planted-setup"],
    });
    assert_eq!(send(at, "POST", "/templates", &template.to_string()).status, 201);
    let spawn = json!({
        "template": "t", "owner_id": "planted-owner", "metadata": {"k": "planted-metadata"},
        "env": {"API_TOKEN": "planted-sandbox-env"},
    });
    let reply = send(at, "POST", "/sandboxes", &spawn.to_string());
    assert_eq!(reply.status, 201, "{}", reply.json());
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    let exec = format!("/sandboxes/{id}/exec");
    for (command, status) in [
        (json!({"command": "echo planted-output; exit 3", "env": {"E": "planted-exec-env"}}), 200),
        (json!({"command": "cat", "stdin": "planted-stdin"}), 200),
        (json!({"command": "no-such-program", "args": ["planted-arg"], "mode": "argv"}), 422),
        (json!({"command": "sleep 60 # planted-slow", "timeout": "100ms"}), 408),
        (json!({"command": "true", "stream": true, "env": {"S": "planted-stream-env"}}), 200),
    ] {
        let reply = send(at, "POST", &exec, &command.to_string());
        assert_eq!(reply.status, status, "{command}: {}", reply.json());
    }
    let files = format!("/sandboxes/{id}/files");
    let write = json!({"path": "/workspace/f", "content": "planted-content"});
    assert_eq!(send(at, "POST", &files, &write.to_string()).status, 200);
    assert_eq!(send(at, "GET", &format!("{files}?path=/workspace/f"), "").status, 200);
    id
}

/// Requests that fail, with secrets that the reply has no business to repeat.
fn failures(at: SocketAddr, id: &str) -> Vec<Reply> {
    [
        ("GET", "/sandboxes/sb-00000000000000000000".to_owned(), Value::Null),
        (
            "POST",
            "/sandboxes".to_owned(),
            json!({"provider": "none", "env": {"A": "planted-env-a"}}),
        ),
        ("POST", "/sandboxes".to_owned(), json!({"ttl": "900h", "env": {"B": "planted-env-b"}})),
        ("POST", "/sandboxes".to_owned(), json!({"env": ["planted-env-c"]})),
        ("POST", "/sandboxes".to_owned(), json!({"env": "A=planted-env-f"})),
        ("POST", "/sandboxes".to_owned(), json!({"env": {"A=planted-env-g": ""}})),
        (
            "POST",
            format!("/sandboxes/{id}/exec"),
            json!({"command": "true", "workdir": "no", "env": {"D": "planted-env-d"}}),
        ),
        ("POST", format!("/sandboxes/{id}/extend"), json!({"ttl": "x", "k": "planted-key"})),
        ("PUT", "/templates/none".to_owned(), json!({"env": {"E": "planted-env-e"}})),
        ("GET", format!("/sandboxes/{id}/files?path=/none"), Value::Null),
        ("GET", "/nonexistent?token=planted-query".to_owned(), Value::Null),
    ]
    .into_iter()
    .map(|(method, path, body)| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = send(at, method, &path, &body);
        assert!((400..500).contains(&reply.status), "{method} {path}: {}", reply.status);
        reply
    })
    .collect()
}

/// Looks through the audit log, which holds command lines and owners on purpose and nothing else
/// that callers wrote.
fn audited(server: &Server) {
    let at = "/api/v1/admin/audit/operations?limit=500";
    let operations = server.get(at).unwrap().json();
    let operations = operations.as_array().unwrap();
    assert!(10 < operations.len(), "{operations:#?}");
    for record in operations {
        let mut record = record.clone();
        let record = record.as_object_mut().unwrap();
        record.remove("owner_id");
        if record["action"].as_str().is_some_and(|action| action.starts_with("exec")) {
            record.remove("resource");
        }
        find("the audit log", &Value::from(record.clone()).to_string());
    }
    let requests = server.get("/api/v1/admin/audit?limit=500").unwrap();
    assert!(!requests.json().as_array().unwrap().is_empty());
    find("the log of admin requests", &String::from_utf8_lossy(&requests.body));
}

/// R2.8: what was planted is in no diagnosis, metric, log line, event, audit record or error.
#[test]
fn no_planted_secret_is_shown_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("stacyvm.yaml"));
    // Nobody listens there: what is sent fails, and the failure must not say with what.
    let settings = "logging:\n  level: debug\ntelemetry:\n  otlp_endpoint: http://127.0.0.1:9\n  \
                    otlp_headers: [\"x-key=planted-header\", \"authorization=planted-basic\"]\n";
    fs::write(&file, settings).unwrap();
    let config = file.display().to_string();
    let args = ["--provider", "mock", "--config", &config].map(str::to_owned).to_vec();
    let server = Server::start(&data, &Options { args, ..Options::default() }).unwrap();
    let id = plant(server.at);
    for (reply, number) in failures(server.at, &id).iter().zip(1..) {
        find(&format!("failure {number}"), &reply.head);
        find(&format!("failure {number}"), &String::from_utf8_lossy(&reply.body));
    }
    for path in SURFACES {
        let reply = server.get(&format!("/api/v1{path}")).unwrap();
        assert_eq!(reply.status, 200, "{path}");
        find(path, &String::from_utf8_lossy(&reply.body));
    }
    let all = "/api/v1/events?after=0";
    let events = http::peek(server.at, all, Duration::from_secs(1)).unwrap();
    let events = String::from_utf8_lossy(&events.body).into_owned();
    let events: Vec<_> = events.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert!(10 < events.len(), "{events:#?}");
    for line in events {
        let mut event: Value = serde_json::from_str(line).unwrap();
        // Events are for those who may see the sandbox, and name its owner.
        event.as_object_mut().unwrap().remove("owner_id");
        find("an event", &event.to_string());
    }
    audited(&server);
    assert_eq!(server.delete(&format!("/api/v1/sandboxes/{id}")).unwrap().status, 200);
    for path in ["/admin/audit", "/admin/audit/operations"] {
        let records = server.get(&format!("/api/v1{path}?limit=500")).unwrap().json();
        let records = records.as_array().unwrap();
        assert!(!records.is_empty(), "{path}");
        for record in records {
            let mut record = record.clone();
            // What was run and touched, and whose it was, is what an audit is for.
            for said in ["resource", "owner_id"] {
                record.as_object_mut().unwrap().remove(said);
            }
            find(path, &record.to_string());
        }
    }
    let wrong = dir.path().join("wrong.yaml");
    fs::write(&wrong, "telemetry:\n  otlp_headers: planted-without-a-name\n").unwrap();
    drop(server);
    find("the log", &fs::read_to_string(data.join("log")).unwrap());
    for (what, file) in [("show", &file), ("lint", &file), ("lint", &wrong)] {
        let output = std::process::Command::new(stacyvm_tests::server::binary())
            .args(["config", what])
            .arg(if what == "show" { "--config" } else { "--file" })
            .arg(file)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(!said.is_empty());
        find(&format!("config {what}"), &String::from_utf8_lossy(&said));
    }
}

/// R2.8: the operator's keys open every surface and are on none of them.
#[test]
fn no_key_of_the_operator_is_shown_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("stacyvm.yaml"));
    let settings = "logging:\n  level: debug\nauth:\n  api_key: planted-api-key\n  \
                    admin_api_key: planted-admin-key\n  \
                    worker_token: planted-worker-token\n  \
                    worker_tokens:\n    w1: planted-worker-token-of-one\n  \
                    worker_signing_key: planted-signing-key\n  \
                    worker_signing_keys: [planted-signing-key-of-before]\nrate_limit:\n  enabled: true\n  \
                    requests_per_minute: 6000\n  burst: 6000\n";
    fs::write(&file, settings).unwrap();
    let config = file.display().to_string();
    let args = ["--provider", "mock", "--config", &config].map(str::to_owned).to_vec();
    let server = Server::start(&data, &Options { args, ..Options::default() }).unwrap();
    for path in SURFACES {
        let reply = send(server.at, "GET", path, "");
        assert_eq!(reply.status, 200, "{path}: {}", reply.json());
        find(path, &String::from_utf8_lossy(&reply.body));
    }
    let open = ["/live", "/ready"];
    for path in SURFACES.iter().filter(|path| !open.contains(path)) {
        let refused = server.get(&format!("/api/v1{path}")).unwrap();
        assert_eq!(refused.status, 401, "{path}");
        find(path, &String::from_utf8_lossy(&refused.body));
    }
    let made = send(server.at, "POST", "/admin/keys", r#"{"name":"ci","role":"api"}"#);
    assert_eq!(made.status, 201, "{}", made.json());
    let made = made.json()["key"].as_str().unwrap().to_owned();
    let secret = made.rsplit('_').next().unwrap().to_owned();
    assert!(32 < secret.len(), "{made}");
    let signed = send(server.at, "POST", "/admin/worker-tokens", r#"{"worker_id":"w1"}"#);
    assert_eq!(signed.status, 200, "{}", signed.json());
    let signed = signed.json()["token"].as_str().unwrap().to_owned();
    let signature = signed.rsplit('.').next().unwrap().to_owned();
    assert!(32 < signature.len(), "{signed}");
    let with_it = format!(
        "GET /api/v1/sandboxes HTTP/1.1\r\nHost: {}\r\nX-API-Key: {made}\r\nConnection: close\r\n\r\n",
        server.at
    );
    assert_eq!(http::raw(server.at, with_it.as_bytes()).unwrap().status, 200);
    let audits = ["/admin/audit?limit=500", "/admin/audit/operations", "/admin/keys"];
    for path in SURFACES.iter().chain(&audits) {
        let reply = send(server.at, "GET", path, "");
        assert_eq!(reply.status, 200, "{path}");
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        find(path, &said);
        assert!(!said.contains(&secret), "{path} holds a key that was made");
        assert!(!said.contains(&signature), "{path} holds a worker token that was made");
    }
    let log = fs::read_to_string(data.join("log")).unwrap();
    assert!(!log.contains(&secret), "the log holds a key that was made");
    assert!(!log.contains(&signature), "the log holds a worker token that was made");
    drop(server);
    find("the log", &fs::read_to_string(data.join("log")).unwrap());
    for what in ["show", "lint"] {
        let output = std::process::Command::new(stacyvm_tests::server::binary())
            .args(["config", what, if what == "show" { "--config" } else { "--file" }])
            .arg(&file)
            .output()
            .unwrap();
        find(what, &String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    }
}

/// R2.8: what a template's line said when it failed is for who made the sandbox, not for operators.
#[test]
fn what_a_failing_line_says_is_not_among_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--provider", "mock"].map(str::to_owned).to_vec();
    let server = Server::start(&dir.path().join("data"), &Options { args, ..Options::default() });
    let server = server.unwrap();
    let template = json!({
        "name": "t", "image": "host", "env": {"KEY": "planted-key"}, "setup": ["echo $KEY; exit 1"],
    });
    assert_eq!(send(server.at, "POST", "/templates", &template.to_string()).status, 201);
    assert_eq!(send(server.at, "POST", "/templates/t/spawn", "{}").status, 409);
    for path in SURFACES {
        let reply = server.get(&format!("/api/v1{path}")).unwrap();
        find(path, &String::from_utf8_lossy(&reply.body));
    }
}
