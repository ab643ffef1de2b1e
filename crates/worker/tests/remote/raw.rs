//! Requests as bytes, as callers of other versions and hostile ones make them.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use stacyvm_fleet::Worker;
use stacyvm_provider::{WriteOptions, mock::MockProvider, suite};
use stacyvm_types::{Generation, SandboxId};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::{TOKEN, World};

pub(crate) async fn world() -> (tempfile::TempDir, World) {
    let dir = tempfile::tempdir().unwrap();
    let mock = MockProvider::open(&dir.path().join("mock")).unwrap();
    let world = World::of(&dir.path().join("worker"), Arc::new(mock)).await;
    (dir, world)
}

/// Sends bytes and reads the answer to its end: its status and its body, which may be chunked.
async fn talk(at: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses while it is sent to may reset the connection after its answer.
    let _ = suite::soon("the answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status, body)
}

fn head(extra: &str, length: usize) -> String {
    format!(
        "POST /rpc HTTP/1.1\r\nHost: w\r\nConnection: close\r\nX-Worker-ID: w-1\r\n\
         X-Worker-Token: {TOKEN}\r\n{extra}Content-Length: {length}\r\n\r\n"
    )
}

async fn ask(at: SocketAddr, envelope: &Value) -> (u16, Value) {
    let body = envelope.to_string();
    let (status, text) = talk(at, (head("", body.len()) + &body).as_bytes()).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}")))
}

async fn spawned(world: &World) -> SandboxId {
    let id = suite::fresh_id();
    let spec = stacyvm_provider::LaunchSpec {
        id: id.clone(),
        generation: Generation(1),
        image: "host".to_owned(),
        limits: stacyvm_types::Limits::DEFAULT,
        ttl: None,
    };
    world.local.spawn("mock", &spec).await.unwrap();
    id
}

/// As recorded from the version before this one, but for the ids.
#[tokio::test]
async fn an_older_control_plane_is_served() {
    let (_dir, world) = world().await;
    let id = suite::fresh_id();
    let lease = json!({"resource_id": id.as_str(), "holder_id": "w-1", "generation": 1,
        "expires_at": "2026-11-21T18:00:00Z"});
    let target = json!({"sandbox_id": id.as_str(), "provider": "mock", "runtime_id": ""});
    let (status, reply) = ask(
        world.at,
        &json!({"id": format!("spawn-{id}"), "method": "worker.spawn", "worker_id": "w-1",
            "lease": lease, "params": {"sandbox_id": id.as_str(), "image": "alpine:latest",
            "provider": "mock", "memory_mb": 512, "vcpus": 1, "owner_id": "someone",
            "ttl": "30m0s", "metadata": {"a": "b"}}}),
    )
    .await;
    assert_eq!(status, 200, "{reply}");
    assert_eq!(reply["id"], format!("spawn-{id}"));
    assert_eq!(reply["result"]["state"], "running");
    assert_eq!(reply["result"]["sandbox_id"], id.as_str());

    let exec = |method: &str| {
        json!({"id": "e", "method": method, "worker_id": "w-1", "lease": lease,
            "params": {"sandbox_id": id.as_str(), "provider": "mock",
            "command": "echo hi; echo err >&2; exit 3", "timeout": "5s"}})
    };
    let (status, reply) = ask(world.at, &exec("worker.exec")).await;
    assert_eq!((status, &reply["result"]["exit_code"]), (200, &json!(3)));
    assert_eq!(reply["result"]["stdout"], "hi\n");
    assert_eq!(reply["result"]["stderr"], "err\n");
    let (_, reply) = ask(world.at, &exec("worker.exec_stream")).await;
    let chunks = reply["result"]["chunks"].as_array().unwrap();
    assert!(chunks.contains(&json!({"stream": "stdout", "data": "hi\n"})), "{reply}");

    let body = exec("worker.exec_stream").to_string();
    let stream = "X-Worker-Stream: ndjson\r\nAccept: application/x-ndjson\r\n";
    let (status, text) = talk(world.at, (head(stream, body.len()) + &body).as_bytes()).await;
    assert_eq!(status, 200);
    assert!(text.contains(r#""stream":"stdout","data":"hi\n""#), "{text}");
    assert!(text.contains(r#""exit_code":3"#), "{text}");

    let file = |method: &str, more: Value| {
        let mut params = target.clone();
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"id": "f", "method": method, "worker_id": "w-1", "lease": lease, "params": params})
    };
    let write = json!({"path": "/workspace/f", "content": "aGVsbG8=", "mode": "0640"});
    assert_eq!(ask(world.at, &file("worker.file_write", write)).await.0, 200);
    let path = json!({"path": "/workspace/f"});
    let (_, reply) = ask(world.at, &file("worker.file_read", path.clone())).await;
    assert_eq!(reply["result"]["content"], "aGVsbG8=");
    let (_, reply) = ask(world.at, &file("worker.file_stat", path)).await;
    assert_eq!(reply["result"]["file"]["mode"], "0640");

    let status_of =
        json!({"id": "s", "method": "worker.status", "worker_id": "w-1", "params": target});
    assert_eq!(ask(world.at, &status_of).await.1["result"]["state"], "running");
    let destroy = json!({"id": "d", "method": "worker.destroy", "worker_id": "w-1",
        "lease": lease, "params": target});
    assert_eq!(ask(world.at, &destroy).await.0, 200);
    let (status, reply) = ask(world.at, &status_of).await;
    assert_eq!((status, &reply["kind"]), (404, &json!("no_sandbox")));
}

#[tokio::test]
async fn a_newer_control_planes_words_are_passed_over_or_refused_by_name() {
    let (_dir, world) = world().await;
    let (status, reply) = ask(
        world.at,
        &json!({"id": "1", "method": "worker.migrate", "worker_id": "w-1", "params": {"to": "w-2"}}),
    )
    .await;
    assert_eq!((status, &reply["kind"]), (400, &json!("unsupported")));
    assert_eq!(reply["outcome"], "not_done");
    let (status, reply) = ask(
        world.at,
        &json!({"id": "2", "method": "worker.runtimes", "worker_id": "w-1", "priority": 7,
            "params": {"newer": [1, 2]}}),
    )
    .await;
    assert_eq!((status, reply["result"]["runtimes"].as_array().map(Vec::len)), (200, Some(0)));
}

#[tokio::test]
async fn a_call_without_the_right_to_the_sandbox_is_refused() {
    let (_dir, world) = world().await;
    let id = spawned(&world).await;
    let good = json!({"resource_id": id.as_str(), "holder_id": "w-1", "generation": 1});
    let with = |key: &str, value: Value| {
        let mut lease = good.clone();
        lease[key] = value;
        lease
    };
    for (lease, sentence) in [
        (Value::Null, "lease token is required"),
        (with("holder_id", json!("w-2")), "lease holder does not match worker"),
        (with("resource_id", json!("")), "lease resource is required"),
        (
            with("resource_id", json!(suite::fresh_id().as_str())),
            "lease resource does not match the request",
        ),
    ] {
        for method in ["worker.destroy", "worker.exec", "worker.file_stat", "worker.logs"] {
            let (status, reply) = ask(
                world.at,
                &json!({"id": "1", "method": method, "worker_id": "w-1", "lease": lease,
                    "params": {"sandbox_id": id.as_str(), "provider": "mock",
                    "command": "touch ran", "path": "/workspace"}}),
            )
            .await;
            let told = (status, &reply["error"], &reply["kind"]);
            assert_eq!(told, (403, &json!(sentence), &json!("fenced")), "{method}");
        }
    }
    let guest = world.local.guest("mock", &id, Generation(1)).await.unwrap();
    assert!(guest.list("/workspace").await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_no_call_to_this_worker_is_refused_before_it_is_read() {
    let (_dir, world) = world().await;
    let call = |worker: &str| json!({"id": "1", "method": "worker.runtimes", "worker_id": worker});
    let (status, reply) = ask(world.at, &call("w-2")).await;
    assert_eq!((status, &reply["code"]), (403, &json!("UNAUTHORIZED")));
    let plain = "GET /rpc HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";
    assert_eq!(talk(world.at, plain.as_bytes()).await.0, 405);
    let health = "GET /health HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";
    let (status, text) = talk(world.at, health.as_bytes()).await;
    assert_eq!(status, 200);
    assert_eq!(text, r#"{"status":"ok","worker_id":"w-1"}"#);
    // Answered though its body never comes.
    let stranger = "POST /rpc HTTP/1.1\r\nHost: w\r\nConnection: close\r\nX-Worker-ID: w-1\r\n\
                    X-Worker-Token: wrong\r\nContent-Length: 1000000000\r\n\r\n";
    let (status, text) = talk(world.at, stranger.as_bytes()).await;
    assert_eq!(status, 401);
    assert!(text.contains("invalid or missing worker RPC credentials"), "{text}");
    for garbage in
        ["", "{", "[]", "null", "{\"id\":1}", "{\"id\":\"1\",\"method\":\"worker.runtimes\"}"]
    {
        let request = head("", garbage.len()) + garbage;
        assert_eq!(talk(world.at, request.as_bytes()).await.0, 400, "{garbage}");
    }
    let deep = "[".repeat(100_000);
    let deep = format!(r#"{{"id":"1","method":"worker.spawn","worker_id":"w-1","params":{deep}"#);
    assert_eq!(talk(world.at, (head("", deep.len()) + &deep).as_bytes()).await.0, 400);
    let header = format!("X-Worker-Envelope: {}\r\n", "A".repeat(70_000));
    assert_eq!(talk(world.at, head(&header, 0).as_bytes()).await.0, 400);
    let line = "X-Worker-Stream: ndjson\r\n";
    let endless = "a".repeat(9 << 20);
    let (status, _) = talk(world.at, (head(line, endless.len()) + &endless).as_bytes()).await;
    assert!([400, 0].contains(&status), "{status}");
}

#[tokio::test]
async fn an_upload_that_is_cut_on_the_wire_leaves_the_old_file() {
    let (_dir, world) = world().await;
    let id = spawned(&world).await;
    let guest = world.local.guest("mock", &id, Generation(1)).await.unwrap();
    let old = suite::body("old");
    guest.write("/workspace/f", WriteOptions::default(), old).await.unwrap();
    let envelope = json!({"id": "1", "method": "worker.file_write", "worker_id": "w-1",
        "lease": {"resource_id": id.as_str(), "holder_id": "w-1", "generation": 1},
        "params": {"sandbox_id": id.as_str(), "provider": "mock", "path": "/workspace/f"}});
    let envelope = stacyvm_fleet::wire::to_header(&envelope).unwrap();
    let envelope = format!("X-Worker-Envelope: {}\r\n", envelope.to_str().unwrap());
    let chunked = head(&envelope, 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let counted = head(&envelope, 1000);
    for (request, last) in [(chunked.clone() + "3\r\nnew\r\n", ""), (counted + "new", "")] {
        let mut stream = TcpStream::connect(world.at).await.unwrap();
        stream.write_all((request + last).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = suite::soon("the end", stream.read_to_end(&mut answer)).await;
        let names: Vec<_> = guest.list("/workspace").await.unwrap();
        assert_eq!(names.iter().map(|info| info.size).collect::<Vec<_>>(), [3]);
    }
    let read = guest.read("/workspace/f", None).await.unwrap();
    let pieces: Vec<_> = futures_util::StreamExt::collect(read.body).await;
    assert_eq!(pieces.into_iter().next().unwrap().unwrap(), "old");
    let (status, _) = talk(world.at, (chunked + "5\r\nwhole\r\n0\r\n\r\n").as_bytes()).await;
    assert_eq!((status, guest.stat("/workspace/f").await.unwrap().size), (200, 5));
}

/// Whatever is sent, the worker answers the next one.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_were_tampered_with_never_stop_the_worker() {
    let (_dir, world) = world().await;
    let id = spawned(&world).await;
    let lease = json!({"resource_id": id.as_str(), "holder_id": "w-1", "generation": 1});
    let call = |method: &str| {
        json!({"id": "1", "method": method, "worker_id": "w-1", "lease": lease, "params": {
            "sandbox_id": id.as_str(), "provider": "mock", "path": "/workspace/f", "port": 9,
            "command": "echo hi", "lines": 3, "exec_id": "ex-00000000000000000000", "offset": 2,
            "start": 1, "end": 5, "mode": "0644", "remaining_us": 9, "content": "YQ==",
            "pattern": "*", "image": "host", "memory_mb": 1, "vcpus": 1, "pids": 1, "disk_mb": 1,
            "stdin": true, "terminal": {"rows": 1, "cols": 1}, "deadline_us": 1000}})
    };
    let methods = [
        "spawn",
        "expect",
        "status",
        "runtimes",
        "set_deadline",
        "exec_stream",
        "exec_attach",
        "file_read",
        "file_write",
        "file_list",
        "file_glob",
        "logs",
        "stats",
        "dial",
    ];
    let forms = ["", "X-Worker-Stream: ndjson\r\n", "X-Worker-Stream: raw\r\nTE: trailers\r\n"];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0) % below
    };
    for _ in 0..400 {
        let method = format!("worker.{}", methods[random(methods.len())]);
        let mut body = call(&method).to_string().into_bytes();
        for _ in 0..1 + random(3) {
            let at = random(body.len());
            match random(4) {
                0 => body[at] = u8::try_from(random(256)).unwrap(),
                1 => body.truncate(at.max(1)),
                2 => drop(body.drain(at..(at + random(20)).min(body.len()))),
                _ => {
                    let words =
                        ["-1", "1e999", "18446744073709551615", "null", "{}", "\"\\u0000\""];
                    body.splice(at..at, words[random(words.len())].bytes());
                }
            }
            if body.is_empty() {
                body.push(b' ');
            }
        }
        let envelope = match random(4) {
            0 => {
                let text = String::from_utf8_lossy(&body).into_owned();
                let value = serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
                let header = stacyvm_fleet::wire::to_header(&value).unwrap();
                format!("X-Worker-Envelope: {}\r\n", header.to_str().unwrap())
            }
            _ => forms[random(forms.len())].to_owned(),
        };
        let length = body.len() + random(2);
        let mut stream = TcpStream::connect(world.at).await.unwrap();
        let head = head(&envelope, length);
        let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = suite::soon("an answer or the end", stream.read_to_end(&mut answer)).await;
    }
    let call = json!({"id": "1", "method": "worker.runtimes", "worker_id": "w-1"});
    assert_eq!(ask(world.at, &call).await.0, 200);
}
