//! R8.1: the published Python package drives every method it has against a real server with the
//! native provider.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use stacyvm_tests::{
    Options, Server, host,
    python::{self, run},
    server,
};

const PACKAGE: &str = "stacyvm==0.1.1";

/// A busybox tree as a tar archive: the smallest root file system that a shell lives in.
fn busybox_tar(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("bin"))?;
    std::fs::create_dir_all(tree.join("etc"))?;
    std::fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|path| path.exists()).context("busybox-static")?;
    std::fs::copy(busybox, tree.join("bin/busybox"))?;
    for applet in run(Command::new(busybox).arg("--list"))?.lines() {
        if applet != "busybox" {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet))?;
        }
    }
    let archive = dir.join("busybox.tar");
    run(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive)
}

/// Makes a key; its text.
fn made_key(server: &Server, request: &serde_json::Value) -> Result<String> {
    let reply = server.post("/api/v1/admin/keys", request)?;
    ensure!(reply.status == 201, "the key was answered with {}", reply.json());
    Ok(reply.json()["key"].as_str().context("a key has a text")?.to_owned())
}

/// R8.1, R9.2: sync and async, and with a key that speaks for its users, with `spawn()`'s own default image.
#[test]
fn the_published_python_client_works_unchanged() -> Result<()> {
    let python = python::environment("published-client", &[PACKAGE], "stacyvm")?;
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(&dir.path().join("data"), &Options::default())?;
    let url = format!("http://{}", server.at);

    let before =
        server.post("/api/v1/sandboxes", &serde_json::json!({"image": "alpine:latest"}))?;
    ensure!(before.status == 404, "an unknown image answered {}", before.status);
    let message = before.json()["message"].to_string();
    ensure!(message.contains("stacyvm image import alpine:latest"), "{message}");

    let archive = busybox_tar(dir.path())?;
    run(Command::new(server::binary())
        .args(["--server", &url, "image", "import", "alpine:latest"])
        .arg(archive))?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/drive_published.py");
    for kind in ["sync", "async"] {
        let said = run(Command::new(&python).arg(&script).args([&url, kind]))?;
        println!("{kind}:\n{said}");
    }
    ensure!(server.live()?.is_empty(), "the client left sandboxes");

    // From its first key on the server asks; this client knows one header for it.
    let root = made_key(&server, &serde_json::json!({"name": "root", "role": "admin"}))?;
    server.key = Some(root);
    let backend = serde_json::json!({"name": "backend", "role": "api", "speak_for": true});
    let backend = made_key(&server, &backend)?;
    let drive = |key: &str| run(Command::new(&python).arg(&script).args([&url, "sync", key]));
    ensure!(drive("wrong").is_err(), "a wrong key was good enough");
    println!("with a key:\n{}", drive(&backend)?);
    ensure!(server.live()?.is_empty(), "the client left sandboxes");
    drop(server);
    let left = host::Leftovers::of(&dir.path().join("data"));
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}
