//! Links, pipes and `..`: nothing leads out, nothing hangs.

use super::{
    Scene, list,
    scene::{Planted, body, soon},
};
use crate::{ErrorKind, FileKind, WriteOptions};

list! {
    a_link_is_followed_inside_the_sandbox if |_| true;
    a_write_follows_a_last_link if |_| true;
    a_dangling_link_is_not_found_and_can_be_written_through if |_| true;
    a_loop_of_links_is_refused if |_| true;
    a_link_to_outside_reads_what_the_sandbox_has_there if |_| true;
    climbing_paths_stay_inside if |_| true;
    a_pipe_is_refused_and_does_not_hang if |_| true;
    a_link_into_proc_gives_nothing if |_| true;
    removing_a_link_leaves_its_target if |_| true;
}

async fn a_link_is_followed_inside_the_sandbox(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("mkdir -p a/b; echo deep > a/b/f; ln -s a/b d; ln -s ../workspace/d/f l").await;
    assert_eq!(sandbox.get("/workspace/d/f").await.unwrap(), b"deep\n");
    assert_eq!(sandbox.get("/workspace/l").await.unwrap(), b"deep\n");
    sandbox.ok("ln -s /workspace/a/b/f absolute").await;
    assert_eq!(sandbox.get("/workspace/absolute").await.unwrap(), b"deep\n");
}

async fn a_write_follows_a_last_link(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("echo old > target; chmod 600 target; ln -s target link; ln -s link link2").await;
    sandbox.put("/workspace/link2", "new").await;
    assert_eq!(
        sandbox.ok("cat target; stat -c ' %a' target; readlink link").await,
        "new 600\ntarget"
    );
}

async fn a_dangling_link_is_not_found_and_can_be_written_through(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("ln -s later link").await;
    assert_eq!(sandbox.get("/workspace/link").await.err().unwrap().kind, ErrorKind::NotFound);
    let kind = sandbox.guest.stat("/workspace/link").await.unwrap_err().kind;
    assert_eq!(kind, ErrorKind::NotFound);
    sandbox.put("/workspace/link", "made").await;
    assert_eq!(sandbox.ok("cat later").await, "made");
}

async fn a_loop_of_links_is_refused(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("ln -s b a; ln -s a b").await;
    let error = soon("read", sandbox.get("/workspace/a")).await.err().unwrap();
    assert!(matches!(error.kind, ErrorKind::Invalid | ErrorKind::Conflict), "{error:?}");
    let write = sandbox.guest.write("/workspace/a", WriteOptions::default(), body("x"));
    let error = soon("write", write).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Invalid | ErrorKind::Conflict), "{error:?}");
}

async fn a_link_to_outside_reads_what_the_sandbox_has_there(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let secret = Planted::new();
    let climb = "../".repeat(30);
    let path = secret.0.display();
    sandbox.ok(&format!("ln -s {path} absolute; ln -s {climb}{path} relative")).await;
    for link in ["/workspace/absolute", "/workspace/relative"] {
        let read = sandbox.get(link).await;
        assert_eq!(read.err().map(|error| error.kind), Some(ErrorKind::NotFound), "{link}");
    }
    for link in ["/workspace/absolute", "/workspace/relative"] {
        sandbox.put(link, "of the sandbox").await;
        assert_eq!(sandbox.get(link).await.unwrap(), b"of the sandbox");
    }
    assert_eq!(std::fs::read(&secret.0).unwrap(), b"of the host");
}

async fn climbing_paths_stay_inside(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let secret = Planted::new();
    let path = format!("/workspace{}{}", "/..".repeat(30), secret.0.display());
    let read = sandbox.get(&path).await;
    assert!(read.is_err(), "{path} was read");
    sandbox.put("/workspace/f", "inside").await;
    match sandbox.get("/../../workspace/../workspace/f").await {
        Ok(bytes) => assert_eq!(bytes, b"inside"),
        Err(error) => {
            assert!(matches!(error.kind, ErrorKind::Invalid | ErrorKind::Denied), "{error:?}");
        }
    }
}

async fn a_pipe_is_refused_and_does_not_hang(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("mkfifo p; ln -s p l").await;
    let kinds = [ErrorKind::Conflict, ErrorKind::Invalid, ErrorKind::Denied];
    for path in ["/workspace/p", "/workspace/l"] {
        let error = soon("read", sandbox.get(path)).await.err().unwrap();
        assert!(kinds.contains(&error.kind), "{error:?}");
        let write = sandbox.guest.write(path, WriteOptions::default(), body("x"));
        let error = soon("write", write).await.unwrap_err();
        assert!(kinds.contains(&error.kind), "{error:?}");
    }
    assert_eq!(sandbox.guest.stat("/workspace/p").await.unwrap().kind, FileKind::Other);
}

async fn a_link_into_proc_gives_nothing(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("ln -s /proc p; ln -s /proc/self/environ e; ln -s /proc/1/root r").await;
    for path in ["/workspace/p/version", "/workspace/e", "/workspace/r/etc/passwd"] {
        assert!(soon("read", sandbox.get(path)).await.is_err(), "{path}");
    }
    assert!(sandbox.guest.list("/workspace/p").await.is_err());
    assert!(sandbox.guest.list("/workspace/r").await.is_err());
    let found = sandbox.guest.glob("/workspace/*/version").await.unwrap_or_default();
    assert!(found.is_empty(), "{found:?}");
}

async fn removing_a_link_leaves_its_target(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("mkdir d; touch d/f; ln -s d l").await;
    sandbox.guest.remove("/workspace/l", true).await.unwrap();
    assert_eq!(sandbox.ok("ls; ls d").await, "d\nf");
}
