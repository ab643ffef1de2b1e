//! What an earlier version sends, to real processes.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use stacyvm_tests::{Reply, http};

use crate::world::{Home, Settings, TOKEN, is};

/// A request with a worker's credential.
fn as_worker(at: SocketAddr, path: &str, worker: &str, body: &Value) -> Result<Reply> {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {at}\r\nX-Worker-ID: {worker}\r\nX-Worker-Token: {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    http::raw(at, head.as_bytes())
}

pub(crate) fn earlier() -> Result<()> {
    let home = Home::new()?;
    let settings = Settings { provider: "mock", ..Settings::default() };
    let server = home.control_plane("server", &settings)?;
    let worker = home.worker("far", &server, &settings)?;

    let beat = json!({
        "hostname": "old-host", "status": "online", "providers": ["docker", "mock"],
        "capabilities": ["remote_worker", "heartbeat"],
        "capacity": {"max_sandboxes": 3, "max_sandboxes_per_owner": 0, "preview_domain": "",
            "rpc_url": "http://127.0.0.1:9"},
    });
    let heard = as_worker(server.at, "/api/v1/worker/old/heartbeat", "old", &beat)?;
    ensure!(heard.status == 200 && heard.json()["id"] == "old", "{}", heard.json());
    is(&server, "old", |row| row["hostname"] == "old-host" && row["stale"] == false)?;

    let sandbox = "sb-0000000000000000000a";
    let lease = json!({"resource_id": sandbox, "holder_id": "far", "generation": 1,
        "expires_at": "2026-11-21T18:00:00Z"});
    let call = |id: &str, method: &str, params: Value| {
        let envelope = json!({"id": format!("{id}-{sandbox}"), "worker_id": "far", "lease": lease,
            "method": method, "params": params});
        as_worker(worker.at, "/rpc", "far", &envelope)
    };
    let target = json!({"sandbox_id": sandbox, "provider": "mock", "runtime_id": ""});
    let made = call(
        "spawn",
        "worker.spawn",
        json!({"sandbox_id": sandbox, "image": "alpine:latest",
        "provider": "mock", "memory_mb": 512, "vcpus": 1, "ttl": "30m0s"}),
    )?;
    ensure!(made.status == 200 && made.json()["result"]["state"] == "running", "{}", made.json());
    let ran = call(
        "exec",
        "worker.exec",
        json!({"sandbox_id": sandbox, "provider": "mock",
        "command": "echo hi", "timeout": "5s"}),
    )?;
    ensure!(ran.json()["result"]["stdout"] == "hi\n", "{}", ran.json());
    ensure!(call("destroy", "worker.destroy", target.clone())?.status == 200);
    ensure!(call("status", "worker.status", target)?.status == 404);
    Ok(())
}
