//! Who may call what: every route of the table under every kind of credential.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::Method;
use serde_json::json;
use stacyvm_api::{
    Access, AccessSettings, ApiConfig, Authentication, KeyBy, Limits, OperatorKeys, RateLimit,
    Scope,
};
use stacyvm_control::NewKey;
use stacyvm_fleet::identity::{Audience, KeyRing, Keys, Scope as Right, Secret, token};
use stacyvm_types::{
    Network, OwnerId, Role, SandboxId, Timestamp, WorkerId,
    time::{Clock as _, SystemClock},
};

use crate::world::{Reply, World};

const API: &str = "the-operators-own-key";
pub(crate) const ADMIN: &str = "the-operators-admin-key";

pub(crate) fn operator() -> OperatorKeys {
    OperatorKeys { api: Some(API.to_owned()), admin: Some(ADMIN.to_owned()) }
}

pub(crate) async fn world_with(settings: AccessSettings, keys: &OperatorKeys) -> World {
    let access = Arc::new(Access::new(settings, keys, false));
    let config = ApiConfig {
        access,
        allowed_origins: vec!["https://dash.example".to_owned()],
        ..ApiConfig::default()
    };
    World::with(config, Limits::default()).await
}

/// A closed server that believes what this machine says about where requests come from.
pub(crate) async fn closed() -> World {
    let settings = AccessSettings {
        trusted_proxies: Network::parse("127.0.0.1").into_iter().collect(),
        ..AccessSettings::default()
    };
    world_with(settings, &operator()).await
}

pub(crate) fn new_key(name: &str, role: Role) -> NewKey {
    NewKey { name: name.to_owned(), role, owner: None, speaks_for_others: false, ttl: None }
}

pub(crate) async fn key(world: &World, new: NewKey) -> String {
    world.control.create_key(new).await.unwrap().text
}

async fn key_of(world: &World, owner: &str) -> String {
    let name = format!("of-{owner}");
    let owner = OwnerId::parse(owner).ok();
    key(world, NewKey { owner, ..new_key(&name, Role::Api) }).await
}

pub(crate) async fn with(
    world: &World,
    method: Method,
    path: &str,
    key: &str,
    body: &str,
) -> Reply {
    world.send(method, path, &[("x-api-key", key)], body.to_owned()).await
}

/// A path of a route with something that cannot exist in place of its parameters.
pub(crate) fn example(path: &str) -> String {
    path.replace("{exec_id}", "ex-00000000000000000000")
        .replace("{*name}", "nothing")
        .replace("{id}", "sb-00000000000000000000")
        .split('/')
        .map(|part| if part.starts_with('{') { "nothing" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

/// The status and, of an error, the message. Streams are not waited for.
pub(crate) async fn ask(
    world: &World,
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String) {
    let (parts, body, _owner) = world.open(method.clone(), path, headers, "").await;
    if parts.status.as_u16() < 400 || *method == Method::HEAD {
        return (parts.status.as_u16(), String::new());
    }
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    (parts.status.as_u16(), body["message"].as_str().unwrap_or_default().to_owned())
}

/// Another address for each request, so that wrong keys are not counted together.
pub(crate) fn somewhere() -> String {
    static NEXT: OnceLock<std::sync::atomic::AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| std::sync::atomic::AtomicU32::new(0));
    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    std::net::Ipv4Addr::from_bits(0xc633_0000 + number).to_string()
}

/// R9.1: the result equals the table, for every route and everyone.
#[tokio::test]
async fn every_route_answers_exactly_those_whom_the_table_names() {
    let world = closed().await;
    let of_role = |role: Role| key(&world, new_key(role.as_str(), role));
    let past = NewKey { ttl: Some(Duration::from_nanos(1)), ..new_key("past", Role::Admin) };
    let expired = key(&world, past).await;
    let revoked = world.control.create_key(new_key("gone", Role::Admin)).await.unwrap();
    world.control.revoke_key(&revoked.key.id).await.unwrap();
    let mut other_secret = of_role(Role::Admin).await;
    let last = if other_secret.pop() == Some('0') { '1' } else { '0' };
    other_secret.push(last);
    let callers = [
        (None, None),
        (Some("wrong".to_owned()), None),
        (Some(other_secret), None),
        (Some(expired), None),
        (Some(revoked.text), None),
        (Some(of_role(Role::Viewer).await), Some(Scope::Read)),
        (Some(of_role(Role::Api).await), Some(Scope::Api)),
        (Some(of_role(Role::Operator).await), Some(Scope::Operator)),
        (Some(key(&world, new_key("root", Role::Admin)).await), Some(Scope::Admin)),
        (Some(API.to_owned()), Some(Scope::Api)),
        (Some(ADMIN.to_owned()), Some(Scope::Admin)),
    ];
    let routes = stacyvm_api::routes();
    assert!(30 < routes.len());
    for route in routes {
        let path = example(&route.path);
        for (credential, may) in &callers {
            let from = somewhere();
            let mut headers = vec![("x-forwarded-for", from.as_str())];
            headers.extend(credential.iter().map(|key| ("x-api-key", key.as_str())));
            let (status, message) = ask(&world, &route.method, &path, &headers).await;
            let case = format!("{} {path} as {may:?}: {status} {message}", route.method);
            if route.scope == Scope::Probe {
                assert!(![401, 403].contains(&status), "{case}");
                continue;
            }
            if let Scope::Worker(_) = route.scope {
                // No key is a worker's credential, and none of those is configured.
                let expected = (503, "worker token is not configured");
                assert_eq!((status, &*message), expected, "{case}");
                continue;
            }
            match may {
                None => {
                    assert_eq!((status, &*message), (401, "invalid or missing API key"), "{case}")
                }
                Some(may) if *may < route.scope => {
                    let right = if path.contains("/admin") {
                        "admin API key required"
                    } else {
                        "required authorization scope missing"
                    };
                    assert_eq!((status, &*message), (403, right), "{case}");
                }
                Some(_) => assert!(![401, 403].contains(&status), "{case}"),
            }
        }
    }
}

/// R9.1: what does not exist is not told to strangers either.
#[tokio::test]
async fn a_path_that_does_not_exist_is_told_to_those_with_a_credential() {
    let world = closed().await;
    for (path, status) in [("/nothing", 404), ("/sandboxes/admission", 405)] {
        assert_eq!(world.get(path).await.code(), "UNAUTHORIZED", "{path}");
        assert_eq!(with(&world, Method::GET, path, API, "").await.status, status, "{path}");
    }
    let head = world.send(Method::HEAD, "/sandboxes", &[], "").await;
    assert_eq!(head.status, 401, "HEAD demands what GET demands");
    assert_eq!(head.header("www-authenticate"), "Bearer");
}

#[tokio::test]
async fn a_credential_is_taken_from_any_of_its_headers() {
    let world = closed().await;
    let bearer = format!("Bearer {API}");
    for header in [("x-api-key", API), ("x-admin-api-key", API), ("authorization", &bearer)] {
        let reply = world.send(Method::GET, "/sandboxes", &[header], "").await;
        assert_eq!(reply.status, 200, "{header:?}");
    }
}

/// R2.1: a probe needs no credential, and tells strangers one word.
#[tokio::test]
async fn probes_tell_strangers_one_word_and_others_everything() {
    let world = closed().await;
    for (path, word) in [("/live", "alive"), ("/ready", "ready")] {
        let bare = world.get(path).await;
        assert_eq!(bare.text(), format!("{{\"status\":\"{word}\"}}\n"));
        let wrong = with(&world, Method::GET, path, "wrong", "").await;
        assert_eq!((wrong.status.as_u16(), wrong.body), (200, bare.body));
        let full = with(&world, Method::GET, path, API, "").await.json();
        assert_eq!((&full["status"], full["version"].is_string()), (&word.into(), true));
    }
}

/// R9.1: required and without any credential, only probes are answered.
#[tokio::test]
async fn a_server_that_must_ask_and_has_no_credential_answers_probes_only() {
    let settings =
        AccessSettings { authentication: Authentication::Required, ..AccessSettings::default() };
    let world = world_with(settings, &OperatorKeys::default()).await;
    assert_eq!(world.get("/live").await.status, 200);
    assert_eq!(world.get("/sandboxes").await.code(), "UNAUTHORIZED");
    assert_eq!(world.post("/admin/keys", r#"{"name":"a","role":"admin"}"#).await.status, 401);
}

/// R9.2: several, shown once, listed without their secrets, refused as soon as they are revoked.
#[tokio::test]
async fn a_key_is_shown_once_works_and_is_revoked_at_once() {
    let world = closed().await;
    let body = r#"{"name":"ci","role":"api","owner_id":"ann","ttl":"1h"}"#;
    let made = with(&world, Method::POST, "/admin/keys", ADMIN, body).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let made = made.json();
    let (id, text) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(text.starts_with("svm_") && made["status"] == "active", "{made}");
    let again = with(&world, Method::POST, "/admin/keys", ADMIN, body).await;
    assert_eq!(again.code(), "CONFLICT");
    assert_eq!(with(&world, Method::GET, "/sandboxes", text, "").await.status, 200);
    let listed = with(&world, Method::GET, "/admin/keys", ADMIN, "").await;
    assert!(!listed.text().contains(text.rsplit('_').next().unwrap()), "{}", listed.text());
    let listed = listed.json();
    assert_eq!((&listed[0]["name"], &listed[0]["owner_id"]), (&"ci".into(), &"ann".into()));
    for _ in 0..2 {
        let path = format!("/admin/keys/{id}");
        assert_eq!(with(&world, Method::DELETE, &path, ADMIN, "").await.status, 200);
        assert_eq!(with(&world, Method::GET, "/sandboxes", text, "").await.code(), "UNAUTHORIZED");
    }
    let unknown = with(&world, Method::DELETE, "/admin/keys/key-1", ADMIN, "").await;
    assert_eq!(unknown.code(), "NOT_FOUND");
}

/// R6.5: tokens are signed with the key of the settings, and open what they name only.
#[tokio::test]
async fn a_worker_token_is_signed_for_who_asks_as_admin() {
    let keys = Keys { signing: Some(Secret::new("a-signing-key")), ..Keys::default() };
    let access = AccessSettings::default();
    let config = ApiConfig {
        access: Arc::new(Access::new(access, &operator(), false)),
        worker_keys: Arc::new(KeyRing::of(keys.clone())),
        ..ApiConfig::default()
    };
    let world = World::with(config, Limits::default()).await;
    let ask = async |key: &str, body: &str| {
        with(&world, Method::POST, "/admin/worker-tokens", key, body).await
    };
    let usual = ask(ADMIN, r#"{"worker_id":"w1"}"#).await;
    assert_eq!(usual.status, 200, "{}", usual.text());
    let usual = usual.json();
    assert_eq!(usual["worker_id"], "w1");
    assert_eq!(usual["audience"], "worker:control-plane");
    assert_eq!(usual["scopes"], json!(["worker:heartbeat", "worker:lease"]));
    let now = SystemClock.now();
    let ends = Timestamp::parse(usual["expires_at"].as_str().unwrap()).unwrap();
    assert!(now < ends && ends.saturating_since(now) <= token::USUAL, "{usual}");

    let body = r#"{"worker_id":"w1","audience":"worker:rpc","scopes":["worker:exec"],"ttl":"15m"}"#;
    let named = ask(ADMIN, body).await.json();
    let text = named["token"].as_str().unwrap();
    let worker = WorkerId::parse("w1").unwrap();
    let opens = token::verify(&keys, text, &worker, Audience::Rpc, now);
    assert_eq!(opens, Ok([Right::Exec].into_iter().collect()));
    assert_eq!(token::inspect(text).unwrap().jti.as_deref(), named["token_id"].as_str());

    assert_eq!(ask(API, r#"{"worker_id":"w1"}"#).await.code(), "FORBIDDEN");
    assert_eq!(ask("wrong", r#"{"worker_id":"w1"}"#).await.code(), "UNAUTHORIZED");
    // A worker's token is no key of the API.
    assert_eq!(with(&world, Method::GET, "/sandboxes", text, "").await.code(), "UNAUTHORIZED");
    let without = with(&closed().await, Method::POST, "/admin/worker-tokens", ADMIN, body).await;
    assert_eq!(without.code(), "UNAVAILABLE");
}

#[tokio::test]
async fn a_key_that_cannot_be_right_is_refused_with_what_would_be() {
    let world = closed().await;
    for (body, says) in [
        ("{}", "name is required"),
        (r#"{"name":"a"}"#, "role is required"),
        (r#"{"name":"a","role":"root"}"#, "role must be viewer"),
        (r#"{"name":"a b","role":"api"}"#, "a key name is"),
        (r#"{"name":"a","role":"admin","owner_id":"x"}"#, "viewer or api"),
        (r#"{"name":"a","role":"api","owner_id":"x/y"}"#, "path separators"),
        (r#"{"name":"a","role":"api","ttl":"0s"}"#, "positive"),
        (r#"{"name":"a","role":"api","ttl":"1d"}"#, "invalid ttl"),
    ] {
        let reply = with(&world, Method::POST, "/admin/keys", ADMIN, body).await;
        assert_eq!(reply.code(), "BAD_REQUEST", "{body}");
        assert!(reply.text().contains(says), "{body}: {}", reply.text());
    }
}

/// R9.1: the first key closes the server, and must be one that can make others.
#[tokio::test]
async fn the_first_key_is_an_admin_key_and_closes_the_server() {
    let world = World::new().await;
    let refused = world.post("/admin/keys", r#"{"name":"a","role":"api"}"#).await;
    assert_eq!(refused.code(), "CONFLICT");
    let made = world.post("/admin/keys", r#"{"name":"a","role":"admin"}"#).await.json();
    assert_eq!(world.get("/sandboxes").await.code(), "UNAUTHORIZED");
    let key = made["key"].as_str().unwrap();
    assert_eq!(with(&world, Method::GET, "/sandboxes", key, "").await.status, 200);
    let path = format!("/admin/keys/{}", made["id"].as_str().unwrap());
    assert_eq!(with(&world, Method::DELETE, &path, key, "").await.status, 200);
    assert_eq!(world.get("/sandboxes").await.status, 401, "the last key locks, it never opens");
}

/// R9.4 in part: what belongs to another owner does not exist.
#[tokio::test]
async fn a_key_of_one_owner_meets_another_owners_sandbox_nowhere() {
    let world = closed().await;
    let (ann, bob) = (key_of(&world, "ann").await, key_of(&world, "bob").await);
    let made = with(&world, Method::POST, "/sandboxes", &ann, "{}").await.json();
    assert_eq!(made["owner_id"], "ann");
    let id = made["id"].as_str().unwrap();
    let run = r#"{"command":"echo hi","exec_id":"ex-00000000000000000000"}"#;
    let path = format!("/sandboxes/{id}/exec");
    assert_eq!(with(&world, Method::POST, &path, &ann, run).await.status, 200);
    let unknown = SandboxId::from_entropy([7; 10]).to_string();
    let mut asked = 0;
    for route in stacyvm_api::routes() {
        let Some(rest) = route.path.strip_prefix("/api/v1/sandboxes/{id}") else { continue };
        let rest = example(rest);
        let upgrade = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut headers = vec![("x-api-key", bob.as_str())];
        if rest.ends_with("/ws") {
            headers.extend(upgrade);
        }
        let body = match rest.rsplit('/').next() {
            Some("extend") => r#"{"ttl":"1h"}"#,
            Some("chmod") => r#"{"path":"/workspace/x","mode":"0644"}"#,
            Some("move") => r#"{"old_path":"/workspace/x","new_path":"/workspace/y"}"#,
            _ => r#"{"command":"true","path":"/workspace/x","content":"x"}"#,
        };
        let query = "?path=/workspace&pattern=*";
        let at = |id: &str| format!("/sandboxes/{id}{rest}{query}");
        let foreign = world.send(route.method.clone(), &at(id), &headers, body).await;
        let never = world.send(route.method.clone(), &at(&unknown), &headers, body).await;
        let same = |reply: &Reply| {
            let mut body = reply.text().replace(id, "ID").replace(&unknown, "ID");
            body = body.replace(reply.header("x-request-id"), "REQUEST");
            (reply.status, body)
        };
        assert_eq!(same(&foreign), same(&never), "{} {rest}", route.method);
        let harmless = route.method == Method::DELETE && rest.trim_matches('/').is_empty();
        assert_eq!(foreign.status, if harmless { 200 } else { 404 }, "{} {rest}", route.method);
        asked += 1;
    }
    assert!(15 < asked, "{asked}");
    for path in ["/sandboxes", "/sandboxes?include=ended"] {
        assert_eq!(with(&world, Method::GET, path, &bob, "").await.text(), "[]\n");
        assert!(with(&world, Method::GET, path, &ann, "").await.text().contains(id));
        assert!(with(&world, Method::GET, path, API, "").await.text().contains(id));
    }
    assert_eq!(with(&world, Method::GET, &format!("/sandboxes/{id}"), &ann, "").await.status, 200);
}

/// R3.1: quotas of others are not told.
#[tokio::test]
async fn a_key_of_one_owner_sees_its_own_quota_only() {
    let world = closed().await;
    let (ann, bob) = (key_of(&world, "ann").await, key_of(&world, "bob").await);
    let put = with(&world, Method::PUT, "/admin/quotas/ann", ADMIN, r#"{"max_sandboxes":3}"#).await;
    assert_eq!(put.status, 200, "{:?}", put.body);
    for path in ["/quotas/ann", "/quotas/ann/usage"] {
        assert_eq!(with(&world, Method::GET, path, &ann, "").await.status, 200, "{path}");
        assert_eq!(with(&world, Method::GET, path, &bob, "").await.code(), "NOT_FOUND", "{path}");
    }
    assert_eq!(with(&world, Method::GET, "/quotas", &bob, "").await.text(), "[]\n");
    assert_eq!(with(&world, Method::PUT, "/quotas/ann", &ann, "{}").await.code(), "FORBIDDEN");
    let asked = with(&world, Method::POST, "/sandboxes/admission", &ann, "{}").await.json();
    assert_eq!(asked["max_owner_sandboxes"], 3, "the question is asked for the key's owner");
}

/// What is about all owners is not for a key of one.
#[tokio::test]
async fn a_key_of_one_owner_does_not_see_the_whole_server() {
    let world = closed().await;
    let ann = key_of(&world, "ann").await;
    for path in ["/metrics", "/metrics/prometheus", "/diagnostics", "/system/stats", "/workers"] {
        assert_eq!(with(&world, Method::GET, path, &ann, "").await.code(), "FORBIDDEN", "{path}");
        assert_eq!(with(&world, Method::GET, path, ADMIN, "").await.status, 200, "{path}");
    }
}

/// R2.5: the tenant scope of events, as far as there are owners.
#[tokio::test]
async fn a_key_of_one_owner_follows_its_own_events_only() {
    let world = closed().await;
    let (ann, bob) = (key_of(&world, "ann").await, key_of(&world, "bob").await);
    with(&world, Method::POST, "/sandboxes", &bob, "{}").await;
    let made = with(&world, Method::POST, "/sandboxes", &ann, "{}").await.json();
    let headers = [("x-api-key", ann.as_str())];
    let (parts, mut body, _owner) =
        world.open(Method::GET, "/api/v1/events?after=0", &headers, "").await;
    assert_eq!(parts.status, 200);
    let first = http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
    let text = String::from_utf8(first.into_data().unwrap().to_vec()).unwrap();
    assert!(text.contains(made["id"].as_str().unwrap()), "{text}");
    assert!(!text.contains("bob"), "{text}");
    let foreign = with(&world, Method::GET, "/events?after=0&owner=bob", &ann, "").await;
    assert_eq!(foreign.code(), "FORBIDDEN");
}

/// R9.4 in part: a header alone names nobody.
#[tokio::test]
async fn an_owner_may_be_named_by_a_credential_that_speaks_for_others_only() {
    let world = closed().await;
    let plain = key(&world, new_key("plain", Role::Api)).await;
    let ann = key_of(&world, "ann").await;
    let speaker = NewKey { speaks_for_others: true, ..new_key("speaker", Role::Api) };
    let speaker = key(&world, speaker).await;
    let template = r#"{"name":"t","image":"host"}"#;
    assert_eq!(with(&world, Method::POST, "/templates", API, template).await.status, 201);
    for path in ["/sandboxes", "/templates/t/spawn"] {
        for (key, header, body, owner) in [
            (plain.as_str(), "", "{}", Some("")),
            (&plain, "ann", "{}", None),
            (&plain, "", r#"{"owner_id":"ann"}"#, None),
            (&ann, "", "{}", Some("ann")),
            (&ann, "bob", "{}", None),
            (&ann, "", r#"{"owner_id":"bob"}"#, None),
            (&speaker, "bob", "{}", Some("bob")),
            (API, "", r#"{"owner_id":"cy"}"#, Some("cy")),
            (ADMIN, "dan", "{}", Some("dan")),
        ] {
            let headers = [("x-api-key", key), ("x-user-id", header)];
            let reply = world.send(Method::POST, path, &headers, body).await;
            match owner {
                Some(owner) => {
                    let made = reply.json();
                    let found = made["owner_id"].as_str().unwrap_or_default();
                    assert_eq!(
                        (reply.status.as_u16(), found),
                        (201, owner),
                        "{path} {header} {body}"
                    );
                }
                None => assert_eq!(reply.code(), "FORBIDDEN", "{path} {header} {body}"),
            }
        }
    }
    let reads = [("x-api-key", ann.as_str()), ("x-user-id", "bob")];
    let reply = world.send(Method::GET, "/sandboxes", &reads, "").await;
    assert_eq!(reply.code(), "FORBIDDEN", "also where it would change nothing");
}

#[tokio::test]
async fn what_all_owners_share_is_not_changed_by_a_key_of_one() {
    let world = closed().await;
    let ann = key_of(&world, "ann").await;
    let template = r#"{"name":"t","image":"host","setup":["true"]}"#;
    assert_eq!(with(&world, Method::POST, "/templates", &ann, template).await.code(), "FORBIDDEN");
    assert_eq!(with(&world, Method::POST, "/templates", API, template).await.status, 201);
    for method in [Method::PUT, Method::DELETE] {
        let reply = with(&world, method, "/templates/t", &ann, "{}").await;
        assert_eq!(reply.code(), "FORBIDDEN");
    }
    let used = with(&world, Method::POST, "/templates/t/spawn", &ann, "").await;
    assert_eq!(used.json()["owner_id"], "ann");
}

/// R3.7: guessing is bounded before the guess is answered, per address.
#[tokio::test]
async fn wrong_keys_from_one_address_are_soon_not_even_looked_at() {
    let world = closed().await;
    let revoked = world.control.create_key(new_key("gone", Role::Api)).await.unwrap();
    world.control.revoke_key(&revoked.key.id).await.unwrap();
    let old = key(&world, new_key("old", Role::Api)).await;
    let show = async |key: &str, from: &str| {
        let headers = [("x-api-key", key), ("x-forwarded-for", from)];
        world.send(Method::GET, "/sandboxes", &headers, "").await
    };
    let mut refused = 0;
    let limited = loop {
        let reply = show("wrong", "203.0.113.9").await;
        match reply.status.as_u16() {
            401 => refused += 1,
            _ => break reply,
        }
        assert!(refused < 100);
    };
    assert!(20 <= refused, "{refused}");
    assert_eq!(limited.code(), "RESOURCE_LIMIT");
    assert!(limited.text().contains("rate limit exceeded; retry after"), "{}", limited.text());
    assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
    let new = key(&world, new_key("new", Role::Api)).await;
    for right in [API, &old, &new] {
        assert_eq!(
            show(right, "203.0.113.9").await.status,
            200,
            "who has a key is in nobody's way"
        );
    }
    let mut other_secret = old.clone();
    other_secret.pop();
    for wrong in ["wrong", &revoked.text, &format!("{other_secret}x")] {
        assert_eq!(show(wrong, "203.0.113.9").await.status, 429, "how it is wrong is not told");
    }
    assert_eq!(show(API, "203.0.113.10").await.status, 200, "others are not in its way");
    let none = [("x-forwarded-for", "203.0.113.9")];
    assert_eq!(world.send(Method::GET, "/live", &none, "").await.status, 200);
    assert_eq!(world.send(Method::GET, "/sandboxes", &none, "").await.status, 401, "no guess");
}

fn limited_by(key_by: KeyBy) -> AccessSettings {
    let rate_limit = RateLimit {
        enabled: true,
        requests_per_minute: 1,
        burst: 2,
        key_by,
        ..RateLimit::default()
    };
    AccessSettings { rate_limit, ..AccessSettings::default() }
}

/// R3.7: a token bucket per caller, with headers that say how it stands.
#[tokio::test]
async fn a_caller_above_its_rate_waits_and_others_do_not() {
    let world = world_with(limited_by(KeyBy::ApiKey), &operator()).await;
    for remaining in ["1", "0"] {
        let reply = with(&world, Method::GET, "/sandboxes", API, "").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-ratelimit-limit"), "2");
        assert_eq!(reply.header("x-ratelimit-remaining"), remaining);
    }
    let reply = with(&world, Method::GET, "/sandboxes", API, "").await;
    assert_eq!(reply.code(), "RESOURCE_LIMIT");
    let wait: u64 = reply.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let says = format!("rate limit exceeded; retry after {wait}s");
    assert_eq!(reply.json()["message"], says.as_str());
    assert_eq!(reply.header("x-ratelimit-remaining"), "0");
    assert_eq!(with(&world, Method::GET, "/sandboxes", ADMIN, "").await.status, 200);
    assert_eq!(with(&world, Method::GET, "/live", API, "").await.status, 200, "probes are exempt");
    assert_eq!(with(&world, Method::GET, "/nothing", API, "").await.status, 429);
}

#[tokio::test]
async fn a_rate_is_counted_by_owner_credential_or_address() {
    for (key_by, same_owner, other_owner) in
        [(KeyBy::Owner, 429, 200), (KeyBy::ApiKey, 200, 429), (KeyBy::Ip, 429, 429)]
    {
        let world = world_with(limited_by(key_by), &operator()).await;
        let ask = |key: &'static str, user: &'static str| {
            let world = &world;
            async move {
                let headers = [("x-api-key", key), ("x-user-id", user)];
                world.send(Method::GET, "/sandboxes", &headers, "").await.status.as_u16()
            }
        };
        assert_eq!([ask(API, "ann").await, ask(API, "ann").await], [200, 200]);
        assert_eq!(ask(ADMIN, "ann").await, same_owner, "{key_by:?}");
        assert_eq!(ask(API, "bob").await, other_owner, "{key_by:?}");
    }
}

#[tokio::test]
async fn without_credentials_addresses_and_owners_are_limited() {
    let world = world_with(limited_by(KeyBy::ApiKey), &OperatorKeys::default()).await;
    let statuses = [
        world.get("/sandboxes").await.status.as_u16(),
        world.get("/sandboxes").await.status.as_u16(),
        world.get("/sandboxes").await.status.as_u16(),
    ];
    assert_eq!(statuses, [200, 200, 429]);
}

/// R9.1: a page asks before it sends its key, and can read why it was refused.
#[tokio::test]
async fn a_preflight_needs_no_credential_and_allows_sending_one() {
    let world = closed().await;
    let asks = [
        ("origin", "https://dash.example"),
        ("access-control-request-method", "PATCH"),
        ("access-control-request-headers", "x-api-key"),
    ];
    let reply = world.send(Method::OPTIONS, "/sandboxes", &asks, "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), "https://dash.example");
    for header in ["X-API-Key", "X-Admin-API-Key", "Authorization"] {
        assert!(reply.header("access-control-allow-headers").contains(header));
    }
    assert!(reply.header("access-control-allow-methods").contains("PATCH"));
    let origin = [("origin", "https://dash.example")];
    let refused = world.send(Method::GET, "/sandboxes", &origin, "").await;
    assert_eq!(refused.code(), "UNAUTHORIZED");
    assert_eq!(refused.header("access-control-allow-origin"), "https://dash.example");
    assert!(refused.header("access-control-expose-headers").contains("X-RateLimit-Remaining"));
}
