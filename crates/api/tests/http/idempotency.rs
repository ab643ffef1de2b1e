//! R3.10: requests that are sent again under their key.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde_json::{Value, json};
use stacyvm_control::Rules;

use crate::world::{Reply, World};

const REPLAYED: &str = "idempotency-replayed";

impl World {
    async fn keyed(&self, path: &str, key: &str, body: &Value) -> Reply {
        let headers = [("idempotency-key", key)];
        self.send(Method::POST, path, &headers, body.to_string()).await
    }

    async fn runs(&self, id: &str) -> String {
        let read = self.post(&format!("/sandboxes/{id}/exec"), r#"{"command":"cat runs"}"#).await;
        read.json()["stdout"].as_str().unwrap().to_owned()
    }

    async fn live(&self) -> usize {
        self.get("/sandboxes").await.json().as_array().unwrap().len()
    }
}

/// R3.10: a retry returns the first result, and another request is no retry.
#[tokio::test]
async fn a_repeated_spawn_answers_the_first_sandbox_and_another_request_is_refused() {
    let world = World::new().await;
    let body = json!({"metadata": {"a": "1"}, "ttl": "5m"});
    let first = world.keyed("/sandboxes", "k1", &body).await;
    assert_eq!((first.status.as_u16(), first.header(REPLAYED)), (201, ""));
    let text = r#" { "ttl" : "5m", "metadata" : {"a":"1"} } "#;
    let again = world.send(Method::POST, "/sandboxes/", &[("idempotency-key", "k1")], text).await;
    assert_eq!((again.status.as_u16(), again.header(REPLAYED)), (201, "true"));
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("content-type"), "application/json");
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));

    let other = world.keyed("/sandboxes", "k1", &json!({"ttl": "6m"})).await;
    assert_eq!(other.code(), "IDEMPOTENCY_KEY_REUSED");
    let elsewhere = world.keyed("/sandboxes/?x=1", "k1", &body).await;
    assert_eq!(elsewhere.code(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(world.live().await, 1);

    let id = first.json()["id"].as_str().unwrap().to_owned();
    world.delete(&format!("/sandboxes/{id}")).await;
    let late = world.keyed("/sandboxes", "k1", &body).await;
    assert_eq!(late.body, first.body, "what was answered stays the answer");
    assert_eq!(world.live().await, 0);
}

/// R3.10: many at once are one.
#[tokio::test]
async fn concurrent_requests_with_one_key_make_one_sandbox_and_hear_the_same() {
    let world = Arc::new(World::new().await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let world = world.clone();
        clients.spawn(async move { world.keyed("/sandboxes", "same", &json!({})).await });
    }
    let replies = clients.join_all().await;
    assert!(replies.iter().all(|reply| reply.status == 201 && reply.body == replies[0].body));
    let firsts = replies.iter().filter(|reply| reply.header(REPLAYED).is_empty()).count();
    assert_eq!((firsts, world.live().await), (1, 1));
}

#[tokio::test]
async fn keys_belong_to_a_user_and_a_route() {
    let world = World::new().await;
    let as_user = |user: &'static str| [("idempotency-key", "k"), ("x-user-id", user)];
    let ann = world.send(Method::POST, "/sandboxes", &as_user("ann"), "{}").await;
    let bob = world.send(Method::POST, "/sandboxes", &as_user("bob"), "{}").await;
    assert_eq!(
        (ann.json()["owner_id"].as_str(), bob.json()["owner_id"].as_str()),
        (Some("ann"), Some("bob"))
    );
    let template = json!({"name": "t", "image": "host"});
    assert_eq!(world.keyed("/templates", "k", &template).await.status, 201);
    assert_eq!(world.keyed("/templates/t/spawn", "k", &json!({})).await.status, 201);
    assert_eq!(world.live().await, 3);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_and_one_that_is_not_needed_is_ignored() {
    let world = World::new().await;
    let long = "k".repeat(256);
    for headers in [
        vec![("idempotency-key", "a b")],
        vec![("idempotency-key", "")],
        vec![("idempotency-key", long.as_str())],
        vec![("idempotency-key", "a"), ("idempotency-key", "a")],
    ] {
        let reply = world.send(Method::POST, "/sandboxes", &headers, "{}").await;
        assert_eq!(reply.code(), "BAD_REQUEST", "{headers:?}");
    }
    assert_eq!(world.live().await, 0);
    for body in [json!({"ttl": "5m"}), json!({"ttl": "6m"})] {
        let reply = world.keyed("/sandboxes/admission", "k", &body).await;
        assert_eq!((reply.status.as_u16(), reply.header(REPLAYED)), (200, ""));
    }
}

/// R3.10: a command runs once, whether it is answered at its end or as a stream.
#[tokio::test]
async fn a_repeated_command_runs_once_and_its_stream_is_followed_again_from_the_start() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let path = format!("/sandboxes/{id}/exec");
    let body = json!({"command": "echo ran >> runs; echo out; echo err >&2; exit 3"});
    let first = world.keyed(&path, "k", &body).await;
    let again = world.keyed(&path, "k", &body).await;
    assert_eq!((first.status.as_u16(), first.json()["exit_code"].as_i64()), (200, Some(3)));
    assert_eq!((again.body, again.headers[REPLAYED].as_bytes()), (first.body, &b"true"[..]));

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    assert_eq!(world.keyed(&path, "k", &streamed).await.code(), "IDEMPOTENCY_KEY_REUSED");
    let lines = [("idempotency-key", "k"), ("accept", "application/x-ndjson")];
    let as_lines = world.send(Method::POST, &path, &lines, body.to_string()).await;
    assert_eq!(as_lines.code(), "IDEMPOTENCY_KEY_REUSED");

    let first = world.keyed(&path, "s", &streamed).await;
    let again = world.keyed(&path, "s", &streamed).await;
    assert_eq!(again.header("content-type"), "application/x-ndjson");
    assert_eq!((&again.body, again.header(REPLAYED)), (&first.body, "true"));
    assert_eq!(again.header("x-exec-id"), first.header("x-exec-id"));
    assert_eq!(world.runs(&id).await, "ran\nran\n");
}

/// R3.10: a retry that comes while the first still runs waits for it, also when nobody waits for
/// the first any more.
#[tokio::test]
async fn a_client_that_goes_away_finds_the_answer_of_its_command_later() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let path = format!("/sandboxes/{id}/exec");
    let line = "echo ran >> runs; while [ ! -e go ]; do sleep 0.02; done; echo done";
    let body = json!({"command": line});
    {
        let leaving = world.keyed(&path, "k", &body);
        let started = async {
            while world.post(&path, r#"{"command":"test -e runs"}"#).await.json()["exit_code"] != 0
            {
            }
        };
        tokio::select! {
            _ = leaving => panic!("it waits for a file that is not there"),
            () = started => {}
        }
    }
    let unlike = json!({"command": "true"});
    let (again, other, _) =
        tokio::join!(world.keyed(&path, "k", &body), world.keyed(&path, "k", &unlike), async {
            // A request that is no repeat does not wait.
            world.post(&path, r#"{"command":"touch go"}"#).await
        },);
    assert_eq!(other.code(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!((again.json()["stdout"].as_str(), again.header(REPLAYED)), (Some("done\n"), "true"));
    assert_eq!(world.runs(&id).await, "ran\n");
}

/// An answer that is too long to keep comes from the sandbox's own journal.
#[tokio::test]
async fn a_long_answer_is_made_anew_without_running_the_command_again() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let path = format!("/sandboxes/{id}/exec");
    let body = json!({"command": "echo ran >> runs; head -c 400000 /dev/zero | tr '\\0' x"});
    let first = world.keyed(&path, "k", &body).await.json();
    let again = world.keyed(&path, "k", &body).await;
    assert_eq!(again.header(REPLAYED), "true");
    let again = again.json();
    assert_eq!(again["stdout"].as_str().map(str::len), Some(400_000));
    for field in ["stdout", "exit_code", "exec_id", "reason"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    for _ in 0..40 {
        world.post(&path, r#"{"command":"true"}"#).await;
    }
    assert_eq!(world.keyed(&path, "k", &body).await.code(), "NOT_FOUND", "all is forgotten");
    assert_eq!(world.runs(&id).await, "ran\n");
}

/// R3.10: what was answered stays the answer when limits are lowered, also where it is made anew.
#[tokio::test]
async fn a_limit_that_is_lowered_refuses_no_repeat() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let path = format!("/sandboxes/{id}/exec");
    let plain = json!({"command": "echo ran >> runs; echo out", "timeout": "5m"});
    let long = "echo ran >> runs; head -c 400000 /dev/zero | tr '\\0' x";
    let long = json!({"command": long, "timeout": "5m"});
    let mut streamed = plain.clone();
    streamed["stream"] = json!(true);
    let asked = [("plain", plain), ("streamed", streamed), ("long", long)];
    let mut firsts = Vec::new();
    for (key, body) in &asked {
        firsts.push(world.keyed(&path, key, body).await);
    }
    let runs = world.runs(&id).await;
    let mut rules = Rules::clone(&world.control.rules());
    rules.max_exec_timeout = Some(Duration::from_secs(1));
    world.control.set_rules(rules);
    for ((key, body), first) in asked.iter().zip(firsts) {
        let again = world.keyed(&path, key, body).await;
        assert_eq!((again.status.as_u16(), again.header(REPLAYED)), (200, "true"), "{key}");
        if *key == "long" {
            assert_eq!(again.json()["stdout"], first.json()["stdout"]);
        } else {
            assert_eq!(again.body, first.body, "{key}");
        }
        let new = world.keyed(&path, &format!("new-{key}"), body).await;
        assert_eq!(new.code(), "RESOURCE_LIMIT", "{key}");
    }
    assert_eq!(world.runs(&id).await, runs);
}

#[tokio::test]
async fn failures_that_a_repeat_cannot_cure_are_kept_and_others_are_not() {
    let world = World::new().await;
    let body = json!({"template": "t"});
    let first = world.keyed("/sandboxes", "k", &body).await;
    assert_eq!(first.code(), "NOT_FOUND");
    let template = json!({"name": "t", "image": "host", "setup": ["exit 7"]});
    assert_eq!(world.keyed("/templates", "k", &template).await.status, 201);
    let again = world.keyed("/sandboxes", "k", &body).await;
    assert_eq!((again.code().as_str(), again.header(REPLAYED)), ("NOT_FOUND", "true"));
    assert_eq!(again.json()["message"], first.json()["message"]);

    let greedy = json!({"ttl": "100000h"});
    for _ in 0..2 {
        let refused = world.keyed("/sandboxes", "greedy", &greedy).await;
        assert_eq!((refused.code().as_str(), refused.header(REPLAYED)), ("RESOURCE_LIMIT", ""));
    }
    let ended = world.keyed("/sandboxes", "setup", &body).await;
    assert_eq!(ended.code(), "CONFLICT");
    let again = world.keyed("/sandboxes", "setup", &body).await;
    assert_eq!((again.code().as_str(), again.header(REPLAYED)), ("CONFLICT", "true"));
    let slow = json!({"command": "echo ran >> runs; sleep 20", "timeout": "100ms"});
    let id = world.sandbox().await;
    let path = format!("/sandboxes/{id}/exec");
    for replayed in ["", "true"] {
        let reply = world.keyed(&path, "slow", &slow).await;
        assert_eq!((reply.code().as_str(), reply.header(REPLAYED)), ("TIMEOUT", replayed));
    }
    assert_eq!(world.runs(&id).await, "ran\n");
}

#[tokio::test]
async fn every_other_post_is_repeated_without_doing_it_again() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let at = format!("/sandboxes/{id}");
    let steps = [
        (format!("{at}/files"), json!({"path": "/workspace/a", "content": "one"})),
        (format!("{at}/files/chmod"), json!({"path": "/workspace/a", "mode": "0600"})),
        (
            format!("{at}/files/move"),
            json!({"old_path": "/workspace/a", "new_path": "/workspace/b"}),
        ),
        (format!("{at}/extend"), json!({"ttl": "40m"})),
        ("/templates".to_owned(), json!({"name": "t", "image": "host"})),
    ];
    let mut firsts = Vec::new();
    for (path, body) in &steps {
        let reply = world.keyed(path, "k", body).await;
        assert!(reply.status.is_success(), "{path}: {:?}", reply.body);
        firsts.push(reply);
    }
    let deadline = world.get(&at).await.json()["expires_at"].clone();
    for ((path, body), first) in steps.iter().zip(&firsts) {
        let again = world.keyed(path, "k", body).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{path}");
        assert_eq!(again.header(REPLAYED), "true", "{path}");
    }
    assert_eq!(world.get(&at).await.json()["expires_at"], deadline);
    let gone = world.get(&format!("{at}/files?path=/workspace/a")).await;
    assert_eq!(gone.code(), "NOT_FOUND", "the file was not written again");
}
