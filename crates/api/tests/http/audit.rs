//! R2.6: the audit log over HTTP.

use http::Method;
use serde_json::Value;

use stacyvm_api::{AccessSettings, KeyBy, RateLimit};
use stacyvm_store::audit::AdminFilter;
use stacyvm_types::Role;

use crate::{
    access::{ADMIN, closed, key, new_key, operator, world_with},
    world::{Reply, World},
};

/// Asks until so many rows match; they come out of a queue.
async fn rows(world: &World, path: &str, count: usize) -> Vec<Value> {
    rows_for(world, path, count, &[]).await
}

async fn rows_for(world: &World, path: &str, count: usize, headers: &[(&str, &str)]) -> Vec<Value> {
    for _ in 0..2_000 {
        let reply = world.send(Method::GET, path, headers, "").await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        let rows = reply.json().as_array().unwrap().clone();
        if count <= rows.len() {
            assert_eq!(rows.len(), count, "{rows:?}");
            return rows;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{path} never showed {count} rows");
}

fn keys(row: &Value) -> Vec<&str> {
    row.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn operations_are_listed_and_filtered() {
    let world = World::new().await;
    let (first, second) = (world.sandbox().await, world.sandbox().await);
    world.post(&format!("/sandboxes/{first}/exec"), r#"{"command":"exit 3"}"#).await;
    world.get(&format!("/sandboxes/{first}/files?path=/none")).await;
    let at = "/admin/audit/operations";
    let all = rows(&world, at, 4).await;
    let times: Vec<_> = all.iter().map(|row| row["created_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "newest first: {times:?}");
    let mut expected = vec![
        "id",
        "actor",
        "action",
        "sandbox_id",
        "owner_id",
        "tenant_id",
        "provider",
        "resource",
        "status",
        "detail",
        "request_id",
        "created_at",
    ];
    expected.sort_unstable();
    assert_eq!(keys(&all[0]), expected);
    let exec = &rows(&world, &format!("{at}?action=exec"), 1).await[0];
    assert_eq!((&exec["resource"], &exec["status"]), (&"exit 3".into(), &"success".into()));
    assert!(exec["request_id"].as_str().is_some_and(|id| id.len() == 36), "{exec}");
    let failed = &rows(&world, &format!("{at}?status=failure"), 1).await[0];
    assert_eq!(
        (&failed["action"], &failed["sandbox_id"]),
        (&"file.read".into(), &first.clone().into())
    );
    rows(&world, &format!("{at}?sandbox={second}"), 1).await;
    rows(&world, &format!("{at}?sandbox={second}&action=exec"), 0).await;
    rows(&world, &format!("{at}?since=2000-01-01T00:00:00Z&until=2001-01-01T00:00:00Z"), 0).await;
    rows(&world, &format!("{at}?since=2000-01-01T00:00:00Z"), 4).await;
    rows(&world, &format!("{at}?owner=nobody"), 0).await;
    // Page by page.
    let mut seen = Vec::new();
    let mut path = format!("{at}?limit=3");
    loop {
        let page = world.get(&path).await;
        seen.extend(page.json().as_array().unwrap().iter().map(|row| row["id"].clone()));
        match page.header("x-next-cursor") {
            "" => break,
            next => path = format!("{at}?limit=3&before={next}"),
        }
    }
    assert_eq!(seen, all.iter().map(|row| row["id"].clone()).collect::<Vec<_>>());
}

/// Allowed or refused, known or not: all that is below `/admin`.
#[tokio::test]
async fn every_request_to_an_admin_route_is_recorded() {
    let world = World::new().await;
    let agent = [("user-agent", "test/1"), ("x-request-id", "mine")];
    world.send(Method::GET, "/admin/audit?limit=5&secret=s3cret", &agent, "").await;
    let foreign = [("origin", "https://evil.example")];
    assert_eq!(world.send(Method::GET, "/admin/audit", &foreign, "").await.status, 403);
    assert_eq!(world.get("/admin/nothing").await.status, 404);
    assert_eq!(world.delete("/admin/audit").await.status, 405);
    assert_eq!(world.get("/admin/audit?limit=0").await.status, 400);
    world.get("/administrators").await;
    world.get("/sandboxes").await;
    let seen = rows(&world, "/admin/audit?method=delete", 1).await;
    assert_eq!(
        (&seen[0]["status"], &seen[0]["path"]),
        (&405.into(), &"/api/v1/admin/audit".into())
    );
    let mut expected = vec![
        "id",
        "actor",
        "method",
        "path",
        "status",
        "duration_ms",
        "request_id",
        "remote_addr",
        "user_agent",
        "tenant_id",
        "created_at",
    ];
    expected.sort_unstable();
    assert_eq!(keys(&seen[0]), expected);
    rows(&world, "/admin/audit?status=403", 1).await;
    rows(&world, "/admin/audit?status=400", 1).await;
    let unknown = rows(&world, "/admin/audit?path=nothing", 1).await;
    assert_eq!(unknown[0]["status"], 404);
    rows(&world, "/admin/audit?path=administrators", 0).await;
    let all = world.get("/admin/audit?limit=500").await;
    assert!(!all.text().contains("s3cret"), "a query is not recorded");
    let all = all.json();
    let mine = all.as_array().unwrap().iter().find(|row| row["request_id"] == "mine").unwrap();
    assert_eq!(
        (&mine["user_agent"], &mine["remote_addr"]),
        (&"test/1".into(), &"127.0.0.1".into())
    );
    assert_eq!((&mine["status"], &mine["method"]), (&200.into(), &"GET".into()));
}

#[tokio::test]
async fn the_audit_log_is_exported_as_a_file() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let hostile = "=HYPERLINK(\"http://evil\"),x";
    let body = serde_json::json!({ "command": hostile }).to_string();
    world.post(&format!("/sandboxes/{id}/exec"), &body).await;
    rows(&world, "/admin/audit/operations", 2).await;
    let disposed = |reply: &Reply, name: &str| {
        assert_eq!(reply.header("content-type"), "text/csv; charset=utf-8");
        let wanted = format!("attachment; filename=\"{name}\"");
        assert_eq!(reply.header("content-disposition"), wanted);
    };
    let csv = world.get("/admin/audit/operations?format=csv&action=exec").await;
    disposed(&csv, "stacyvm-operation-audit.csv");
    let lines: Vec<_> = csv.text().lines().collect();
    assert_eq!(
        lines[0],
        "id,actor,action,sandbox_id,owner_id,provider,resource,status,detail,request_id,created_at"
    );
    assert!(lines[1].contains(",\"'=HYPERLINK(\"\"http://evil\"\"),x\","), "{}", lines[1]);
    rows(&world, "/admin/audit?limit=1", 1).await;
    let csv = world.get("/admin/audit?format=csv&limit=1").await;
    disposed(&csv, "stacyvm-admin-audit.csv");
    let lines: Vec<_> = csv.text().lines().collect();
    assert_eq!(
        lines[0],
        "id,actor,method,path,status,duration_ms,request_id,remote_addr,user_agent,created_at"
    );
    assert_eq!(lines.len(), 2);
}

#[tokio::test]
async fn what_the_audit_log_cannot_be_asked_is_said() {
    let world = World::new().await;
    for at in ["/admin/audit", "/admin/audit/operations"] {
        for (query, word) in [
            ("limit=0", "limit"),
            ("limit=-1", "limit"),
            ("limit=x", "limit"),
            ("status=maybe", "status"),
            ("status=99999", "status"),
            ("status=99", "status"),
            ("since=yesterday", "since"),
            ("until=2026-01-01", "until"),
            ("before=17", "before"),
            ("format=xml", "format"),
        ] {
            let reply = world.get(&format!("{at}?{query}")).await;
            assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "BAD_REQUEST"));
            let message = reply.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains(word), "{at}?{query}: {message}");
        }
        assert_eq!(world.get(&format!("{at}?limit=100000")).await.status, 200, "capped");
        assert_eq!(world.get(&format!("{at}?format=json")).await.status, 200);
    }
    let operations = "/admin/audit/operations";
    assert_eq!(world.get(&format!("{operations}?sandbox=x")).await.status, 400);
    assert_eq!(world.get(&format!("{operations}?owner=a/b")).await.status, 400);
}

/// A caller that leaves before the answer is in the record too.
#[tokio::test]
async fn an_admin_request_whose_caller_left_is_recorded() {
    let world = World::new().await;
    let path = "/api/v1/admin/quotas/ann";
    let mut stream = tokio::net::TcpStream::connect(world.addr).await.unwrap();
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 9\r\n\r\n{{", world.addr);
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    drop(stream);
    let left = &rows(&world, "/admin/audit?path=quotas", 1).await[0];
    assert!(matches!(left["status"].as_u64(), Some(400..500)), "{left}");
    assert_eq!((&left["method"], &left["path"]), (&"PUT".into(), &path.into()));
}

/// R2.6: who was let in and who was refused, by the credential and never by what a header claims.
#[tokio::test]
async fn a_refused_admin_request_is_recorded_with_who_it_was() {
    let world = closed().await;
    let viewer = key(&world, new_key("watcher", Role::Viewer)).await;
    let at = "/admin/audit/operations";
    let send = async |headers: &[(&str, &str)]| {
        world.send(Method::GET, at, headers, "").await.status.as_u16()
    };
    let from = ("x-forwarded-for", "203.0.113.9");
    assert_eq!(send(&[from]).await, 401);
    assert_eq!(send(&[("x-api-key", "guess"), ("x-user-id", "ann"), from]).await, 401);
    assert_eq!(send(&[("x-api-key", &viewer), from]).await, 403);
    assert_eq!(send(&[("x-api-key", ADMIN), from]).await, 200);
    let admin = [("x-api-key", ADMIN)];
    let path = "/admin/audit?path=operations";
    let seen = rows_for(&world, path, 4, &admin).await;
    let mut told: Vec<_> = seen
        .iter()
        .map(|row| (row["status"].as_u64().unwrap(), row["actor"].as_str().unwrap()))
        .collect();
    told.sort_unstable();
    let expected =
        [(200, "admin_key"), (401, "anonymous"), (401, "anonymous"), (403, "key:watcher")];
    assert_eq!(told, expected);
    assert!(seen.iter().all(|row| row["remote_addr"] == "203.0.113.9"), "{seen:?}");
    let made = rows_for(&world, &format!("{at}?action=key.create"), 1, &admin).await;
    assert_eq!((&made[0]["resource"], &made[0]["status"]), (&"watcher".into(), &"success".into()));
    let all = world.send(Method::GET, path, &admin, "").await;
    let secrets = [viewer.as_str(), ADMIN, "guess"];
    for text in [all.text(), &made[0].to_string()] {
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
    }
}

/// R2.6: whoever has no credential fills neither the disk nor the queue that others' records need,
/// and hides nobody else who has none.
#[tokio::test]
async fn requests_of_strangers_are_recorded_up_to_a_bound() {
    let world = closed().await;
    for _ in 0..300 {
        assert_eq!(world.get("/admin/keys").await.status, 401);
    }
    let elsewhere = [("x-forwarded-for", "198.51.100.7")];
    assert_eq!(world.send(Method::GET, "/admin/quotas", &elsewhere, "").await.status, 401);
    let admin = [("x-api-key", ADMIN)];
    let other = "/admin/audit?actor=anonymous&path=quotas";
    assert_eq!(rows_for(&world, other, 1, &admin).await[0]["remote_addr"], "198.51.100.7");
    let all = "/admin/audit?actor=anonymous&path=keys&limit=500";
    let all = world.send(Method::GET, all, &admin, "").await.json();
    let count = all.as_array().unwrap().len();
    assert!(count < 200, "{count} of 300");
}

/// R2.6: neither does a credential that may not, or that asks for what is not there.
#[tokio::test]
async fn what_a_credential_is_refused_is_recorded_up_to_a_bound() {
    let world = closed().await;
    let viewer = key(&world, new_key("watcher", Role::Viewer)).await;
    let headers = [("x-api-key", viewer.as_str())];
    for (path, status) in [("/admin/keys", 403), ("/admin/none", 404)] {
        for _ in 0..150 {
            assert_eq!(world.send(Method::GET, path, &headers, "").await.status, status);
        }
    }
    let admin = [("x-api-key", ADMIN)];
    let mark = "/admin/quotas/summary";
    assert_eq!(world.send(Method::GET, mark, &admin, "").await.status, 200);
    rows_for(&world, "/admin/audit?path=summary&status=200", 1, &admin).await;
    let all = "/admin/audit?actor=key:watcher&limit=500";
    let count = world.send(Method::GET, all, &admin, "").await.json().as_array().unwrap().len();
    assert!((100..150).contains(&count), "{count} of 300");
}

/// R2.6: neither does a credential whose requests are too many.
#[tokio::test]
async fn requests_above_a_rate_are_recorded_up_to_a_bound() {
    let rate_limit = RateLimit {
        enabled: true,
        requests_per_minute: 1,
        burst: 5,
        key_by: KeyBy::ApiKey,
        ..RateLimit::default()
    };
    let settings = AccessSettings { rate_limit, ..AccessSettings::default() };
    let world = world_with(settings, &operator()).await;
    let viewer = key(&world, new_key("watcher", Role::Viewer)).await;
    let statuses = |wanted: u16, sent: &[u16]| sent.iter().filter(|sent| **sent == wanted).count();
    let mut sent = Vec::new();
    for _ in 0..300 {
        let headers = [("x-api-key", viewer.as_str())];
        sent.push(world.send(Method::GET, "/admin/keys", &headers, "").await.status.as_u16());
    }
    assert!(290 <= statuses(429, &sent), "{sent:?}");
    let admin = [("x-api-key", ADMIN)];
    assert_eq!(world.send(Method::GET, "/admin/quotas", &admin, "").await.status, 200);
    // Not asked over HTTP, where the administrator has a rate too.
    let recorded = async |status| {
        let filter = AdminFilter { status: Some(status), ..AdminFilter::default() };
        world.control.admin_records(filter, None, 500).await.unwrap().rows.len()
    };
    while recorded(200).await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let count = recorded(429).await;
    assert!(count < 200, "{count} of 300");
}
