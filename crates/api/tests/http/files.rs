//! R1.3: files over HTTP.

use http::Method;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn bytes_go_in_and_come_out_unchanged() {
    let world = World::new().await;
    let path = format!("/sandboxes/{}/files", world.sandbox().await);
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let target = format!("{path}?path=/workspace/d/raw.bin&mode=0600");
    let put = world.send(Method::PUT, &target, &[], bytes.clone()).await;
    assert_eq!(put.status, 200, "{:?}", put.body);
    let file = &put.json()["file"];
    assert_eq!((&file["size"], &file["mode"]), (&json!(300_000), &json!("0600")));
    assert_eq!((&file["name"], &file["kind"]), (&json!("raw.bin"), &json!("file")));
    let read = world.get(&target).await;
    assert_eq!(read.header("content-type"), "application/octet-stream");
    assert_eq!((read.header("accept-ranges"), read.header("content-length")), ("bytes", "300000"));
    assert!(read.body == bytes);
    let head = world.send(Method::HEAD, &target, &[], "").await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-length"), head.body.len()),
        (200, "300000", 0)
    );
}

#[tokio::test]
async fn a_range_is_a_part_and_one_past_the_end_is_refused() {
    let world = World::new().await;
    let path = format!("/sandboxes/{}/files", world.sandbox().await);
    let write = r#"{"path":"/workspace/a.txt","content":"0123456789"}"#;
    assert_eq!(world.post(&path, write).await.json()["status"], "written");
    let target = format!("{path}?path=/workspace/a.txt");
    let ask = async |range: &str| world.send(Method::GET, &target, &[("range", range)], "").await;
    for (range, part, shown) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ("bytes=5-99999999999999999999", "56789", "bytes 5-9/10"),
    ] {
        let reply = ask(range).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (206, part), "{range}");
        assert_eq!(reply.header("content-range"), shown);
        assert_eq!(reply.header("content-length"), part.len().to_string());
    }
    for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
        let reply = ask(range).await;
        assert_eq!(reply.code(), "RANGE_NOT_SATISFIABLE", "{range}");
        assert_eq!(reply.header("content-range"), "bytes */10");
    }
    for range in ["bytes=0-1,3-4", "bytes=4-2", "rows=1-2"] {
        let reply = ask(range).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "0123456789"), "{range}");
    }
}

#[tokio::test]
async fn files_are_listed_found_moved_changed_and_removed() {
    let world = World::new().await;
    let path = format!("/sandboxes/{}/files", world.sandbox().await);
    for name in ["a.txt", "d/b.txt"] {
        let body = json!({"path": format!("/workspace/{name}"), "content": "x"}).to_string();
        assert_eq!(world.post(&path, &body).await.status, 200);
    }
    let listed = world.get(&format!("{path}/list?path=/workspace")).await.json();
    assert_eq!((&listed[0]["name"], &listed[1]["is_dir"]), (&json!("a.txt"), &json!(true)));
    let found = world.get(&format!("{path}/glob?pattern=/workspace/**/*.txt")).await.json();
    assert_eq!(found, json!(["/workspace/a.txt", "/workspace/d/b.txt"]));
    assert_eq!(world.get(&format!("{path}/glob?pattern=/nope*")).await.text(), "[]\n");
    let moved = r#"{"old_path":"/workspace/a.txt","new_path":"/workspace/n/c.txt"}"#;
    assert_eq!(world.post(&format!("{path}/move"), moved).await.json()["status"], "moved");
    let chmod = r#"{"path":"/workspace/n/c.txt","mode":"755"}"#;
    assert_eq!(world.post(&format!("{path}/chmod"), chmod).await.json()["status"], "chmod applied");
    let stat = world.get(&format!("{path}/stat?path=/workspace/n/c.txt")).await.json();
    assert_eq!((&stat["mode"], &stat["size"]), (&json!("0755"), &json!(1)));
    let target = format!("{path}?path=/workspace/n");
    assert_eq!(world.delete(&target).await.code(), "CONFLICT");
    let gone = world.delete(&format!("{target}&recursive=true")).await;
    assert_eq!(gone.json()["status"], "deleted");
    assert_eq!(
        world.get(&format!("{path}/stat?path=/workspace/n/c.txt")).await.code(),
        "NOT_FOUND"
    );
}

/// An answer that comes before the end of the body is seen by whoever sends that.
#[tokio::test]
async fn a_refused_upload_is_answered_and_not_cut() {
    let world = World::new().await;
    let target = "/sandboxes/sb-00000000000000000000/files?path=/workspace/x";
    let image = [("content-type", "application/x-tar")];
    for _ in 0..5 {
        let put = world.send(Method::PUT, target, &[], vec![0_u8; 6 << 20]).await;
        assert_eq!(put.code(), "NOT_FOUND");
        let put = world.send(Method::PUT, "/images/alpine", &image, vec![0_u8; 6 << 20]).await;
        assert_eq!(put.code(), "UNSUPPORTED");
    }
}
