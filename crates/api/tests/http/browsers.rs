//! What a page in a browser on the same machine may try.

use http::Method;
use stacyvm_api::{ApiConfig, Limits};

use crate::world::World;

async fn is_forbidden(world: &World, method: Method, path: &str, headers: &[(&str, &str)]) {
    let reply = world.send(method, path, headers, "{}").await;
    assert_eq!(reply.code(), "FORBIDDEN", "{headers:?}");
    assert_eq!(reply.header("access-control-allow-origin"), "", "{headers:?}");
}

#[tokio::test]
async fn dns_rebinding_a_page_that_points_its_own_name_here_is_refused() {
    let world = World::new().await;
    for host in ["evil.example", "evil.example:7423", "127.0.0.1.evil.example", "0.0.0.0"] {
        is_forbidden(&world, Method::GET, "/sandboxes", &[("host", host)]).await;
    }
    for host in ["localhost", "localhost:1", "[::1]:7423", "127.0.0.1"] {
        let reply = world.send(Method::GET, "/sandboxes", &[("host", host)], "").await;
        assert_eq!(reply.status, 200, "{host}");
    }
}

#[tokio::test]
async fn dns_rebinding_the_name_in_an_absolute_target_counts_too() {
    let world = World::new().await;
    let target = "http://evil.example/api/v1/sandboxes";
    let (parts, _, _owner) = world.open(Method::GET, target, &[("host", "localhost")], "").await;
    assert_eq!(parts.status, 403);
}

#[tokio::test]
async fn drive_by_a_form_post_from_a_foreign_page_makes_no_sandbox() {
    let world = World::new().await;
    let form = [("origin", "http://evil.example"), ("content-type", "text/plain")];
    is_forbidden(&world, Method::POST, "/sandboxes", &form).await;
    is_forbidden(&world, Method::POST, "/sandboxes", &[("origin", "null")]).await;
    assert_eq!(world.get("/sandboxes").await.text(), "[]\n");
}

#[tokio::test]
async fn drive_by_an_image_or_script_tag_reads_nothing() {
    let world = World::new().await;
    for site in ["cross-site", "same-site"] {
        is_forbidden(&world, Method::GET, "/sandboxes", &[("sec-fetch-site", site)]).await;
    }
    let typed = [("sec-fetch-site", "none")];
    assert_eq!(world.send(Method::GET, "/sandboxes", &typed, "").await.status, 200);
}

#[tokio::test]
async fn drive_by_a_preview_page_of_a_sandbox_is_foreign() {
    let world = World::new().await;
    let port = world.addr.port();
    let page = format!("http://3000-sb-00000000000000000000.localhost:{port}");
    is_forbidden(&world, Method::POST, "/sandboxes", &[("origin", &page)]).await;
}

#[tokio::test]
async fn drive_by_a_websocket_from_a_foreign_page_is_refused() {
    let world = World::new().await;
    let path = format!("/sandboxes/{}/exec/ws", world.sandbox().await);
    let headers = [
        ("origin", "http://evil.example"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    is_forbidden(&world, Method::GET, &path, &headers).await;
}

#[tokio::test]
async fn drive_by_even_the_own_page_must_send_json() {
    let world = World::new().await;
    let origin = format!("http://{}", world.addr);
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let headers = [("origin", origin.as_str()), ("content-type", kind)];
        let reply = world.send(Method::POST, "/sandboxes", &headers, "{}").await;
        assert_eq!(reply.code(), "UNSUPPORTED_MEDIA_TYPE", "{kind}");
    }
    let none = world.send(Method::POST, "/sandboxes", &[("origin", &origin)], "{}").await;
    assert_eq!(none.code(), "UNSUPPORTED_MEDIA_TYPE");
    let json = [("origin", origin.as_str()), ("content-type", "application/json; charset=utf-8")];
    let reply = world.send(Method::POST, "/sandboxes", &json, "{}").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("access-control-allow-origin")),
        (201, &*origin)
    );
}

#[tokio::test]
async fn a_preflight_is_answered_for_allowed_origins_only() {
    let config = ApiConfig {
        allowed_origins: vec!["https://dash.example".to_owned()],
        ..ApiConfig::default()
    };
    let world = World::with(config, Limits::default()).await;
    let ask = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("sec-fetch-site", "cross-site"),
        ]
    };
    let allowed = ask("https://dash.example");
    let reply = world.send(Method::OPTIONS, "/templates/x", &allowed, "").await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
    assert_eq!(reply.header("access-control-allow-origin"), "https://dash.example");
    assert!(reply.header("access-control-allow-methods").contains("PATCH"));
    assert!(reply.header("access-control-allow-headers").contains("X-User-ID"));
    assert_eq!(reply.header("vary"), "Origin");
    let foreign = ask("https://evil.example");
    let reply = world.send(Method::OPTIONS, "/templates/x", &foreign, "").await;
    assert_eq!(reply.code(), "FORBIDDEN");
}
