//! Bounds on what a client may send, and how slowly.

use std::time::Duration;

use http::Method;
use stacyvm_api::{ApiConfig, Limits, Timing};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::World;

async fn raw(world: &World, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut reply = String::new();
    let read = stream.read_to_string(&mut reply);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("closed in time");
    reply
}

#[tokio::test]
async fn slow_loris_a_head_that_does_not_end_is_cut() {
    let limits = Limits { head: Duration::from_millis(200), ..Limits::default() };
    let world = World::with(ApiConfig::default(), limits).await;
    raw(&world, b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;
    let idle = raw(&world, b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200"), "an idle connection is closed after its reply");
}

#[tokio::test]
async fn slow_loris_a_body_that_stands_still_is_cut() {
    let timing = Timing { body_progress: Duration::from_millis(200), ..Timing::default() };
    let world = World::with(ApiConfig { timing, ..ApiConfig::default() }, Limits::default()).await;
    let reply = raw(
        &world,
        b"POST /api/v1/sandboxes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    )
    .await;
    assert!(reply.starts_with("HTTP/1.1 408") && reply.contains("\"TIMEOUT\""), "{reply}");
    let put = format!(
        "PUT /api/v1/sandboxes/{}/files?path=/workspace/x HTTP/1.1\r\nHost: localhost\r\n\
         Content-Length: 9\r\n\r\nabc",
        world.sandbox().await
    );
    let reply = raw(&world, put.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 408") && reply.contains("\"TIMEOUT\""), "{reply}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_in_json() {
    let config = ApiConfig { max_upload: 1000, ..ApiConfig::default() };
    let world = World::with(config, Limits::default()).await;
    let huge = format!("{{\"image\":\"{}\"}}", "x".repeat(3 << 20));
    assert_eq!(world.post("/sandboxes", &huge).await.code(), "PAYLOAD_TOO_LARGE");
    let target = format!("/sandboxes/{}/files?path=/workspace/x", world.sandbox().await);
    let put = world.send(Method::PUT, &target, &[], vec![0_u8; 1001]).await;
    assert_eq!(put.code(), "PAYLOAD_TOO_LARGE");
    let chunked = format!(
        "PUT /api/v1{target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n400\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1024)
    );
    let reply = raw(&world, chunked.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 413") && reply.contains("PAYLOAD_TOO_LARGE"), "{reply}");
    assert_eq!(world.get(&target).await.code(), "NOT_FOUND", "nothing was half written");
    let long = world.get(&format!("/live?{}", "x".repeat(20 << 10))).await;
    assert_eq!(long.code(), "URI_TOO_LONG");
    let wide = "x".repeat(70 << 10);
    let reply = world.send(Method::GET, "/live", &[("x-wide", &wide)], "").await;
    assert_eq!(reply.code(), "HEADERS_TOO_LARGE");
}

#[tokio::test]
async fn an_image_archive_is_bytes_and_a_provider_without_images_says_so() {
    let world = World::new().await;
    let path = "/images/team/app:v1";
    for kind in ["application/json", "multipart/form-data; boundary=x"] {
        let reply = world.send(Method::PUT, path, &[("content-type", kind)], "{}").await;
        assert_eq!(reply.code(), "UNSUPPORTED_MEDIA_TYPE", "{kind}");
    }
    let bytes = [("content-type", "application/x-tar")];
    assert_eq!(world.send(Method::PUT, path, &bytes, "x").await.code(), "UNSUPPORTED");
    assert_eq!(world.delete("/images/%2e%2e/x").await.code(), "BAD_REQUEST");
}

#[tokio::test]
async fn a_connection_above_the_most_waits_for_its_turn() {
    let limits = Limits { connections: 1, head: Duration::from_millis(300) };
    let world = World::with(ApiConfig::default(), limits).await;
    let held = TcpStream::connect(world.addr).await.unwrap();
    assert_eq!(world.get("/live").await.status, 200, "served when the idle one was cut");
    drop(held);
}

#[tokio::test]
async fn a_stopping_server_ends_streams_and_returns() {
    let mut world = World::new().await;
    let id = world.sandbox().await;
    let path = format!("/api/v1/sandboxes/{id}/exec");
    let body = r#"{"command":"echo up; sleep 30","stream":true}"#;
    let (_, stream, _owner) = world.open(Method::POST, &path, &[], body).await;
    let (_, events, _other) = world.open(Method::GET, "/api/v1/events", &[], "").await;
    world.stopping.cancel();
    let text = http_body_util::BodyExt::collect(stream).await.unwrap().to_bytes();
    let last = String::from_utf8(text.to_vec()).unwrap();
    assert!(last.contains("\"reason\":\"interrupted\""), "{last}");
    http_body_util::BodyExt::collect(events).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), world.server.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))));
    let refused = async { while TcpStream::connect(world.addr).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("no new connections");
}
