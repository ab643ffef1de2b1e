//! R3.10: the server is killed with SIGKILL at every step of keyed work, and the request is sent
//! again to the next server: the same sandbox, one of it, and every command run once.

use std::{os::unix::process::ExitStatusExt, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stacyvm_tests::{Options, Reply, Server, host, http, server::wait_for};

const LIMIT: Duration = Duration::from_secs(30);

fn keyed(server: &Server, path: &str, key: &str, body: &Value) -> Result<Reply> {
    let (at, body) = (server.at, body.to_string());
    let head = format!(
        "POST /api/v1{path} HTTP/1.1\r\nHost: {at}\r\nIdempotency-Key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    http::raw(at, head.as_bytes())
}

fn starting(args: &[&str], failpoint: Option<&str>) -> Options {
    Options {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        failpoint: failpoint.map(str::to_owned),
        ..Options::default()
    }
}

/// Sends the request to a server that dies at the step, and again to the next one.
fn repeated(
    data: &Path,
    step: &str,
    (path, key): (&str, &str),
    body: &Value,
) -> Result<(Server, Option<Reply>, Reply)> {
    let mut server = Server::start(data, &starting(&["--pool", "0"], Some(step)))?;
    let first = keyed(&server, path, key, body).ok();
    let status = server.wait(LIMIT).with_context(|| format!("{step} was not reached"))?;
    ensure!(status.signal() == Some(9), "the server ended with {status} instead of dying");
    let server = Server::start(data, &starting(&["--pool", "0"], None))?;
    let again = keyed(&server, path, key, body)?;
    Ok((server, first, again))
}

fn spawns_once(data: &Path, step: &str, path: &str) -> Result<()> {
    let (mut server, first, again) = repeated(data, step, (path, step), &json!({}))?;
    ensure!(first.is_none(), "the server lived to answer");
    let sandbox = again.json();
    ensure!(again.status == 201, "{}: {sandbox}", again.status);
    let id = sandbox["id"].as_str().context("an id")?;
    ensure!(server.live()? == [id], "live: {:?}", server.live()?);
    ensure!(server.exec(id, "echo here")?["stdout"] == "here\n", "it does not answer");
    let third = keyed(&server, path, step, &json!({}))?;
    ensure!(third.body == again.body && third.head.contains("idempotency-replayed: true"));
    ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200);
    server.kill();
    Ok(())
}

/// R3.10: a sweep over every step of a keyed spawn.
#[test]
fn a_keyed_spawn_that_is_killed_at_any_step_makes_one_sandbox() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let mut server = Server::start(&data, &Options::default())?;
    let template = json!({"name": "works", "image": "host", "setup": ["true"], "ttl": "10m"});
    ensure!(server.post("/api/v1/templates", &template)?.status == 201);
    server.kill();
    let steps = stacyvm_control::FAILPOINTS.iter();
    let steps: Vec<_> = steps
        .filter(|step| step.contains(".once.") || step.contains(".spawn."))
        // Reached only by a launch that fails.
        .filter(|step| **step != "control.spawn.failed")
        .collect();
    ensure!(steps.len() == 8, "{steps:?}");
    for step in steps {
        println!("killing at {step}");
        spawns_once(&data, step, "/sandboxes").with_context(|| format!("step {step}"))?;
        spawns_once(&data, step, "/templates/works/spawn")
            .with_context(|| format!("from a template, step {step}"))?;
    }
    drop(Server::start(&data, &Options::default())?);
    wait_for("nothing left", LIMIT, || Ok(host::Leftovers::of(&data).is_empty().then_some(())))
}

/// R3.10: a sweep over every step of a keyed command, for both kinds of answer.
#[test]
fn a_keyed_command_that_is_killed_at_any_step_runs_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let mut server = Server::start(&data, &starting(&["--pool", "0"], None))?;
    let id = server.spawn()?;
    server.kill();
    let path = format!("/sandboxes/{id}/exec");
    let steps = stacyvm_control::FAILPOINTS.iter();
    for step in steps.filter(|step| step.contains(".once.") || step.contains(".exec.")) {
        for streams in [false, true] {
            println!("killing at {step}, stream: {streams}");
            let name = format!("{step}.{streams}");
            let line = format!("echo ran >> {name}; sleep 0.1; echo said");
            let body = json!({"command": line, "stream": streams});
            let (mut server, _, again) = repeated(&data, step, (&path, &name), &body)?;
            ensure!(again.status == 200, "{step}: {}: {}", again.status, again.json());
            let said: String = match streams {
                true => again.lines().iter().filter_map(|frame| frame["data"].as_str()).collect(),
                false => again.json()["stdout"].as_str().context("stdout")?.to_owned(),
            };
            ensure!(said == "said\n", "{step}: {said:?}");
            let runs = server.exec(&id, &format!("cat {name}"))?["stdout"].clone();
            ensure!(runs == "ran\n", "{step}: {runs}");
            server.kill();
        }
    }
    let server = Server::start(&data, &Options::default())?;
    ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200);
    Ok(())
}
