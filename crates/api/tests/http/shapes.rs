//! The shapes that published clients read.

use http::Method;
use serde_json::{Value, json};

use crate::world::{WORKER, World};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// R1.1: the keys of the published contract come first and in its order.
#[tokio::test]
async fn a_spawned_sandbox_has_the_published_shape() {
    let world = World::new().await;
    let reply = world.post("/sandboxes", r#"{"metadata":{"a":"b"},"owner_id":"ann"}"#).await;
    assert_eq!(reply.status, 201);
    let text = reply.text();
    let order = [
        "{\"id\":\"sb-",
        "\"state\":\"running\"",
        "\"provider\":\"mock\"",
        "\"image\":\"host\"",
        "\"memory_mb\":1024",
        "\"vcpus\":1",
        "\"owner_id\":\"ann\"",
        &format!("\"worker_id\":\"{WORKER}\""),
        "\"created_at\":\"",
        "\"expires_at\":\"",
        "\"metadata\":{\"a\":\"b\"}",
        "\"preview_domain\":\"localhost\"",
    ];
    let places: Vec<_> = order.iter().map(|part| text.find(part)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?} {text}");
    assert!(text.ends_with("}\n"));
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(world.get(&format!("/sandboxes/{id}")).await.json(), reply.json());
    assert_eq!(world.get("/sandboxes/").await.json(), json!([reply.json()]));

    let extended = world.post(&format!("/sandboxes/{id}/extend"), r#"{"ttl":"1h"}"#).await;
    assert_eq!((extended.status.as_u16(), &extended.json()["id"]), (200, &json!(id)));

    for _ in 0..2 {
        let gone = world.delete(&format!("/sandboxes/{id}")).await;
        assert_eq!((gone.status.as_u16(), gone.text()), (200, "{\"status\":\"destroyed\"}\n"));
    }
    let ended = world.get(&format!("/sandboxes/{id}")).await;
    assert_eq!(ended.code(), "NOT_FOUND");
    assert_eq!(ended.json()["message"], format!("sandbox destroyed: {id}"));
    assert_eq!(ended.json()["details"]["cause"]["kind"], "requested");
    let row = world.get(&format!("/sandboxes/{id}?include=ended")).await.json();
    assert_eq!((&row["state"], &row["cause"]["kind"]), (&json!("destroyed"), &json!("requested")));
    assert_eq!(world.get("/sandboxes").await.text(), "[]\n");
}

#[tokio::test]
async fn an_id_that_cannot_exist_is_not_found_and_already_destroyed() {
    let world = World::new().await;
    let reply = world.get("/sandboxes/sb-nope").await;
    assert_eq!(reply.code(), "NOT_FOUND");
    assert_eq!(reply.json()["message"], "sandbox not found: sb-nope");
    for id in ["sb-nope", "sb-00000000000000000000", "%0a%00", "%ff"] {
        let gone = world.delete(&format!("/sandboxes/{id}")).await;
        assert!(gone.status == 200 || id == "%ff", "{id}");
    }
    let long = world.get(&format!("/sandboxes/{}", "x".repeat(5000))).await;
    assert!(long.json()["message"].as_str().unwrap().len() < 200);
}

/// Published clients refuse any other key in these two.
#[tokio::test]
async fn admission_and_quota_summary_have_exactly_their_keys() {
    let world = World::new().await;
    world.sandbox().await;
    let reply = world.post("/sandboxes/admission", "{}").await.json();
    assert_eq!(reply["allowed"], true);
    let known = [
        "allowed",
        "queueable",
        "reason",
        "active_sandboxes",
        "max_sandboxes",
        "active_owner_sandboxes",
        "max_owner_sandboxes",
        "max_ttl",
    ];
    assert!(keys(&reply).iter().all(|key| known.contains(key)), "{reply}");
    assert_eq!((&reply["active_sandboxes"], &reply["max_ttl"]), (&json!(1), &json!("24h0m0s")));
    assert_eq!(
        world.get("/quotas/summary").await.text(),
        "{\"total\":0,\"with_max_sandboxes\":0,\"with_max_ttl\":0,\"with_max_exec_timeout\":0}\n"
    );
    assert_eq!(world.get("/pool/status").await.text(), "{\"enabled\":false}\n");
    assert_eq!(world.delete("/sandboxes").await.text(), "{\"pruned\":0}\n");
    for empty in ["/quotas", "/snapshots", "/templates/"] {
        assert_eq!(world.get(empty).await.text(), "[]\n", "{empty}");
    }
}

/// R1.2: the synchronous reply, a non-zero code included.
#[tokio::test]
async fn a_command_answers_with_its_code_and_its_output() {
    let world = World::new().await;
    let path = format!("/sandboxes/{}/exec", world.sandbox().await);
    let reply = world.post(&path, r#"{"command":"echo hi; echo err >&2; exit 3"}"#).await;
    let body = reply.json();
    assert_eq!(reply.status, 200, "{body}");
    assert_eq!((&body["exit_code"], &body["reason"]), (&json!(3), &json!("exit")));
    assert_eq!((&body["stdout"], &body["stderr"]), (&json!("hi\n"), &json!("err\n")));
    assert!(body["exec_id"].as_str().unwrap().starts_with("ex-"));
    assert!(body["duration"].as_str().unwrap().ends_with('s') && body.get("truncated").is_none());

    let argv = r#"{"command":"printf","args":["%s|","a b","$HOME"],"mode":"argv"}"#;
    assert_eq!(world.post(&path, argv).await.json()["stdout"], "a b|$HOME|");
    let fed = world.post(&path, r#"{"command":"cat","stdin":"fed"}"#).await;
    assert_eq!(fed.json()["stdout"], "fed");
    let bytes = world.post(&path, r#"{"command":"printf '\\377\\302\\205'"}"#).await;
    assert_eq!(bytes.json()["stdout"], "\u{fffd}\u{85}");
    assert!(bytes.text().contains("\\u0085"), "{}", bytes.text());

    let late = world.post(&path, r#"{"command":"sleep 20","timeout":"100ms"}"#).await;
    assert_eq!(late.code(), "TIMEOUT");
    let message = late.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("exec timeout: sb-"), "{message}");
    let none = world.post(&path, r#"{"command":"/nope","mode":"argv"}"#).await;
    assert_eq!(none.code(), "NOT_EXECUTABLE");
}

#[tokio::test]
async fn a_ttl_above_the_longest_one_is_a_limit() {
    let world = World::new().await;
    let reply = world.post("/sandboxes", r#"{"ttl":"25h"}"#).await;
    assert_eq!(reply.code(), "RESOURCE_LIMIT");
    let message = "resource limit exceeded: ttl exceeds max ttl 24h0m0s";
    assert_eq!(reply.json()["message"], message);
    let image = world.post("/sandboxes", r#"{"image":"alpine:latest"}"#).await;
    if image.status != 201 {
        assert_eq!(image.code(), "NOT_FOUND");
        assert!(image.text().contains("stacyvm image import"), "{}", image.text());
    }
    let provider = world.post("/sandboxes", r#"{"provider":"nope"}"#).await;
    assert_eq!(provider.json()["message"], "provider not found: nope");
}

/// R1.4: both vocabularies, and a spawn without any body.
#[tokio::test]
async fn a_template_speaks_both_vocabularies() {
    let world = World::new().await;
    let saved = r#"{"name":"t","image":"host","memory_mb":256,"vcpus":2,"ttl":"1h","provider":"","metadata":{}}"#;
    let made = world.post("/templates", saved).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let body = made.json();
    assert_eq!((&body["vcpus"], &body["cpu_cores"]), (&json!(2), &json!(2)));
    assert_eq!((&body["ttl"], &body["ttl_seconds"]), (&json!("1h0m0s"), &json!(3600)));
    assert_eq!(world.post("/templates", saved).await.code(), "CONFLICT");
    let torn = r#"{"name":"u","image":"host","vcpus":2,"cpu_cores":3}"#;
    assert_eq!(world.post("/templates", torn).await.code(), "BAD_REQUEST");

    let changed =
        world.send(Method::PUT, "/templates/t", &[], r#"{"ttl_seconds":60,"cpu_cores":1}"#).await;
    let body = changed.json();
    assert_eq!(
        (&body["ttl"], &body["vcpus"], &body["memory_mb"]),
        (&json!("1m0s"), &json!(1), &json!(256))
    );

    let user = [("x-user-id", "ann")];
    let spawned = world.send(Method::POST, "/templates/t/spawn", &user, "").await;
    assert_eq!(spawned.status, 201, "{:?}", spawned.body);
    let body = spawned.json();
    assert_eq!((&body["template"], &body["memory_mb"]), (&json!("t"), &json!(256)));
    assert_eq!(body["owner_id"], "ann");
    assert_eq!(world.post("/templates/t/spawn", "{}").await.status, 201);
    assert_eq!(world.delete("/templates/t/").await.text(), "{\"status\":\"deleted\"}\n");
    let gone = world.get("/templates/t").await;
    assert_eq!(gone.json()["message"], "not found: template \"t\"");
}

/// R2.1: the three health routes.
#[tokio::test]
async fn the_server_says_how_it_is() {
    let world = World::new().await;
    assert_eq!(world.get("/health").await.json()["status"], "ok");
    assert_eq!(world.get("/live").await.json()["status"], "alive");
    let ready = world.get("/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["status"]), (200, &json!("ready")));
    assert_eq!(ready.json()["store"]["healthy"], true);
    let listed = world.get("/providers").await.json();
    assert_eq!(listed[0], ready.json()["providers"][0]);
    assert_eq!(listed[0]["default"], true);
    let detail = world.get("/providers/mock").await.json();
    assert_eq!((&detail["health"]["name"], &detail["sandbox_count"]), (&json!("mock"), &json!(0)));
    assert_eq!(world.post("/providers/test", "").await.json(), json!({"mock": true}));
    assert_eq!(world.get("/providers/nope").await.json()["message"], "provider not found: nope");
    let stats = world.get(&format!("/sandboxes/{}/stats", world.sandbox().await)).await;
    assert!(stats.json()["supported"].is_boolean());
}
