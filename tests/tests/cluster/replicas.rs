//! Two servers on one Postgres, each with a worker of its own.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stacyvm_postgres_fixture as postgres;
use stacyvm_tests::{Server, http, server::wait_for};

use crate::world::{Home, LIMIT, Settings, becomes, database, destroy, id, is, row, says, spawn};

const NAMES: [&str; 2] = ["one", "two"];
pub(crate) const LISTENS: &str = "listen_addr: \"127.0.0.1:0\"";

/// Two servers that know each other.
pub(crate) fn pair(home: &Home, settings: &Settings<'_>) -> Result<[Server; 2]> {
    let servers = [home.server(NAMES[0], settings)?, home.server(NAMES[1], settings)?];
    for server in &servers {
        for name in NAMES {
            is(server, name, |row| row["status"] == "online")?;
        }
    }
    Ok(servers)
}

/// A sandbox on each worker, spawned at the first server.
fn one_on_each(servers: &[Server; 2]) -> Result<BTreeMap<String, String>> {
    let mut on = BTreeMap::new();
    let mut more = Vec::new();
    // Which worker is chosen is known to be the emptier one, once the server has looked at both.
    wait_for("a sandbox on each worker", LIMIT, || {
        let row = spawn(&servers[0], &json!({}))?;
        let worker = row["worker_id"].as_str().context("a worker")?.to_owned();
        more.extend(on.insert(worker, id(&row)?));
        Ok((on.len() == NAMES.len()).then_some(()))
    })?;
    for id in more {
        destroy(&servers[0], &id)?;
    }
    Ok(on)
}

/// R5.6: everything that a sandbox can be asked for, at the server that does not have it.
pub(crate) fn routed(postgres: &postgres::Server) -> Result<()> {
    let (home, dsn) = (Home::new()?, database(postgres)?);
    let listens = [LISTENS.to_owned()];
    let settings =
        Settings { provider: "mock", dsn: Some(&dsn), worker: &listens, ..Settings::default() };
    let servers = pair(&home, &settings)?;
    let on = one_on_each(&servers)?;
    for (server, sandbox) in servers.iter().flat_map(|s| on.values().map(move |id| (s, id))) {
        let path = format!("/api/v1/sandboxes/{sandbox}");
        ensure!(says(server, sandbox, "echo routed")? == "routed\n");
        let file = json!({"path": "/tmp/f", "content": format!("from {}", server.at)});
        ensure!(server.post(&format!("{path}/files"), &file)?.status == 200);
        let read = server.get(&format!("{path}/files?path=/tmp/f"))?;
        ensure!(read.body == format!("from {}", server.at).as_bytes());
        for part in ["stats", "logs"] {
            let reply = server.get(&format!("{path}/{part}"))?;
            ensure!(reply.status == 200, "{part}: {}", reply.json());
        }
        let stream = json!({"command": "echo a; echo b", "stream": true});
        let frames = server.post(&format!("{path}/exec"), &stream)?.lines();
        let text: String = frames.iter().filter_map(|frame| frame["data"].as_str()).collect();
        ensure!(text == "a\nb\n", "{text:?}");
        ensure!(server.post(&format!("{path}/extend"), &json!({"ttl": "3h"}))?.status == 200);
    }
    // Whoever looks at all runtimes has looked, and ended nothing.
    for server in &servers {
        looked_again(server)?;
    }
    for (worker, sandbox) in &on {
        let row = becomes(&servers[0], sandbox, "running")?;
        ensure!(row["worker_id"] == **worker, "{row}");
        // Each is destroyed by the server that does not have it.
        let other = if worker == NAMES[0] { &servers[1] } else { &servers[0] };
        destroy(other, sandbox)?;
    }
    ensure!(servers[0].live()?.is_empty() && servers[1].live()?.is_empty());
    Ok(())
}

/// Waits until the server's reconciler has begun and ended a look from now on.
fn looked_again(server: &Server) -> Result<()> {
    let runs = || -> Result<u64> {
        let diagnostics = server.get("/api/v1/diagnostics")?.json();
        let jobs = diagnostics["jobs"].as_array().context("jobs")?;
        let job = jobs.iter().find(|job| job["name"] == "reconciler").context("reconciler")?;
        job["runs"].as_u64().with_context(|| job.to_string())
    };
    let before = runs()?;
    wait_for("the reconciler's next look", LIMIT, || Ok((before + 2 <= runs()?).then_some(())))
}

/// R4.2: what a server cannot reach it leaves alone, and says why.
pub(crate) fn not_routed(postgres: &postgres::Server) -> Result<()> {
    let (home, dsn) = (Home::new()?, database(postgres)?);
    let settings = Settings { provider: "mock", dsn: Some(&dsn), ..Settings::default() };
    let servers = pair(&home, &settings)?;
    let mut on = Vec::new();
    for (server, name) in servers.iter().zip(NAMES) {
        for _ in 0..3 {
            let row = spawn(server, &json!({}))?;
            ensure!(row["worker_id"] == name, "nobody else could be asked to run it: {row}");
            on.push((name, id(&row)?));
        }
    }
    for (server, own) in servers.iter().zip(NAMES) {
        for (worker, sandbox) in &on {
            let path = format!("/api/v1/sandboxes/{sandbox}/exec");
            let reply = server.post(&path, &json!({"command": "echo near"}))?;
            let said = reply.json()["message"].as_str().unwrap_or_default().to_owned();
            if *worker == own {
                ensure!(reply.status == 200, "{said}");
            } else {
                ensure!(reply.status == 503, "{}: {said}", reply.status);
                let why = said.contains(worker) && said.contains("worker.listen_addr");
                ensure!(why, "it does not say why: {said}");
            }
            ensure!(row(server, sandbox)?.json()["state"] == "running");
        }
    }
    for server in &servers {
        looked_again(server)?;
    }
    for (worker, sandbox) in &on {
        ensure!(becomes(&servers[0], sandbox, "running")?["worker_id"] == *worker);
    }
    // An end that is asked for at the wrong server is decided there, and done where it can be.
    let (_, sandbox) = on.last().context("a sandbox")?;
    let reply = servers[0].delete(&format!("/api/v1/sandboxes/{sandbox}"))?;
    ensure!(reply.status == 503, "{}: {}", reply.status, reply.json());
    is(&servers[0], NAMES[1], |row| row["load"]["sandboxes"] == 2)?;
    for (worker, sandbox) in &on[..on.len() - 1] {
        destroy(if *worker == NAMES[0] { &servers[0] } else { &servers[1] }, sandbox)?;
    }
    Ok(())
}

/// The number of the newest event.
fn newest(server: &Server) -> Result<u64> {
    let made = server.spawn()?;
    destroy(server, &made)?;
    let events = http::peek(server.at, "/api/v1/events?after=0", Duration::from_secs(1))?;
    let text = String::from_utf8_lossy(&events.body).into_owned();
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: evt-")?.trim().parse().ok());
    ids.max().with_context(|| text.clone())
}

/// R2.5: what happens at one server is seen at the other, once and in order.
pub(crate) fn events(postgres: &postgres::Server) -> Result<()> {
    let (home, dsn) = (Home::new()?, database(postgres)?);
    let listens = [LISTENS.to_owned()];
    let settings =
        Settings { provider: "mock", dsn: Some(&dsn), worker: &listens, ..Settings::default() };
    let servers = pair(&home, &settings)?;
    let wanted = ["sandbox.created", "sandbox.running", "sandbox.destroyed"];
    for (at, from) in [(0, 1), (1, 0)] {
        let (follower, actor) = (&servers[at], &servers[from]);
        // Both begin where the other server's events end, so that it does not matter who is first.
        let path = format!("/api/v1/events?after={}", newest(actor)?);
        let (seen, sandbox) = std::thread::scope(|scope| -> Result<_> {
            let follow = scope.spawn(|| http::peek(follower.at, &path, Duration::from_secs(4)));
            let sandbox = actor.spawn()?;
            destroy(actor, &sandbox)?;
            let seen = follow.join().map_err(|_| anyhow::anyhow!("the follower panicked"))??;
            Ok((seen, sandbox))
        })?;
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        let kinds: Vec<_> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
            .filter(|event| event["sandbox_id"] == *sandbox)
            .filter_map(|event| event["type"].as_str().map(str::to_owned))
            .collect();
        ensure!(kinds == wanted, "{kinds:?}");
    }
    Ok(())
}

/// R3.3: each place goes to somebody who waits, at whichever server.
pub(crate) fn waiters(postgres: &postgres::Server) -> Result<()> {
    const PLACES: usize = 2;
    const EACH: u64 = 8;
    let (home, dsn) = (Home::new()?, database(postgres)?);
    let listens = [LISTENS.to_owned()];
    let defaults = ["max_sandboxes: 2", "spawn_overflow: queue", "spawn_queue_timeout: 90s"];
    let settings = Settings {
        provider: "mock",
        dsn: Some(&dsn),
        worker: &listens,
        defaults: &defaults,
        ..Settings::default()
    };
    let servers = pair(&home, &settings)?;
    let (alive, most) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let each = servers.iter().flat_map(|server| (0..EACH).map(move |_| server));
        let spawns: Vec<_> = each
            .map(|server| {
                scope.spawn(|| -> Result<()> {
                    let sandbox = server.spawn()?;
                    most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    says(server, &sandbox, "true")?;
                    alive.fetch_sub(1, Ordering::SeqCst);
                    destroy(server, &sandbox)
                })
            })
            .collect();
        for spawn in spawns {
            spawn.join().map_err(|_| anyhow::anyhow!("a spawn panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let most = most.load(Ordering::SeqCst);
    ensure!(most <= PLACES as u64, "{most} at once");
    ensure!(servers[0].live()?.is_empty());
    Ok(())
}
