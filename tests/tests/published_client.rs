//! R8.1: the published Python package drives every method it has against a real server with the
//! native provider, of its own and of a worker at a distance.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use stacyvm_tests::{
    Options, Server, Worker, host,
    image::busybox_tar,
    python::{self, run},
    server::{self, wait_for},
};

const PACKAGE: &str = "stacyvm==0.1.1";

/// Makes a key; its text.
fn made_key(server: &Server, request: &serde_json::Value) -> Result<String> {
    let reply = server.post("/api/v1/admin/keys", request)?;
    ensure!(reply.status == 201, "the key was answered with {}", reply.json());
    Ok(reply.json()["key"].as_str().context("a key has a text")?.to_owned())
}

/// Where the sandboxes run.
struct World {
    server: Server,
    /// The one that has them, when the server has none of its own.
    worker: Option<Worker>,
    /// The data directory of whoever has them.
    data: PathBuf,
}

impl World {
    fn local(dir: &Path) -> Result<Self> {
        let data = dir.join("data");
        let server = Server::start(&data, &Options::default())?;
        Ok(Self { server, worker: None, data })
    }

    /// A server that runs nothing itself, and a worker that it imports the image at.
    fn remote(dir: &Path, archive: &Path) -> Result<Self> {
        let data = dir.join("worker");
        let settings = dir.join("stacyvm.yaml");
        let token = "auth: {worker_token: YmV0d2Vlbi10aGlzLXNlcnZlci1hbmQtaXRzLXdvcmtlcg}\n";
        let server = "worker: {enabled: false, id: server, heartbeat_interval: 1s}\n";
        std::fs::write(&settings, format!("{token}{server}"))?;
        let args = vec![format!("--config={}", settings.display())];
        let server = Server::start(&dir.join("server"), &Options { args, ..Options::default() })?;
        let settings = dir.join("worker.yaml");
        std::fs::write(&settings, format!("{token}worker: {{heartbeat_interval: 1s}}\n"))?;
        let args = [
            format!("--config={}", settings.display()),
            format!("--control-plane=http://{}", server.at),
        ];
        let worker = Worker::start(&data, "far", &args)?;
        wait_for("the worker's heartbeat", Duration::from_secs(30), || {
            let row = server.get("/api/v1/workers/far")?.json();
            Ok((row["status"] == "online").then_some(()))
        })?;
        import(&server, archive)?;
        Ok(Self { server, worker: Some(worker), data })
    }
}

fn import(server: &Server, archive: &Path) -> Result<String> {
    let url = format!("http://{}", server.at);
    let mut command = Command::new(server::binary());
    command.args(["--server", &url, "image", "import", "alpine:latest"]);
    run(command.arg(archive))
}

/// R8.1, R9.2: sync and async, and with a key that speaks for its users, with `spawn()`'s own default image.
#[test]
fn the_published_python_client_works_unchanged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let world = World::local(dir.path())?;
    let before =
        world.server.post("/api/v1/sandboxes", &serde_json::json!({"image": "alpine:latest"}))?;
    ensure!(before.status == 404, "an unknown image answered {}", before.status);
    let message = before.json()["message"].to_string();
    ensure!(message.contains("stacyvm image import alpine:latest"), "{message}");
    import(&world.server, &busybox_tar(dir.path())?)?;
    drive(world)
}

/// R5.6: clients cannot tell a sandbox at a distance from one at hand.
#[test]
fn the_published_python_client_works_unchanged_over_a_remote_worker() -> Result<()> {
    let dir = tempfile::tempdir()?;
    drive(World::remote(dir.path(), &busybox_tar(dir.path())?)?)
}

fn drive(world: World) -> Result<()> {
    let World { mut server, worker, data } = world;
    let python = python::environment("published-client", &[PACKAGE], "stacyvm")?;
    let url = format!("http://{}", server.at);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/drive_published.py");
    for kind in ["sync", "async"] {
        run(Command::new(&python).arg(&script).args([&url, kind]))?;
    }
    ensure!(server.live()?.is_empty(), "the client left sandboxes");

    // From its first key on the server asks; this client knows one header for it.
    let root = made_key(&server, &serde_json::json!({"name": "root", "role": "admin"}))?;
    server.key = Some(root);
    let backend = serde_json::json!({"name": "backend", "role": "api", "speak_for": true});
    let backend = made_key(&server, &backend)?;
    let drive = |key: &str| run(Command::new(&python).arg(&script).args([&url, "sync", key]));
    ensure!(drive("wrong").is_err(), "a wrong key was good enough");
    drive(&backend)?;
    ensure!(server.live()?.is_empty(), "the client left sandboxes");
    drop(worker);
    drop(server);
    let left = host::Leftovers::of(&data);
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}
