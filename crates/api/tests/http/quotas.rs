//! Quotas and the admission question over HTTP.

use http::StatusCode;
use serde_json::json;
use stacyvm_admission::Policy;
use stacyvm_control::{Overflow, Rules};

use crate::{
    IS_REMOTE,
    world::{OWN, WORKER, World},
};

/// R3.1
#[tokio::test]
async fn a_quota_is_saved_shown_used_and_deleted() {
    let world = World::new().await;
    let missing = world.get("/quotas/ann").await;
    assert_eq!(missing.code(), "NOT_FOUND");
    assert_eq!(missing.json()["message"], "not found: quota \"ann\"");
    let body = r#"{"max_sandboxes":1,"max_ttl":"1h","max_exec_timeout":"0s","weight":3}"#;
    let saved = world.put("/quotas/ann", body).await;
    assert_eq!(saved.status, StatusCode::OK);
    let saved = saved.json();
    for (key, value) in [
        ("owner_id", json!("ann")),
        ("max_sandboxes", json!(1)),
        ("max_ttl", json!("1h0m0s")),
        ("max_exec_timeout", json!("0s")),
        ("weight", json!(3)),
    ] {
        assert_eq!(saved[key], value, "{key}");
    }
    assert_eq!(world.get("/admin/quotas/ann").await.json(), saved);
    assert_eq!(world.get("/quotas").await.json(), json!([saved]));
    let counts = json!({
        "total": 1, "with_max_sandboxes": 1, "with_max_ttl": 1, "with_max_exec_timeout": 0
    });
    assert_eq!(world.get("/quotas/summary").await.json(), counts);

    let spawn = r#"{"owner_id":"ann","ttl":"30m"}"#;
    assert_eq!(world.post("/sandboxes", spawn).await.status, StatusCode::CREATED);
    let refused = world.post("/sandboxes", spawn).await;
    assert_eq!(refused.code(), "RESOURCE_LIMIT");
    let message = "resource limit exceeded: max sandboxes per owner reached (1)";
    assert_eq!(refused.json()["message"], message);
    let long = world.post("/sandboxes", r#"{"owner_id":"ann","ttl":"61m"}"#).await;
    assert_eq!(long.json()["message"], "resource limit exceeded: ttl exceeds max ttl 1h0m0s");
    let usage = json!({
        "owner_id": "ann", "active_sandboxes": 1, "max_sandboxes": 1, "max_ttl": "1h0m0s",
        "max_exec_timeout": "10m0s", "quota_configured": true
    });
    assert_eq!(world.get("/quotas/ann/usage").await.json(), usage);

    // A PUT is all of the quota.
    assert_eq!(world.put("/quotas/ann", "{}").await.json()["max_sandboxes"], 0);
    assert_eq!(world.delete("/quotas/ann").await.json()["status"], "deleted");
    assert_eq!(world.delete("/quotas/ann").await.code(), "NOT_FOUND");
    assert_eq!(world.get("/quotas/nobody/usage").await.json()["quota_configured"], false);
}

/// R9.5: what cannot be right is a 400 that says what would be.
#[tokio::test]
async fn a_quota_that_cannot_be_right_is_refused() {
    let world = World::new().await;
    for (body, said) in [
        (r#"{"max_sandboxes":-1}"#, "max_sandboxes"),
        (r#"{"max_ttl":"-1h"}"#, "max_ttl"),
        (r#"{"max_ttl":"500ms"}"#, "whole number of seconds"),
        (r#"{"max_exec_timeout":"1.5s"}"#, "whole number of seconds"),
        (r#"{"max_exec_timeout":"soon"}"#, "max_exec_timeout"),
        (r#"{"weight":101}"#, "weight must be between 1 and 100"),
        ("[]", "JSON object"),
    ] {
        let reply = world.put("/quotas/ann", body).await;
        assert_eq!(reply.code(), "BAD_REQUEST", "{body}");
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(said), "{body}: {message}");
    }
    for owner in ["a%2Fb", "a%20b", &"x".repeat(129)] {
        assert_eq!(world.put(&format!("/quotas/{owner}"), "{}").await.code(), "BAD_REQUEST");
    }
    // The counts have this path, so no owner has this name here.
    let summary = world.put("/quotas/summary", "{}").await;
    assert_eq!(summary.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(world.get("/quotas").await.json(), json!([]));
}

/// R3.6: reasons are for those who ask for them.
#[tokio::test]
async fn the_admission_question_gives_its_reasons_when_asked() {
    let world = World::new().await;
    world.control.set_rules(Rules {
        policy: Policy { max_sandboxes: 1, ..Policy::default() },
        overflow: Overflow::Queue { places: 5, patience: std::time::Duration::from_secs(5) },
        ..Rules::default()
    });
    world.sandbox().await;
    let plain = world.post("/sandboxes/admission", "{}").await.json();
    assert_eq!((&plain["allowed"], &plain["queueable"]), (&json!(false), &json!(true)));
    assert_eq!(plain["reason"], "max_sandboxes");
    assert_eq!(plain.get("queue_position"), None);
    let explained = world.post("/sandboxes/admission?explain=true", "{}").await.json();
    assert_eq!(explained["reason"], "max_sandboxes");
    assert_eq!(explained["selected_worker_id"], WORKER);
    assert_eq!(explained["queue_position"], 1);
    let own = json!({"worker_id": OWN, "reason": "it does not have the provider"});
    let rejected = if IS_REMOTE { json!([own]) } else { json!([]) };
    assert_eq!(explained["rejected_workers"], rejected);
    let unknown =
        world.post("/sandboxes/admission?explain=true", r#"{"provider":"x"}"#).await.json();
    assert_eq!(unknown["worker_reason"], "no_eligible_worker");
    assert_eq!(unknown["rejected_workers"][0]["worker_id"], WORKER);
    let priority = world.post("/sandboxes", r#"{"priority":10}"#).await;
    assert_eq!(priority.code(), "BAD_REQUEST");
    let why = world.post("/sandboxes/admission?explain=perhaps", "{}").await;
    assert_eq!(why.code(), "BAD_REQUEST");
}
