//! R3.9: a streamed command and a synchronous one are refused alike, before the first byte.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use stacyvm_store::{Durability, Store as _, WorkerStore as _};
use stacyvm_types::{SandboxId, Transition};

use crate::{
    sockets::{connect, say, until},
    world::World,
};

/// The status and the envelope without its request id.
async fn refusal(world: &World, path: &str, body: &str) -> (u16, Value) {
    let reply = world.post(path, body).await;
    let kind = reply.header("content-type");
    assert_eq!(kind, "application/json", "{path} {body}: {:?}", reply.body);
    reply.code();
    let mut body = reply.json();
    body.as_object_mut().unwrap().remove("request_id");
    (reply.status.as_u16(), body)
}

#[tokio::test]
async fn streamed_and_synchronous_commands_are_refused_alike() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let spawned = world.post("/sandboxes", r#"{"ttl":"1ms"}"#).await.json();
    let expired = spawned["id"].as_str().unwrap().to_owned();
    while world.get(&format!("/sandboxes/{expired}")).await.status != 404 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let destroyed = world.sandbox().await;
    world.delete(&format!("/sandboxes/{destroyed}")).await;
    let lost = world.sandbox().await;
    let row = world.control.get(&SandboxId::parse(&lost).unwrap()).await.unwrap();
    let transition = Transition::Lost("its worker is silent".to_owned());
    let hear = async |term| {
        let known = world.store.worker(&row.spec.worker).await.unwrap().unwrap();
        world.store.beat(known.beat, term, row.updated_at).await.unwrap();
    };
    hear(Some(Duration::ZERO)).await;
    world
        .store
        .transition(
            &row.spec.id,
            row.generation,
            transition,
            vec![],
            Durability::Disk,
            row.updated_at,
        )
        .await
        .unwrap();
    hear(None).await;
    let fine = || json!({"command": "true"});
    let with = |key: &str, value: Value| {
        let mut body = fine();
        body[key] = value;
        body
    };
    let crashed = world.sandbox().await;
    world.mock.crash(&SandboxId::parse(&crashed).unwrap()).unwrap();
    let unknown = "sb-00000000000000000000";
    let argv = json!({"command": "/no/such/program", "mode": "argv"});
    let cases = [
        (unknown, fine(), 404),
        ("sb-nope", fine(), 404),
        (expired.as_str(), fine(), 404),
        (destroyed.as_str(), fine(), 404),
        (lost.as_str(), fine(), 409),
        (crashed.as_str(), fine(), 503),
        (id.as_str(), with("timeout", json!("soon")), 400),
        (&id, with("timeout", json!("-1s")), 400),
        (&id, with("timeout", json!(5)), 400),
        (&id, with("timeout", json!("11m")), 429),
        (&id, with("command", json!(7)), 400),
        (&id, with("command", json!("a\0b")), 400),
        (&id, with("mode", json!("exec")), 400),
        (&id, json!({"mode": "argv"}), 400),
        (&id, with("workdir", json!("relative")), 400),
        (&id, with("workdir", json!("/no/such/directory")), 404),
        (&id, with("env", json!({"A=B": ""})), 400),
        (&id, with("exec_id", json!("x")), 400),
        (&id, with("tty", json!({"rows": 1, "cols": 1})), 400),
        (&id, with("command", json!("x".repeat(1_100_000))), 413),
        (&id, with("command", json!("x".repeat(2_200_000))), 413),
        (&id, argv, 422),
    ];
    for (sandbox, body, status) in cases {
        let path = format!("/sandboxes/{sandbox}/exec");
        let plain = refusal(&world, &path, &body.to_string()).await;
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        let streamed = refusal(&world, &path, &streamed.to_string()).await;
        let shown = body.to_string();
        let shown = &shown[..shown.len().min(80)];
        assert_eq!(plain, streamed, "{sandbox} {shown}");
        assert_eq!(plain.0, status, "{sandbox} {shown}: {}", plain.1);
    }
    for body in ["", "[]", "{", "null"] {
        let path = format!("/sandboxes/{id}/exec");
        let accept = [("accept", "application/x-ndjson")];
        let plain = world.post(&path, body).await;
        let streamed = world.send(http::Method::POST, &path, &accept, body).await;
        let told = |reply: &crate::world::Reply| {
            (reply.status, reply.code(), reply.json()["message"].clone())
        };
        assert_eq!(told(&plain), told(&streamed), "{body:?}");
        assert_eq!(plain.status, 400);
    }
}

/// R3.9: whichever way a caller follows a command, leaving it is recorded as nothing, and the
/// command's end as what it is.
#[tokio::test]
async fn a_caller_that_leaves_is_neither_a_timeout_nor_a_failure() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let path = format!("/sandboxes/{id}/exec");
    let at = format!("/api/v1{path}");
    let begun = |name: &str| format!("touch {name}; until [ -e go ]; do sleep 0.05; done");
    let file = |name: &str| format!("/sandboxes/{id}/files/stat?path=/workspace/{name}");
    let there = async |name: &str| {
        while world.get(&file(name)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Waited for.
    let body = json!({"command": begun("sync")}).to_string();
    let left = world.open(Method::POST, &at, &[], body);
    tokio::select! {
        _ = left => panic!("it goes on"),
        () = there("sync") => {}
    }
    // As lines.
    let body = json!({"command": begun("lines"), "stream": true}).to_string();
    drop(world.open(Method::POST, &at, &[], body).await);
    there("lines").await;
    // Over a WebSocket, without a goodbye.
    let mut socket = connect(&world, &format!("{path}/ws")).await.unwrap();
    say(&mut socket, json!({"command": begun("socket")})).await;
    until(&mut socket, |frame| frame["type"] == "started").await;
    there("socket").await;
    drop(socket);
    let body = json!({"path": "/workspace/go", "content": ""}).to_string();
    assert_eq!(world.post(&format!("/sandboxes/{id}/files"), &body).await.status, 200);
    let records = format!("/admin/audit/operations?sandbox={id}");
    let rows = loop {
        let rows = world.get(&records).await.json().as_array().unwrap().clone();
        let ended = |row: &&Value| row["action"].as_str().unwrap().starts_with("exec");
        if rows.iter().filter(ended).count() == 3 {
            break rows;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    // Looking for files that are not there yet fails; nothing else did.
    let failed: Vec<_> = rows.iter().filter(|row| row["status"] == "failure").collect();
    assert!(failed.iter().all(|row| row["action"] == "file.stat"), "{failed:?}");
    let kinds = "exec.failed,exec.timeout";
    let none = stacyvm_store::EventFilter {
        kinds: kinds.split(',').filter_map(stacyvm_types::EventKind::parse).collect(),
        ..stacyvm_store::EventFilter::default()
    };
    assert_eq!(world.store.events(0, 100, none).await.unwrap(), []);
}
