//! R3.10: a request that is repeated at another server.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use stacyvm_postgres_fixture as postgres;
use stacyvm_tests::{Reply, Server, server::wait_for};

use crate::{
    replicas::{LISTENS, pair},
    world::{Home, LIMIT, Settings, database, destroy, keyed},
};

/// Sends the request to both at the same time.
fn at_both(
    servers: &[Server; 2],
    path: &str,
    key: &str,
    between: impl FnOnce() -> Result<()>,
) -> Result<[Reply; 2]> {
    let (first, second) = (servers[0].at, servers[1].at);
    std::thread::scope(|scope| {
        let one = scope.spawn(move || keyed(first, path, key, &json!({})));
        let other = scope.spawn(move || keyed(second, path, key, &json!({})));
        let done = between();
        let panicked = |_| anyhow!("a request panicked");
        let replies = [one.join().map_err(panicked)?, other.join().map_err(panicked)?];
        done?;
        let [one, other] = replies;
        Ok([one?, other?])
    })
}

/// Both were answered with the same sandbox, and it is the only one.
fn are_one(servers: &[Server; 2], replies: &[Reply; 2]) -> Result<String> {
    let [one, other] = replies.each_ref().map(Reply::json);
    for (reply, body) in replies.iter().zip([&one, &other]) {
        ensure!(reply.status == 201, "{}: {body}", reply.status);
    }
    ensure!(one == other, "{one} and {other}");
    let replayed = |reply: &&Reply| reply.head.contains("idempotency-replayed: true");
    ensure!(replies.iter().filter(replayed).count() == 1, "one did the work: {replies:?}");
    let id = one["id"].as_str().context("an id")?.to_owned();
    ensure!(servers[0].live()? == [id.clone()], "{:?}", servers[0].live()?);
    Ok(id)
}

/// At the same time, and while the first is still working on it.
pub(crate) fn repeated(postgres: &postgres::Server) -> Result<()> {
    let (home, dsn) = (Home::new()?, database(postgres)?);
    let listens = [LISTENS.to_owned()];
    let settings =
        Settings { provider: "mock", dsn: Some(&dsn), worker: &listens, ..Settings::default() };
    let servers = pair(&home, &settings)?;
    let template = json!({"name": "slow", "image": "host", "setup": ["sleep 1"], "ttl": "10m"});
    ensure!(servers[0].post("/api/v1/templates", &template)?.status == 201);
    for path in ["/sandboxes", "/templates/slow/spawn"] {
        for number in 0..4 {
            let replies = at_both(&servers, path, &format!("{path}-{number}"), || Ok(()))?;
            let id = are_one(&servers, &replies)?;
            destroy(&servers[number % 2], &id)?;
        }
    }
    Ok(())
}

/// The first waits for a place, and the repeat with it.
pub(crate) fn queued(postgres: &postgres::Server) -> Result<()> {
    let (home, dsn) = (Home::new()?, database(postgres)?);
    let listens = [LISTENS.to_owned()];
    let defaults = ["max_sandboxes: 1", "spawn_overflow: queue", "spawn_queue_timeout: 90s"];
    let settings = Settings {
        provider: "mock",
        dsn: Some(&dsn),
        worker: &listens,
        defaults: &defaults,
        ..Settings::default()
    };
    let servers = pair(&home, &settings)?;
    let held = servers[0].spawn()?;
    let replies = at_both(&servers, "/sandboxes", "waits", || {
        wait_for("a spawn that waits", LIMIT, || {
            let waits = |server: &Server| -> Result<bool> {
                let scheduler: Value = server.get("/api/v1/diagnostics")?.json();
                Ok(scheduler["scheduler"]["spawn_queue_depth"] == 1)
            };
            Ok((waits(&servers[0])? != waits(&servers[1])?).then_some(()))
        })?;
        destroy(&servers[1], &held)
    })?;
    let id = are_one(&servers, &replies)?;
    destroy(&servers[0], &id)
}
