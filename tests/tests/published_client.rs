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

/// R8.1: sync and async, with `spawn()`'s own default image.
#[test]
fn the_published_python_client_works_unchanged() -> Result<()> {
    let python = python::environment("published-client", &[PACKAGE], "stacyvm")?;
    let dir = tempfile::tempdir()?;
    let server = Server::start(&dir.path().join("data"), &Options::default())?;
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
    drop(server);
    let left = host::Leftovers::of(&dir.path().join("data"));
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}
