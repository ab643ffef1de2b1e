//! More spawns than a server lets live, from outside: real HTTP, SQLite and processes.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stacyvm_tests::{Options, Reply, Server, http, server::wait_for};

const LIMIT: usize = 50;
const SPAWNS: usize = 500;

fn serve(dir: &Path, settings: &str) -> Result<Server> {
    let file = dir.join("stacyvm.yaml");
    std::fs::write(&file, format!("defaults:\n  max_sandboxes: {LIMIT}\n{settings}"))?;
    let args = vec!["--provider=mock".into(), format!("--config={}", file.display())];
    Server::start(&dir.join("data"), &Options { args, ..Options::default() })
}

/// Live sandboxes by id.
fn live(server: &Server) -> Result<BTreeSet<String>> {
    let rows = server.get("/api/v1/sandboxes")?.json();
    let ids = rows.as_array().context("a list")?.iter().filter_map(|row| row["id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

fn spawn_all(server: &Server, each: impl Fn(Result<Reply>) + Sync) {
    let next = AtomicUsize::new(0);
    let at = server.at;
    std::thread::scope(|scope| {
        for _ in 0..SPAWNS {
            let (each, next) = (&each, &next);
            scope.spawn(move || {
                let owner = format!("owner-{}", next.fetch_add(1, Ordering::Relaxed) % 10);
                let body = json!({ "owner_id": owner, "ttl": "10m" });
                each(http::call(at, "POST", "/api/v1/sandboxes", Some(&body)));
            });
        }
    });
}

fn scheduler(server: &Server) -> Result<Value> {
    Ok(server.get("/api/v1/diagnostics")?.json()["scheduler"].clone())
}

/// R3.2, R3.4: without a queue, exactly as many live as may, and every other spawn is refused.
#[test]
fn spawns_above_the_limit_are_refused_and_exactly_the_limit_lives() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = serve(dir.path(), "")?;
    let (made, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    spawn_all(&server, |reply| {
        let reply = reply.expect("an answer");
        match reply.status {
            201 => _ = made.fetch_add(1, Ordering::Relaxed),
            429 => {
                let body = reply.json();
                assert_eq!(body["code"], "RESOURCE_LIMIT");
                let message = "resource limit exceeded: max sandboxes reached (50)";
                assert_eq!(body["message"], message);
                refused.fetch_add(1, Ordering::Relaxed);
            }
            other => panic!("{other}: {}", reply.json()),
        }
    });
    ensure!(made.into_inner() == LIMIT && refused.into_inner() == SPAWNS - LIMIT);
    ensure!(live(&server)?.len() == LIMIT);
    Ok(())
}

/// R3.4, R3.5: with a queue everybody comes to their turn, and never more than the limit live.
#[test]
fn spawns_above_the_limit_wait_and_all_come_to_their_turn() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let settings = "  spawn_overflow: queue\n  max_spawn_queue: 1000\n  spawn_queue_timeout: 5m\n";
    let server = serve(dir.path(), settings)?;
    let made = AtomicUsize::new(0);
    spawn_all(&server, |reply| {
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, 201, "{}", reply.json());
        made.fetch_add(1, Ordering::Relaxed);
        let usage = server.post("/api/v1/sandboxes/admission", &json!({})).expect("an answer");
        let active = usage.json()["active_sandboxes"].as_u64().expect("a count");
        assert!(active <= LIMIT as u64, "{active}");
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        let gone = server.delete(&format!("/api/v1/sandboxes/{id}")).expect("an answer");
        assert_eq!(gone.status, 200);
    });
    ensure!(made.into_inner() == SPAWNS);
    ensure!(live(&server)?.is_empty());
    ensure!(scheduler(&server)?["spawn_queue_depth"] == 0);
    Ok(())
}

/// R3.3, R1.8: killed in the middle, what was answered lives, nothing else does for long, and the
/// places that are taken are those of what lives: as many more can be had as the limit leaves.
#[test]
fn a_kill_in_the_middle_loses_no_sandbox_and_no_place() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let settings = "  spawn_overflow: queue\n  max_spawn_queue: 1000\n  spawn_queue_timeout: 5m\n";
    let mut server = serve(dir.path(), settings)?;
    let answered = std::sync::Mutex::new(BTreeSet::new());
    let pid = rustix::process::Pid::from_child(&server.child);
    let killed = AtomicUsize::new(0);
    spawn_all(&server, |reply| {
        let Ok(reply) = reply else { return };
        if reply.status != 201 {
            return;
        }
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        let mut answered = answered.lock().expect("no panic");
        answered.insert(id);
        if answered.len() == LIMIT / 2 && killed.fetch_add(1, Ordering::Relaxed) == 0 {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
        }
    });
    let answered = answered.into_inner()?;
    ensure!(LIMIT / 2 <= answered.len() && answered.len() <= LIMIT, "{}", answered.len());
    server.wait(Duration::from_secs(10))?;
    drop(server);

    let server = serve(dir.path(), "")?;
    // The mock's processes end with their server; a runtime of its own is adopted or found dead.
    wait_for("rows that are settled", Duration::from_secs(60), || {
        let rows = server.get("/api/v1/sandboxes")?.json();
        let rows = rows.as_array().context("a list")?.clone();
        Ok(rows.iter().all(|row| row["state"] == "running").then_some(()))
    })?;
    let survivors = live(&server)?;
    for id in &answered {
        let row = server.get(&format!("/api/v1/sandboxes/{id}?include=ended"))?;
        ensure!(row.status == 200, "{id} was answered and is forgotten");
    }
    let mut more = 0;
    loop {
        let reply = server.post("/api/v1/sandboxes", &json!({}))?;
        match reply.status {
            201 => more += 1,
            429 => break,
            other => anyhow::bail!("{other}: {}", reply.json()),
        }
    }
    ensure!(survivors.len() + more == LIMIT, "{} and {more}", survivors.len());
    ensure!(live(&server)?.len() == LIMIT);
    Ok(())
}
