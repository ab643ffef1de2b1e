//! Workers over HTTP: what they say, what operators see and do, and which credential opens what.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use stacyvm_api::{Access, AccessSettings, ApiConfig, Limits, Scope};
use stacyvm_fleet::identity::{
    Audience, KeyRing, Keys, Scope as Right, Secret,
    token::{self, Order},
};
use stacyvm_store::{Store as _, WorkerStore as _};
use stacyvm_types::{
    Generation, Network, SandboxId, Timestamp, WorkerId,
    time::{Clock as _, SystemClock},
};

use crate::{
    access::{ADMIN, ask, example, operator, somewhere, with},
    world::{Reply, World},
};

const KEY: &str = "a-key-that-signs-worker-tokens";
const SHARED: &str = "the-token-of-all-workers";
const OWN: &str = "the-token-of-w2-alone";

fn id(name: &str) -> WorkerId {
    WorkerId::parse(name).unwrap()
}

fn keys() -> Keys {
    Keys {
        shared: vec![Secret::new(SHARED)],
        tokens: [(id("w2"), vec![Secret::new(OWN)])].into(),
        signing: Some(Secret::new(KEY)),
        revoked: BTreeSet::from(["taken-back".to_owned()]),
        ..Keys::default()
    }
}

/// A closed server that knows credentials of workers.
async fn world() -> World {
    let settings = AccessSettings {
        trusted_proxies: Network::parse("127.0.0.1").into_iter().collect(),
        ..AccessSettings::default()
    };
    let config = ApiConfig {
        access: Arc::new(Access::new(settings, &operator(), false)),
        worker_keys: Arc::new(KeyRing::of(keys())),
        ..ApiConfig::default()
    };
    World::with(config, Limits::default()).await
}

/// What a worker of this release says.
fn says(instance: &str) -> Value {
    json!({
        "hostname": "rack-1", "status": "online", "instance": instance, "version": "1.2.3",
        "capacity": {
            "max_sandboxes": 4, "memory_mb": 8192, "vcpus": 8, "rpc_url": "https://10.0.0.7:7424",
        },
        "offers": [
            {"provider": "native", "default": true, "ready": true,
             "capabilities": ["exec", "images"], "images": ["alpine:latest"]},
            {"provider": "docker", "ready": false},
        ],
    })
}

async fn post(world: &World, path: &str, worker: &str, token: &str, body: &Value) -> Reply {
    let from = somewhere();
    let headers =
        [("x-worker-id", worker), ("x-worker-token", token), ("x-forwarded-for", from.as_str())];
    world.send(Method::POST, path, &headers, body.to_string()).await
}

async fn beat(world: &World, worker: &str, token: &str, body: &Value) -> Reply {
    post(world, &format!("/worker/{worker}/heartbeat"), worker, token, body).await
}

async fn admin(world: &World, method: Method, path: &str) -> Reply {
    with(world, method, path, ADMIN, "").await
}

fn order(worker: &str, scopes: &[Right]) -> Order {
    Order {
        worker: id(worker),
        audience: Audience::ControlPlane,
        scopes: scopes.iter().copied().collect(),
        ttl: token::USUAL,
        id: None,
    }
}

fn signed(order: &Order, now: Timestamp) -> String {
    token::sign(&keys(), order, now).unwrap().token.expose().to_owned()
}

/// A token of claims that nobody of ours would sign.
fn claimed(claims: &Value) -> String {
    let head = format!("{}.{}", token::VERSION, URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    mac.update(head.as_bytes());
    format!("{head}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// R4.1, R5.3: what a worker says is what operators see.
#[tokio::test]
async fn a_heartbeat_is_a_row_of_the_registry() {
    let world = world().await;
    let heard = beat(&world, "w1", SHARED, &says("a")).await;
    assert_eq!(heard.status, 200, "{}", heard.text());
    let heard = heard.json();
    assert_eq!((&heard["drain"], &heard["lease_expires_in"]), (&json!(false), &json!("30s")));
    assert!(Timestamp::parse(heard["server_time"].as_str().unwrap()).is_some());

    let one = admin(&world, Method::GET, "/workers/w1").await.json();
    for (key, value) in [
        ("id", json!("w1")),
        ("hostname", json!("rack-1")),
        ("status", json!("online")),
        ("providers", json!(["docker", "native"])),
        ("capabilities", json!(["exec", "images"])),
        (
            "capacity",
            json!({"max_sandboxes": 4, "memory_mb": 8192, "vcpus": 8, "rpc_url": "https://10.0.0.7:7424"}),
        ),
        ("stale", json!(false)),
        ("version", json!("1.2.3")),
        ("cordoned", json!(false)),
        ("load", json!({"sandboxes": 0, "memory_mb": 0, "vcpus": 0})),
    ] {
        assert_eq!(one[key], value, "{key}");
    }
    for key in ["last_heartbeat", "created_at", "updated_at", "lease_expires_at"] {
        assert!(Timestamp::parse(one[key].as_str().unwrap()).is_some(), "{key}: {one}");
    }
    assert!(one.get("instance").is_none());
    for path in ["/workers", "/admin/workers"] {
        let all = admin(&world, Method::GET, path).await.json();
        let ids: Vec<_> = all.as_array().unwrap().iter().map(|worker| &worker["id"]).collect();
        assert_eq!(ids, ["local", "w1"], "{path}");
        assert_eq!(all[1], admin(&world, Method::GET, &format!("{path}/w1")).await.json());
        // The server's own holds without end.
        assert!(all[0].get("lease_expires_at").is_none(), "{all}");
        for unknown in ["w9", "%20"] {
            let reply = admin(&world, Method::GET, &format!("{path}/{unknown}")).await;
            assert_eq!(reply.code(), "NOT_FOUND", "{path}/{unknown}");
        }
    }
}

/// R5.3: also the heartbeat of an earlier release, which knows less.
#[tokio::test]
async fn a_heartbeat_of_an_earlier_worker_is_heard() {
    let world = world().await;
    for (providers, status, said) in [
        (json!(["mock", "docker"]), "online", "online"),
        (json!("[\"docker\",\"mock\"]"), "ONLINE", "online"),
        (json!(["mock", "docker"]), "draining", "draining"),
    ] {
        let body = json!({
            "hostname": "rack-2", "status": status, "providers": providers,
            "capabilities": ["remote_worker", "heartbeat"],
            "capacity": {"max_sandboxes": 3, "max_sandboxes_per_owner": 1,
                         "preview_domain": "x.example", "rpc_url": "http://10.0.0.8:7424"},
        });
        let heard = beat(&world, "old", SHARED, &body).await;
        assert_eq!(heard.status, 200, "{}", heard.text());
        let heard = heard.json();
        assert_eq!(heard["providers"], json!(["docker", "mock"]));
        assert_eq!((&heard["status"], &heard["offers"][0]["ready"]), (&said.into(), &true.into()));
    }
    let bare = beat(&world, "bare", SHARED, &json!({})).await.json();
    assert_eq!((&bare["hostname"], &bare["providers"]), (&json!("bare"), &json!([])));
    let empty = post(&world, "/worker/old/heartbeat", "old", SHARED, &Value::Null).await;
    assert_eq!(empty.code(), "BAD_REQUEST");
}

/// R5.3: another instance under the id, or the id of this server's own worker, is refused.
#[tokio::test]
async fn an_id_belongs_to_one_instance() {
    let world = world().await;
    assert_eq!(beat(&world, "w1", SHARED, &says("a")).await.status, 200);
    let other = beat(&world, "w1", SHARED, &says("b")).await;
    assert_eq!(other.code(), "CONFLICT");
    assert!(other.text().contains("worker.id"), "{}", other.text());
    assert_eq!(beat(&world, "w1", SHARED, &says("a")).await.status, 200);
    assert_eq!(beat(&world, "local", SHARED, &says("a")).await.code(), "CONFLICT");
    let own = with(&world, Method::POST, "/admin/workers/local/heartbeat", ADMIN, "{}").await;
    assert_eq!(own.code(), "CONFLICT");
    let by_admin = with(&world, Method::POST, "/admin/workers/w7/heartbeat", ADMIN, "{}").await;
    assert_eq!(by_admin.json()["id"], "w7");
}

#[tokio::test]
async fn a_heartbeat_that_says_more_than_is_sane_is_refused() {
    let world = world().await;
    let many = |count: usize| (0..count).map(|n| format!("p{n}")).collect::<Vec<_>>();
    for body in [
        json!({"hostname": "h".repeat(256)}),
        json!({"hostname": "a\nb"}),
        json!({"status": "asleep"}),
        json!({"instance": "i".repeat(256)}),
        json!({"providers": many(33)}),
        json!({"providers": ["mock", "mock"]}),
        json!({"providers": "mock"}),
        json!({"offers": [{"ready": true}]}),
        json!({"offers": [{"provider": "mock", "capabilities": many(65)}]}),
        json!({"offers": [{"provider": "mock", "images": many(1001)}]}),
        json!({"capacity": {"max_sandboxes": -1}}),
        json!({"capacity": {"rpc_url": "file:///etc/passwd"}}),
        json!({"capacity": {"rpc_url": "http://user@10.0.0.7:1"}}),
        json!({"capacity": {"rpc_url": "http://10.0.0.7:1/path"}}),
        json!([]),
    ] {
        let refused = beat(&world, "w1", SHARED, &body).await;
        assert_eq!(refused.code(), "BAD_REQUEST", "{body}");
    }
    assert_eq!(admin(&world, Method::GET, "/workers/w1").await.status, 404, "none was heard");
}

/// R5.3, R6.5: each way to be wrong is refused at both routes.
#[tokio::test]
async fn a_worker_route_opens_to_its_worker_with_the_right_token_only() {
    let world = world().await;
    let now = SystemClock.now();
    let both = [Right::Heartbeat, Right::Lease];
    let good = order("w1", &both);
    let ago = Timestamp::from_micros(now.as_micros() - 10 * 60 * 1_000_000);
    let ahead = now.saturating_add(Duration::from_secs(120));
    let seconds = now.as_micros() / 1_000_000;
    let claims = |more: Value| {
        let mut claims = json!({
            "worker_id": "w1", "aud": "worker:control-plane", "iat": seconds,
            "exp": seconds + 60, "scopes": ["worker:heartbeat", "worker:lease"],
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claimed(&claims)
    };
    let mut tampered = signed(&good, now);
    let last = if tampered.pop() == Some('A') { 'E' } else { 'A' };
    tampered.push(last);
    let without_audience = claimed(&json!({
        "worker_id": "w1", "exp": seconds + 60, "scopes": ["worker:heartbeat", "worker:lease"],
    }));
    let wrong = [
        ("no token", String::new()),
        ("another token", "wrong".to_owned()),
        ("a key of the API", ADMIN.to_owned()),
        ("the token of another worker", OWN.to_owned()),
        ("signed for another worker", signed(&order("w2", &both), now)),
        ("for another audience", signed(&Order { audience: Audience::Rpc, ..good.clone() }, now)),
        ("for no audience", without_audience),
        ("expired", signed(&good, ago)),
        ("not valid yet", signed(&good, ahead)),
        ("for too long", claims(json!({"exp": seconds + 3600}))),
        ("with an unknown scope", claims(json!({"scopes": ["worker:heartbeat", "worker:all"]}))),
        ("revoked", signed(&Order { id: Some("taken-back".to_owned()), ..good.clone() }, now)),
        ("tampered", tampered),
        ("garbage", "stacyvm-worker-v1.a.b".to_owned()),
    ];
    let lease = "/worker/w1/leases/sb-00000000000000000000/renew";
    for path in ["/worker/w1/heartbeat", lease] {
        for (what, token) in &wrong {
            let refused = post(&world, path, "w1", token, &json!({})).await;
            assert_eq!(refused.code(), "UNAUTHORIZED", "{path} {what}");
            let message = refused.json()["message"].clone();
            assert_eq!(message, "invalid or missing worker credentials", "{path} {what}");
        }
        // Who it says it is must be who the path says it is.
        let other = post(&world, path, "w3", SHARED, &json!({})).await;
        assert_eq!(other.code(), "FORBIDDEN", "{path}");
        let none = world.send(Method::POST, path, &[("x-worker-token", SHARED)], "{}").await;
        assert_eq!(none.code(), "UNAUTHORIZED", "{path}");
    }
    // The shared token is not that of a worker with its own.
    assert_eq!(beat(&world, "w2", SHARED, &json!({})).await.code(), "UNAUTHORIZED");
    assert_eq!(beat(&world, "w2", OWN, &json!({})).await.status, 200);
    // Each right by itself.
    for (right, opens, shuts) in [
        (Right::Heartbeat, "/worker/w1/heartbeat", lease),
        (Right::Lease, lease, "/worker/w1/heartbeat"),
    ] {
        let token = signed(&order("w1", &[right]), now);
        let opened = post(&world, opens, "w1", &token, &json!({})).await.status;
        assert!(![401, 403, 503].contains(&opened.as_u16()), "{opens}: {opened}");
        assert_eq!(post(&world, shuts, "w1", &token, &json!({})).await.code(), "FORBIDDEN");
    }
    let bearer = format!("Bearer {}", signed(&good, now));
    let headers = [("x-worker-id", "w1"), ("authorization", &*bearer)];
    let heard = world.send(Method::POST, "/worker/w1/heartbeat", &headers, "{}").await;
    assert_eq!(heard.status, 200, "{}", heard.text());
}

/// R5.3: worker credentials open nothing else, and only the worker's own path.
#[tokio::test]
async fn a_workers_credential_opens_its_own_routes_and_no_other() {
    let world = world().await;
    let all: Vec<_> = Right::ALL.to_vec();
    let token = signed(&order("w1", &all), SystemClock.now());
    let mut opened = BTreeSet::new();
    for route in stacyvm_api::routes() {
        if route.scope == Scope::Probe {
            continue;
        }
        let own = route.path.starts_with("/api/v1/worker/");
        let path = example(&route.path.replace("/worker/{id}", "/worker/w1"));
        for token in [SHARED, &token] {
            let (from, bearer) = (somewhere(), format!("Bearer {token}"));
            for shown in [
                ("x-worker-token", token),
                ("authorization", &*bearer),
                ("x-api-key", token),
                ("x-admin-api-key", token),
            ] {
                let headers = [("x-worker-id", "w1"), ("x-forwarded-for", &*from), shown];
                let (status, _) = ask(&world, &route.method, &path, &headers).await;
                let is_key = shown.0.ends_with("api-key");
                if own && !is_key {
                    assert!(![401, 403].contains(&status), "{path} {}: {status}", shown.0);
                    opened.insert(route.operation);
                } else {
                    assert_eq!(status, 401, "{} {path} {}", route.method, shown.0);
                }
            }
        }
    }
    assert_eq!(opened, BTreeSet::from(["heartbeat", "renewLease"]));
}

/// R3.7: guessing tokens of workers is bounded as guessing keys is, and with it.
#[tokio::test]
async fn wrong_worker_tokens_from_one_address_are_soon_not_told_apart() {
    let world = world().await;
    let show = async |token: &str| {
        let headers =
            [("x-worker-id", "w1"), ("x-worker-token", token), ("x-forwarded-for", "203.0.113.9")];
        world.send(Method::POST, "/worker/w1/heartbeat", &headers, "{}").await
    };
    let mut refused = 0;
    let limited = loop {
        let reply = show("wrong").await;
        match reply.status.as_u16() {
            401 => refused += 1,
            _ => break reply,
        }
        assert!(refused < 100);
    };
    assert!(20 <= refused, "{refused}");
    assert_eq!(limited.code(), "RESOURCE_LIMIT");
    assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(show(SHARED).await.status, 200, "who has the token is in nobody's way");
}

/// R4.5, R6.5: only the holder renews, and only while it holds.
#[tokio::test]
async fn a_lease_is_renewed_by_its_holder() {
    let world = world().await;
    let made = with(&world, Method::POST, "/sandboxes", ADMIN, "{}").await.json();
    assert_eq!(made["worker_id"], "local", "R4.3");
    let sandbox = made["id"].as_str().unwrap();
    // Its holder is this server, whose lease has no end; nobody else renews it.
    let renewed = with(
        &world,
        Method::POST,
        &format!("/admin/workers/local/leases/{sandbox}/renew"),
        ADMIN,
        "",
    )
    .await;
    assert_eq!(renewed.status, 200, "{}", renewed.text());
    let lease = renewed.json()["lease"].clone();
    let expected = json!({
        "resource_id": sandbox, "resource_type": "sandbox", "holder_id": "local", "generation": 1,
    });
    assert_eq!(lease, expected);
    beat(&world, "w1", SHARED, &says("a")).await;
    for (path, body, code) in [
        (format!("/worker/w1/leases/{sandbox}/renew"), json!({"ttl": "5m"}), "CONFLICT"),
        ("/worker/w1/leases/sb-00000000000000000000/renew".to_owned(), json!({}), "CONFLICT"),
        ("/worker/w1/leases/nothing/renew".to_owned(), json!({}), "CONFLICT"),
        (format!("/worker/w1/leases/{sandbox}/renew"), json!({"ttl": "0s"}), "BAD_REQUEST"),
        (format!("/worker/w1/leases/{sandbox}/renew"), json!({"ttl": "-1m"}), "BAD_REQUEST"),
    ] {
        assert_eq!(post(&world, &path, "w1", SHARED, &body).await.code(), code, "{path} {body}");
    }
}

/// R4.5: a lease of a worker at a distance is renewed with the worker's own, until that has lapsed.
#[tokio::test]
async fn a_lease_that_has_lapsed_is_not_renewed() {
    let world = world().await;
    let made = with(&world, Method::POST, "/sandboxes", ADMIN, "{}").await.json();
    let sandbox = SandboxId::parse(made["id"].as_str().unwrap()).unwrap();
    beat(&world, "w1", SHARED, &says("a")).await;
    let (now, first) = (SystemClock.now(), Generation(1));
    world.store.release_lease(&sandbox, &id("local"), first).await.unwrap();
    world.store.acquire_lease(&sandbox, &id("w1"), Duration::ZERO, now).await.unwrap();
    let before = world.store.worker(&id("w1")).await.unwrap().unwrap();
    let path = format!("/worker/w1/leases/{sandbox}/renew");
    let renewed = post(&world, &path, "w1", SHARED, &json!({"ttl": "5m"})).await.json();
    assert_eq!(
        (&renewed["lease"]["holder_id"], &renewed["lease"]["generation"]),
        (&json!("w1"), &json!(2))
    );
    let after = world.store.worker(&id("w1")).await.unwrap().unwrap();
    assert!(before.lease_until < after.lease_until && before.beat == after.beat);
    let until = Timestamp::parse(renewed["lease"]["expires_at"].as_str().unwrap());
    assert_eq!(until, Some(after.lease_until));

    world.store.beat(after.beat, Some(Duration::ZERO), SystemClock.now()).await.unwrap();
    let lapsed = post(&world, &path, "w1", SHARED, &json!({})).await;
    assert_eq!(lapsed.code(), "CONFLICT");
    let shown = admin(&world, Method::GET, "/workers/w1").await.json();
    assert_eq!((&shown["status"], &shown["stale"]), (&json!("offline"), &json!(true)));
    let metrics = admin(&world, Method::GET, "/metrics").await.json();
    assert_eq!(metrics["workers"]["stale"], 1);
    assert_eq!(metrics["leases"]["expired"], 1);
}

/// R4.4: each worker that does not get it, with the reason.
#[tokio::test]
async fn an_explained_admission_gives_a_reason_for_every_worker() {
    let world = world().await;
    beat(&world, "w1", SHARED, &says("a")).await;
    let twin = json!({"offers": [{"provider": "mock", "ready": true}]});
    beat(&world, "w3", SHARED, &twin).await;
    admin(&world, Method::POST, "/admin/workers/w1/drain").await;
    let asked = "/sandboxes/admission?explain=true";
    let why = with(&world, Method::POST, asked, ADMIN, "{}").await.json();
    assert_eq!((&why["allowed"], &why["eligible_workers"]), (&json!(true), &json!(1)), "{why}");
    assert_eq!(why["selected_worker_id"], "local");
    let mut reasons = why["rejected_workers"].as_array().unwrap().clone();
    reasons.sort_by_key(|one| one["worker_id"].as_str().unwrap().to_owned());
    let told: Vec<_> = reasons
        .iter()
        .map(|one| (one["worker_id"].as_str().unwrap(), one["reason"].as_str().unwrap()))
        .collect();
    // These worlds have no way to workers elsewhere.
    let expected =
        [("w1", "it takes no new sandboxes"), ("w3", "this server has no way to call it")];
    assert_eq!(told, expected);
}

/// R5.7: what drains takes nothing new, until that is undone.
#[tokio::test]
async fn a_worker_that_drains_takes_nothing_new_until_that_is_undone() {
    let world = world().await;
    let spawn = async || with(&world, Method::POST, "/sandboxes", ADMIN, "{}").await;
    assert_eq!(spawn().await.status, 201);
    let drained = admin(&world, Method::POST, "/admin/workers/local/drain").await.json();
    assert_eq!((&drained["status"], &drained["cordoned"]), (&json!("draining"), &json!(true)));
    assert_eq!(drained["load"]["sandboxes"], 1, "what runs goes on");
    assert_eq!(spawn().await.code(), "RESOURCE_LIMIT");
    let asked = "/sandboxes/admission?explain=true";
    let why = with(&world, Method::POST, asked, ADMIN, "{}").await.json();
    assert_eq!(
        (&why["allowed"], &why["worker_reason"]),
        (&json!(false), &json!("no_eligible_worker"))
    );
    let rejected = json!([{"worker_id": "local", "reason": "it takes no new sandboxes"}]);
    assert_eq!(why["rejected_workers"], rejected);
    let metrics = admin(&world, Method::GET, "/metrics").await.json();
    assert_eq!(metrics["scheduler"]["eligible_workers"], 0);
    assert_eq!(
        (&metrics["workers"]["draining"], &metrics["workers"]["online"]),
        (&json!(1), &json!(0))
    );

    let undrained = admin(&world, Method::POST, "/admin/workers/local/undrain").await.json();
    assert_eq!((&undrained["status"], &undrained["cordoned"]), (&json!("online"), &json!(false)));
    assert_eq!(spawn().await.status, 201);
    let why = with(&world, Method::POST, asked, ADMIN, "{}").await.json();
    assert_eq!(
        (&why["selected_worker_id"], &why["eligible_workers"]),
        (&json!("local"), &json!(1))
    );
    let unknown = admin(&world, Method::POST, "/admin/workers/w9/drain").await;
    assert_eq!(unknown.code(), "NOT_FOUND");
}

/// R5.7: a worker is told with its next heartbeat that it is to drain.
#[tokio::test]
async fn a_heartbeat_is_answered_with_what_the_operator_wants() {
    let world = world().await;
    beat(&world, "w1", SHARED, &says("a")).await;
    admin(&world, Method::POST, "/admin/workers/w1/drain").await;
    let heard = beat(&world, "w1", SHARED, &says("a")).await.json();
    assert_eq!((&heard["drain"], &heard["status"]), (&json!(true), &json!("draining")));
    admin(&world, Method::POST, "/admin/workers/w1/undrain").await;
    assert_eq!(beat(&world, "w1", SHARED, &says("a")).await.json()["drain"], false);
}

/// R4.1: a worker that holds something is not forgotten.
#[tokio::test]
async fn a_worker_is_removed_once_it_holds_nothing() {
    let world = world().await;
    let made = with(&world, Method::POST, "/sandboxes", ADMIN, "{}").await.json();
    assert_eq!(admin(&world, Method::DELETE, "/admin/workers/local").await.code(), "CONFLICT");
    let id = made["id"].as_str().unwrap();
    assert_eq!(admin(&world, Method::DELETE, &format!("/sandboxes/{id}")).await.status, 200);
    beat(&world, "w1", SHARED, &says("a")).await;
    let removed = admin(&world, Method::DELETE, "/admin/workers/w1").await;
    assert_eq!((removed.status.as_u16(), removed.json()), (200, json!({"status": "deleted"})));
    assert_eq!(admin(&world, Method::DELETE, "/admin/workers/w1").await.code(), "NOT_FOUND");
    assert_eq!(admin(&world, Method::GET, "/workers/w1").await.code(), "NOT_FOUND");
}

/// R4.8: workers and leases by status and holder, wherever operators look.
#[tokio::test]
async fn the_figures_are_about_every_worker_of_the_registry() {
    let world = world().await;
    beat(&world, "w1", SHARED, &says("a")).await;
    with(&world, Method::POST, "/sandboxes", ADMIN, "{}").await;
    for path in ["/metrics", "/diagnostics"] {
        let figures = admin(&world, Method::GET, path).await.json();
        let items = json!([
            {"id": "local", "status": "online", "stale": false, "providers": ["mock"]},
            {"id": "w1", "status": "online", "stale": false, "providers": ["docker", "native"]},
        ]);
        assert_eq!(figures["workers"]["items"], items, "{path}");
        assert_eq!(figures["leases"]["by_holder"], json!({"local": 1}), "{path}");
    }
    let scrape = admin(&world, Method::GET, "/metrics/prometheus").await;
    for line in [
        "stacyvm_workers_total{status=\"total\"} 2",
        "stacyvm_workers_total{status=\"online\"} 2",
        "stacyvm_workers_total{status=\"stale\"} 0",
        "stacyvm_leases_total{status=\"active\"} 1",
        "stacyvm_leases_by_holder{worker=\"local\"} 1",
        "stacyvm_sandboxes_by_worker_total{worker=\"local\"} 1",
        "stacyvm_sandboxes_by_worker_total{worker=\"w1\"} 0",
    ] {
        assert!(scrape.text().lines().any(|known| known == line), "{line} in\n{}", scrape.text());
    }
}
