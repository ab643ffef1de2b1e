//! R5.9: a server that runs nothing itself, and a worker.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use stacyvm_postgres_fixture as postgres;
use stacyvm_tests::{Worker, host, http};

use crate::world::{Home, Settings, database, destroy, id, is, nobody_takes_it, says, spawn};

pub(crate) fn mock() -> Result<()> {
    runs("mock", |_| Ok(()))
}

pub(crate) fn native() -> Result<()> {
    runs("native", |worker| {
        let left = host::Leftovers::of(&worker.data);
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })
}

/// R6.8: what the server remembers is in Postgres.
pub(crate) fn postgres(postgres: &postgres::Server) -> Result<()> {
    let dsn = database(postgres)?;
    let worker = Settings { provider: "mock", ..Settings::default() };
    runs_with(&Settings { dsn: Some(&dsn), ..worker.clone() }, &worker, |_| Ok(()))
}

fn runs(provider: &str, after: impl FnOnce(&Worker) -> Result<()>) -> Result<()> {
    let settings = Settings { provider, ..Settings::default() };
    runs_with(&settings, &settings, after)
}

fn runs_with(
    settings: &Settings<'_>,
    of_worker: &Settings<'_>,
    after: impl FnOnce(&Worker) -> Result<()>,
) -> Result<()> {
    let home = Home::new()?;
    let provider = settings.provider;
    let server = home.control_plane("server", settings)?;
    let refused = server.post("/api/v1/sandboxes", &json!({}))?;
    ensure!(refused.status == 503 || refused.status == 404, "{}", refused.json());
    let mut worker = home.worker("far", &server, of_worker)?;

    let row = spawn(&server, &json!({}))?;
    ensure!(row["worker_id"] == "far" && row["provider"] == provider, "{row}");
    let id = id(&row)?;
    ensure!(says(&server, &id, "echo over there")? == "over there\n");
    let body = json!({"path": "/tmp/note", "content": "kept"});
    let path = format!("/api/v1/sandboxes/{id}/files");
    ensure!(server.post(&path, &body)?.status == 200);
    ensure!(server.get(&format!("{path}?path=/tmp/note"))?.body == b"kept");
    let extended = server.post(&format!("/api/v1/sandboxes/{id}/extend"), &json!({"ttl": "2h"}))?;
    ensure!(extended.status == 200, "{}", extended.json());
    is(&server, "far", |row| row["load"]["sandboxes"] == 1)?;
    let health = http::call(worker.at, "GET", "/health", None)?;
    ensure!(health.status == 200 && health.json()["worker_id"] == "far", "{}", health.json());

    destroy(&server, &id)?;
    is(&server, "far", |row| row["load"]["sandboxes"] == 0)?;
    let ended = worker.stop(crate::world::LIMIT)?;
    ensure!(ended.success(), "{ended}: {}", worker.log());
    after(&worker)
}

/// R5.1: `--once` takes no calls.
pub(crate) fn once() -> Result<()> {
    let home = Home::new()?;
    let settings = Settings { provider: "mock", ..Settings::default() };
    let server = home.control_plane("server", &settings)?;
    // Whoever listens there is another.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let listens = [format!("listen_addr: {}", taken.local_addr()?)];
    let own = Settings { worker: &listens, ..settings };
    let said = home.says_once("brief", &server, &own).context("--once")?;
    ensure!(said.status.success(), "{said:?}");
    is(&server, "brief", |row| row["status"] == "online" && row["providers"] == json!(["mock"]))?;
    let row = server.get("/api/v1/workers/brief")?.json();
    ensure!(row["capacity"]["rpc_url"].is_null(), "nobody is sent to it: {row}");
    nobody_takes_it(&server)
}
