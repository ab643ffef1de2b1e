//! Writing files: all or nothing.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::{join, time};

use super::{
    Scene, list,
    scene::{body, eventually, soon},
};
use crate::{Error, ErrorKind, WriteOptions};

list! {
    a_write_makes_parent_directories if |_| true;
    a_write_answers_what_was_made if |_| true;
    a_write_keeps_the_mode_of_an_existing_file if |_| true;
    a_failed_upload_leaves_the_old_file if |_| true;
    a_dropped_upload_leaves_the_old_file if |_| true;
    an_overwrite_is_seen_whole_or_not_at_all if |_| true;
    writes_of_one_file_at_once_give_one_of_them if |_| true;
    a_write_below_a_file_is_a_conflict if |_| true;
}

async fn a_write_makes_parent_directories(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/a/b/c d/f", "deep").await;
    assert_eq!(sandbox.ok("cat 'a/b/c d/f'").await, "deep");
}

async fn a_write_answers_what_was_made(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let options = WriteOptions { mode: Some(0o750) };
    let info = sandbox.guest.write("/workspace/f", options, body("12345")).await.unwrap();
    assert_eq!((info.size, info.mode, &*info.path), (5, 0o750, "/workspace/f"));
    assert_eq!(sandbox.guest.stat("/workspace/f").await.unwrap(), info);
}

async fn a_write_keeps_the_mode_of_an_existing_file(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/f", "1").await;
    assert_eq!(sandbox.ok("stat -c %a f").await, "644");
    sandbox.guest.chmod("/workspace/f", 0o700).await.unwrap();
    sandbox.put("/workspace/f", "2").await;
    assert_eq!(sandbox.ok("stat -c %a f; cat f").await, "700\n2");
    let options = WriteOptions { mode: Some(0o10_000) };
    let error = sandbox.guest.write("/workspace/f", options, body("3")).await.unwrap_err();
    assert_eq!((error.kind, &*sandbox.ok("cat f").await), (ErrorKind::Invalid, "2"));
}

async fn a_failed_upload_leaves_the_old_file(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/f", "old").await;
    for path in ["/workspace/f", "/workspace/new"] {
        let broken = stream::iter([
            Ok(Bytes::from(vec![0; 200_000])),
            Err(Error::new(ErrorKind::Unavailable, "the client went away")),
        ]);
        let write = sandbox.guest.write(path, WriteOptions::default(), broken.boxed());
        assert!(soon("the broken upload", write).await.is_err());
    }
    assert_eq!(sandbox.get("/workspace/f").await.unwrap(), b"old");
    eventually("nothing else is left", || async { sandbox.ok("ls -A").await == "f" }).await;
}

async fn a_dropped_upload_leaves_the_old_file(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/f", "old").await;
    let endless = stream::iter([Ok(Bytes::from(vec![0; 200_000]))]).chain(stream::pending());
    let write = sandbox.guest.write("/workspace/f", WriteOptions::default(), endless.boxed());
    assert!(time::timeout(Duration::from_millis(300), write).await.is_err());
    assert_eq!(sandbox.get("/workspace/f").await.unwrap(), b"old");
    eventually("nothing else is left", || async { sandbox.ok("ls -A").await == "f" }).await;
}

async fn an_overwrite_is_seen_whole_or_not_at_all(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let make = |byte: u8| vec![byte; 500_000];
    sandbox.put("/workspace/f", make(b'a')).await;
    let write = async {
        for round in 0..20 {
            sandbox.put("/workspace/f", make(if round % 2 == 0 { b'b' } else { b'a' })).await;
        }
    };
    let read = async {
        for _ in 0..20 {
            let bytes = sandbox.get("/workspace/f").await.unwrap();
            assert_eq!(bytes.len(), 500_000);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture of two versions");
        }
    };
    join!(write, read);
}

async fn writes_of_one_file_at_once_give_one_of_them(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let writes = (b'a'..b'i').map(|byte| sandbox.put("/workspace/f", vec![byte; 300_000]));
    futures_util::future::join_all(writes).await;
    let bytes = sandbox.get("/workspace/f").await.unwrap();
    assert_eq!(bytes.len(), 300_000);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture of two uploads");
    assert_eq!(sandbox.ok("ls -A").await, "f");
}

async fn a_write_below_a_file_is_a_conflict(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/f", "kept").await;
    let write = sandbox.guest.write("/workspace/f/below", WriteOptions::default(), body("x"));
    let error = soon("write", write).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
    assert_eq!(sandbox.get("/workspace/f").await.unwrap(), b"kept");
}
