//! R5.8: a worker that is gone, and comes back.

use anyhow::{Result, ensure};
use serde_json::json;
use stacyvm_tests::{Counter, Relay, Server, Worker, host, server::wait_for};

use crate::world::{
    Home, LIMIT, Settings, becomes, destroy, generation, heard, id, is, nobody_takes_it, row,
    runtimes, says, spawn,
};

const NATIVE: Settings<'_> = Settings {
    provider: "native",
    auth: None,
    worker: &[],
    defaults: &[],
    dsn: None,
    failpoint: None,
};

/// Waits until no server's word is needed to know that nothing is left of the worker.
fn leaves_nothing(mut worker: Worker) -> Result<()> {
    worker.stop(LIMIT)?;
    let left = host::Leftovers::of(&worker.data);
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}

fn dies(server: &Server, worker: &mut Worker, id: &str) -> Result<()> {
    worker.kill();
    let row = becomes(server, id, "unhealthy")?;
    ensure!(row["cause"]["kind"] == "worker_lost", "{row}");
    is(server, &worker.id, |row| row["status"] == "offline" && row["stale"] == true)
}

/// R4.7: what ran goes on under the next generation, and its output without a byte lost.
pub(crate) fn comes_back() -> Result<()> {
    let home = Home::new()?;
    let server = home.control_plane("server", &NATIVE)?;
    let mut worker = home.worker("far", &server, &NATIVE)?;
    let mut counter = Counter::start(&server)?;
    let sandbox = counter.sandbox.clone();
    counter.reads_on(&server)?;
    let first = generation(&server, "far", &sandbox)?;

    dies(&server, &mut worker, &sandbox)?;
    let path = format!("/api/v1/sandboxes/{sandbox}");
    let commands = json!({"command": "true"});
    for refused in [
        server.post(&format!("{path}/exec"), &commands)?,
        server.get(&format!("{path}/files?path=/etc/hostname"))?,
    ] {
        let said = refused.json();
        ensure!(refused.status == 409 && said["code"] == "WRONG_STATE", "{said}");
        ensure!(said["details"]["cause"]["kind"] == "worker_lost", "{said}");
        ensure!(said["message"].as_str().is_some_and(|text| text.contains("far")), "{said}");
    }
    nobody_takes_it(&server)?;

    let worker = home.worker("far", &server, &NATIVE)?;
    becomes(&server, &sandbox, "running")?;
    let second = generation(&server, "far", &sandbox)?;
    ensure!(first < second, "{second} after {first}");
    counter.reads_on(&server)?;
    ensure!(says(&server, &sandbox, "echo still here")? == "still here\n");
    destroy(&server, &sandbox)?;
    leaves_nothing(worker)
}

/// Its place stays taken until the runtime is known to be gone.
pub(crate) fn destroyed_meanwhile() -> Result<()> {
    let home = Home::new()?;
    let server = home.control_plane("server", &NATIVE)?;
    let mut worker = home.worker("far", &server, &NATIVE)?;
    let sandbox = server.spawn()?;
    dies(&server, &mut worker, &sandbox)?;
    let ended = server.delete(&format!("/api/v1/sandboxes/{sandbox}"))?;
    ensure!(ended.status == 503, "{}: {}", ended.status, ended.json());
    ensure!(row(&server, &sandbox)?.status == 404);
    is(&server, "far", |row| row["load"]["sandboxes"] == 1)?;
    ensure!(runtimes(&worker.data) == [sandbox], "it lives");

    let worker = home.worker("far", &server, &NATIVE)?;
    wait_for("the runtime's end", LIMIT, || Ok(runtimes(&worker.data).is_empty().then_some(())))?;
    is(&server, "far", |row| row["load"]["sandboxes"] == 0)?;
    leaves_nothing(worker)
}

/// R4.7: the worker lives and nobody can reach it.
pub(crate) fn ends_by_itself() -> Result<()> {
    let home = Home::new()?;
    let server = home.control_plane("server", &NATIVE)?;
    let (beats, calls) = (Relay::start()?, Relay::start()?);
    beats.mend(server.at);
    let reached = [format!("rpc_url: \"http://{}\"", calls.at)];
    let settings = Settings { worker: &reached, ..NATIVE };
    let worker = home.worker_of("far", &format!("http://{}", beats.at), &settings)?;
    calls.mend(worker.at);
    is(&server, "far", |row| row["status"] == "online")?;
    let brief = id(&spawn(&server, &json!({"ttl": "6s"}))?)?;
    let long = server.spawn()?;

    beats.cut();
    calls.cut();
    becomes(&server, &long, "unhealthy")?;
    wait_for(
        "the end by itself",
        LIMIT,
        || Ok((runtimes(&worker.data) == [&*long]).then_some(())),
    )?;
    is(&server, "far", |row| row["load"]["sandboxes"] == 2)?;
    ensure!(row(&server, &brief)?.status == 404, "its time is over");

    calls.mend(worker.at);
    beats.mend(server.at);
    is(&server, "far", |row| row["load"]["sandboxes"] == 1)?;
    becomes(&server, &long, "running")?;
    destroy(&server, &long)?;
    leaves_nothing(worker)
}

/// A worker whose calls come through again while its heartbeats never stopped is used again.
pub(crate) fn unreachable() -> Result<()> {
    let home = Home::new()?;
    let settings = Settings { provider: "mock", ..NATIVE };
    let server = home.control_plane("server", &settings)?;
    let calls = Relay::start()?;
    let reached = [format!("rpc_url: \"http://{}\"", calls.at)];
    let settings = Settings { worker: &reached, ..settings };
    let cut = home.worker_of("cut", &format!("http://{}", server.at), &settings)?;
    calls.mend(cut.at);
    is(&server, "cut", |row| row["status"] == "online")?;
    let there = server.spawn()?;
    // The fuller one, so that it is for the failure alone that it is chosen.
    let few = ["max_sandboxes: 8".to_owned()];
    let other = home.worker("other", &server, &Settings { worker: &few, ..settings })?;
    calls.cut();
    let refused =
        server.post(&format!("/api/v1/sandboxes/{there}/exec"), &json!({"command": "true"}))?;
    ensure!(refused.status == 503, "{}: {}", refused.status, refused.json());
    // R4.4: after the one call that failed, each finds the other one.
    for _ in 0..4 {
        let row = spawn(&server, &json!({}))?;
        ensure!(row["worker_id"] == "other", "{row}");
        destroy(&server, &id(&row)?)?;
    }
    calls.mend(cut.at);
    wait_for("a call that comes through", LIMIT, || Ok(says(&server, &there, "echo back").ok()))?;
    destroy(&server, &there)?;
    heard(&server, &other)
}
