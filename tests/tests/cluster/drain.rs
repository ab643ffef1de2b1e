//! R5.7: nothing new on a worker; what runs there goes on.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;
use stacyvm_tests::{Counter, Relay, Server, python, server};

use crate::world::{
    Home, LIMIT, Settings, becomes, destroy, generation, heard, id, is, nobody_takes_it, says,
    spawn,
};

fn workers(server: &Server, verb: &str, id: &str) -> Result<String> {
    let mut command = Command::new(server::binary());
    command.args(["--server", &format!("http://{}", server.at), "workers", verb, id]);
    python::run(&mut command)
}

pub(crate) fn by_command() -> Result<()> {
    let home = Home::new()?;
    let settings = Settings { provider: "mock", ..Settings::default() };
    let mut server = home.control_plane("server", &settings)?;
    let beats = Relay::start()?;
    beats.mend(server.at);
    let relayed = format!("http://{}", beats.at);
    let one = home.worker_of("one", &relayed, &settings)?;
    heard(&server, &one)?;
    let there = server.spawn()?;
    let other = home.worker_of("other", &relayed, &settings)?;
    heard(&server, &other)?;
    workers(&server, "drain", "one")?;
    let mut made = Vec::new();
    for _ in 0..5 {
        let row = spawn(&server, &json!({}))?;
        ensure!(row["worker_id"] == "other", "{row}");
        made.push(id(&row)?);
    }
    ensure!(says(&server, &there, "echo on")? == "on\n", "what runs goes on");
    workers(&server, "drain", "other")?;
    nobody_takes_it(&server)?;

    // It is written in the registry: neither end forgets it.
    server.kill();
    server = home.control_plane("server", &settings)?;
    beats.mend(server.at);
    for name in ["one", "other"] {
        is(&server, name, |row| row["status"] == "draining" && row["cordoned"] == true)?;
    }
    nobody_takes_it(&server)?;
    workers(&server, "undrain", "one")?;
    let row = spawn(&server, &json!({}))?;
    ensure!(row["worker_id"] == "one", "{row}");
    made.extend([id(&row)?, there]);
    for id in made {
        destroy(&server, &id)?;
    }
    is(&server, "other", |row| row["load"]["sandboxes"] == 0)
}

/// R5.7: SIGTERM is a heartbeat that says `draining`; the next process adopts what ran.
pub(crate) fn by_signal() -> Result<()> {
    let home = Home::new()?;
    let slow = Settings { provider: "native", ..Settings::default() };
    let server = home.control_plane("server", &slow)?;
    let mut worker = home.worker("far", &server, &slow)?;
    let mut counter = Counter::start(&server)?;
    let sandbox = counter.sandbox.clone();
    counter.reads_on(&server)?;
    let before = generation(&server, "far", &sandbox)?;

    let ended = worker.stop(LIMIT)?;
    ensure!(ended.success(), "{ended}: {}", worker.log());
    let row = server.get("/api/v1/workers/far")?.json();
    ensure!(row["status"] == "draining" || row["status"] == "offline", "{row}");
    nobody_takes_it(&server)?;
    let log = worker.log();
    ensure!(log.contains("what runs goes on"), "{log}");

    let worker = home.worker("far", &server, &slow)?;
    becomes(&server, &sandbox, "running")?;
    counter.reads_on(&server)?;
    ensure!(before <= generation(&server, "far", &sandbox)?);
    destroy(&server, &sandbox)?;
    is(&server, &worker.id, |row| row["load"]["sandboxes"] == 0)
}
