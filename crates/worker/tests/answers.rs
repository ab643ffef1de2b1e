//! What a caller hears of a worker whose provider hangs: an answer, before it gives up.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use stacyvm_fleet::{
    identity::{Audience, Checked, KeyRing, Keys, Secret},
    wire::{self, method},
};
use stacyvm_provider::{Capabilities, Guest, Images, LaunchSpec, Probe, Provider, Result, Runtime};
use stacyvm_types::{SandboxId, WorkerId, time::SystemClock};
use stacyvm_worker::{LocalWorker, rpc::Rpc};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

const TOKEN: &str = "a-token-that-is-long-enough-for-a-test";

/// Answers nothing.
struct Hung;

async fn never<T>() -> T {
    std::future::pending().await
}

#[async_trait]
impl Provider for Hung {
    fn name(&self) -> &'static str {
        "hung"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn probe(&self) -> Probe {
        never().await
    }

    async fn launch(&self, _: &LaunchSpec) -> Result<Runtime> {
        never().await
    }

    async fn list(&self) -> Result<Vec<Runtime>> {
        never().await
    }

    async fn status(&self, _: &SandboxId) -> Result<Runtime> {
        never().await
    }

    async fn destroy(&self, _: &SandboxId) -> Result<()> {
        never().await
    }

    async fn pause(&self, _: &SandboxId) -> Result<()> {
        never().await
    }

    async fn resume(&self, _: &SandboxId) -> Result<()> {
        never().await
    }

    async fn guest(&self, _: &SandboxId) -> Result<Arc<dyn Guest>> {
        never().await
    }

    fn images(&self) -> Option<&dyn Images> {
        None
    }
}

fn rpc(dir: &std::path::Path) -> Rpc {
    let clock = Arc::new(SystemClock);
    let id = WorkerId::parse("w-1").unwrap();
    let worker = LocalWorker::new(id, [Arc::new(Hung) as _], "hung", dir, clock.clone()).unwrap();
    let keys = Keys { shared: vec![Secret::new(TOKEN)], ..Keys::default() };
    let access = Checked::at(Audience::Rpc, Arc::new(KeyRing::of(keys)), clock);
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    Rpc::new(Arc::new(worker), Arc::new(access), tasks, stopping)
}

/// A call about the sandbox of all these tests: its answer's status and body, and how long it took.
async fn ask(rpc: &Rpc, method: &str, stream: Option<&str>) -> (StatusCode, Value, Duration) {
    let sandbox = "sb-01010101010101010101";
    let lease = json!({"resource_id": sandbox, "holder_id": "w-1", "generation": 1});
    let params = json!({"sandbox_id": sandbox, "provider": "hung", "image": "host", "memory_mb": 1,
        "vcpus": 1, "remaining_us": 1, "command": "true", "exec_id": "ex-01010101010101010101",
        "offset": 0, "path": "/f", "port": 80, "pids": 1, "disk_mb": 1});
    let envelope = json!({"id": "1", "method": method, "worker_id": "w-1", "lease": lease,
        "params": params});
    let mut request =
        Request::post(wire::PATH).header("x-worker-id", "w-1").header("x-worker-token", TOKEN);
    if let Some(stream) = stream {
        request = request.header(wire::STREAM, stream);
    }
    let begun = Instant::now();
    let request = request.body(Body::from(envelope.to_string())).unwrap();
    let answer = rpc.router().oneshot(request).await.unwrap();
    let (status, took) = (answer.status(), begun.elapsed());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null), took)
}

/// R4.4: a caller that waits for nothing takes the worker for dead. One sandbox that hangs, and all
/// calls about it that wait for each other, are told of as what they are.
#[tokio::test(start_paused = true)]
async fn whatever_hangs_a_worker_answers_before_its_caller_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    let rpc = rpc(dir.path());
    let calls = [
        (method::SPAWN, None),
        (method::SPAWN, None),
        (method::DESTROY, None),
        (method::DESTROY, None),
        (method::DESTROY, None),
        (method::STATUS, None),
        (method::SET_DEADLINE, None),
        (method::EXEC_STREAM, Some("ndjson")),
        (method::EXEC_ATTACH, Some("ndjson")),
        (method::FILE_READ, Some("raw")),
        (method::FILE_LIST, None),
        (method::FILE_STAT, None),
        (method::LOGS, None),
        (method::STATS, None),
    ];
    let answers = calls.map(|(method, stream)| {
        let rpc = &rpc;
        async move {
            let (status, said, took) = ask(rpc, method, stream).await;
            let limit = wire::patience(method);
            assert!(took < limit, "{method}: {took:?}, its caller waits {limit:?}");
            assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{method}: {said}");
            assert_eq!((&said["kind"], &said["outcome"]), (&json!("timeout"), &json!("unknown")));
        }
    });
    futures_util::future::join_all(answers).await;
    // These are about all providers, and say which are silent.
    for method in [method::RUNTIMES, method::PROVIDERS] {
        let (status, said, took) = ask(&rpc, method, None).await;
        assert!(status == StatusCode::OK && took < wire::patience(method), "{method}: {said}");
    }
}
