//! R1.8: the server is killed with SIGKILL at every named step of spawn, exec, extend and destroy.
//!
//! Over one data directory a bystander sandbox runs a counting command from the first server to
//! the last. For each step a server with that failpoint is started, made to reach it, and dies; the
//! next server must find rows and runtimes in agreement, and the bystander's output without a byte
//! lost or doubled.

use std::{os::unix::process::ExitStatusExt, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stacyvm_tests::{Counter, Options, Server, host, http, server::wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// What makes a server reach a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Spawn {
        pool: u32,
    },
    /// With an idempotency key; `tests/idempotency.rs` looks at what a repeat gets.
    KeyedSpawn,
    SpawnTemplate {
        name: &'static str,
    },
    Exec,
    Extend,
    Destroy,
}

fn deed(step: &str) -> Deed {
    match step {
        "control.spawn.set_up" => Deed::SpawnTemplate { name: "works" },
        "control.spawn.failed" => Deed::SpawnTemplate { name: "fails" },
        _ if step.contains(".claim.") || step.contains(".pool.") => Deed::Spawn { pool: 1 },
        _ if step.contains(".spawn.") || step.contains(".launch.") => Deed::Spawn { pool: 0 },
        _ if step.contains(".exec.") => Deed::Exec,
        _ if step.contains(".extend.") => Deed::Extend,
        _ if step.contains(".once.") => Deed::KeyedSpawn,
        _ if step.contains(".destroy.") => Deed::Destroy,
        _ => panic!("no deed reaches {step}: name it here"),
    }
}

/// Rows and runtimes agree: nothing is under way, every live row answers, every runtime has a row.
fn agree(server: &Server, data: &Path) -> Result<()> {
    let rows = wait_for("every row at rest", LIMIT, || {
        let rows = server.get("/api/v1/sandboxes")?.json();
        let rows = rows.as_array().context("an array")?.clone();
        Ok(rows.iter().all(|row| row["state"] == "running").then_some(rows))
    })?;
    let mut ids = Vec::new();
    for row in &rows {
        let id = row["id"].as_str().context("id")?;
        ensure!(server.exec(id, "echo here")?["stdout"] == "here\n", "{id} does not answer");
        ids.push(id.to_owned());
    }
    ids.sort();
    wait_for("runtimes equal to rows", LIMIT, || {
        let mut runtimes: Vec<_> = std::fs::read_dir(data.join("run/runtimes/sandboxes"))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        runtimes.sort();
        Ok((runtimes == ids).then_some(()))
    })
    .with_context(|| format!("rows {ids:?}"))
}

/// Sends a request that the server may not live to answer.
fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Option<stacyvm_tests::Reply> {
    http::call(server.at, method, path, Some(body)).ok()
}

fn sweep_step(data: &Path, step: &str, bystander: &mut Counter) -> Result<()> {
    let deed = deed(step);
    let pool = if let Deed::Spawn { pool } = deed { pool } else { 0 };
    let args = vec!["--pool".to_owned(), pool.to_string()];

    // The victim of the deed is made by a server that does not die of it.
    let quiet = Options { args: args.clone(), ..Options::default() };
    let mut server = Server::start(data, &quiet)?;
    let victim = server.spawn()?;
    bystander.reads_on(&server)?;
    server.kill();

    let mut server =
        Server::start(data, &Options { args, failpoint: Some(step.to_owned()), key: None })?;
    let at = format!("/api/v1/sandboxes/{victim}");
    let exec_id = "ex-0000000000000000000a";
    match deed {
        Deed::Spawn { .. } => {
            ask(&server, "POST", "/api/v1/sandboxes", &json!({}));
        }
        Deed::KeyedSpawn => {
            let at = server.at;
            let head = format!(
                "POST /api/v1/sandboxes HTTP/1.1\r\nHost: {at}\r\nIdempotency-Key: {step}\r\n\
                 Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            );
            ensure!(http::raw(at, head.as_bytes()).is_err(), "the server lived to answer");
        }
        Deed::SpawnTemplate { name } => {
            ask(&server, "POST", &format!("/api/v1/templates/{name}/spawn"), &json!({}));
        }
        Deed::Exec => {
            let body = json!({"command": "printf one; sleep 0.3; printf two", "exec_id": exec_id});
            ask(&server, "POST", &format!("{at}/exec"), &body);
        }
        Deed::Extend => {
            ask(&server, "POST", &format!("{at}/extend"), &json!({"ttl": "2h"}));
        }
        Deed::Destroy => {
            ask(&server, "DELETE", &at, &json!({}));
        }
    }
    let status = server.wait(LIMIT).with_context(|| format!("{step} was not reached"))?;
    ensure!(status.signal() == Some(9), "the server ended with {status} instead of dying");

    let mut server = Server::start(data, &quiet)?;
    agree(&server, data)?;
    bystander.reads_on(&server)?;
    let row = server.get(&at)?;
    match deed {
        Deed::Destroy if step == "control.destroy.asked" => ensure!(row.status == 200),
        Deed::Destroy => ensure!(row.status == 404, "a half-destroyed sandbox came back"),
        _ => ensure!(row.status == 200, "the victim was disturbed: {}", row.json()),
    }
    if deed == Deed::Exec {
        let reply = server.get(&format!("{at}/exec/{exec_id}?offset=0"))?;
        let output: String = reply.lines().iter().filter_map(|f| f["data"].as_str()).collect();
        let never_started = reply.status == 404 && step == "control.exec.recorded";
        ensure!(never_started || output == "onetwo", "{}: {output:?}", reply.status);
    }
    for id in server.live()? {
        if id != bystander.sandbox {
            ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200);
        }
    }
    server.kill();
    Ok(())
}

/// R1.8: a sweep over every step, not a sample.
#[test]
fn a_server_killed_at_any_step_leaves_rows_runtimes_and_running_commands_in_agreement() -> Result<()>
{
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let mut server = Server::start(&data, &Options::default())?;
    let template = |name: &str, setup: &str| json!({"name": name, "image": "host", "setup": [setup], "ttl": "10m"});
    for (name, setup) in [("works", "true"), ("fails", "exit 7")] {
        ensure!(server.post("/api/v1/templates", &template(name, setup))?.status == 201);
    }
    let mut bystander = Counter::start(&server)?;
    server.kill();

    let steps: Vec<_> = [stacyvm_control::FAILPOINTS, stacyvm_provider_native::FAILPOINTS].concat();
    ensure!(steps.len() > 15, "the lists of steps are short: {steps:?}");
    for step in steps {
        println!("killing at {step}");
        sweep_step(&data, step, &mut bystander).with_context(|| format!("step {step}"))?;
    }

    let server = Server::start(&data, &Options::default())?;
    bystander.reads_on(&server)?;
    ensure!(server.delete(&format!("/api/v1/sandboxes/{}", bystander.sandbox))?.status == 200);
    wait_for("nothing left", LIMIT, || Ok(host::Leftovers::of(&data).is_empty().then_some(())))?;
    drop(server);
    Ok(())
}
