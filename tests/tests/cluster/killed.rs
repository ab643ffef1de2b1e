//! R6.4: one of two servers is killed at each step of what it does, and the other one goes on.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stacyvm_postgres_fixture as postgres;
use stacyvm_tests::{Counter, Server, http, server::wait_for};

use crate::{
    replicas::LISTENS,
    world::{Home, LIMIT, Settings, database, destroy, id, is, keyed, runtimes, says, spawn},
};

/// How many may live.
const MOST: usize = 3;

/// Every step of a spawn, a keyed spawn and an end. What a spawn does at another server's worker is
/// undone by the others after a minute and a half: in `sim`, where that costs nothing.
fn steps() -> Vec<&'static str> {
    let steps = stacyvm_control::FAILPOINTS.iter().copied();
    let one_of = [".spawn.", ".once.", ".destroy."];
    steps
        .filter(|step| one_of.iter().any(|part| step.contains(part)))
        // Those need a template.
        .filter(|step| !step.ends_with(".set_up") && !step.ends_with(".spawn.failed"))
        .collect()
}

pub(crate) fn at_any_step(postgres: &postgres::Server) -> Result<()> {
    let (home, dsn) = (Home::new()?, database(postgres)?);
    let listens = [LISTENS.to_owned()];
    let most = format!("max_sandboxes: {MOST}");
    let defaults = [most.as_str()];
    let settings = Settings {
        provider: "native",
        dsn: Some(&dsn),
        worker: &listens,
        defaults: &defaults,
        ..Settings::default()
    };
    let one = home.server("one", &settings)?;
    let mut counter = Counter::start(&one)?;
    // What is asked for from now on runs on the other one's worker, which dies with it.
    ensure!(one.post("/api/v1/admin/workers/one/drain", &json!({}))?.status == 200);
    let steps = steps();
    ensure!(10 < steps.len(), "{steps:?}");
    for step in steps {
        let dies = Settings { failpoint: Some(step), ..settings.clone() };
        kill_at(&home, &one, step, &settings, &dies).with_context(|| format!("step {step}"))?;
        counter.reads_on(&one).with_context(|| format!("step {step}"))?;
    }
    destroy(&one, &counter.sandbox)?;
    for name in ["one", "two"] {
        let left = runtimes(&home.data(name));
        ensure!(left.is_empty(), "{name}: {left:?}");
    }
    Ok(())
}

fn kill_at(
    home: &Home,
    one: &Server,
    step: &str,
    settings: &Settings<'_>,
    dies: &Settings<'_>,
) -> Result<()> {
    let mut two = home.server("two", settings)?;
    is(one, "two", |row| row["status"] == "online")?;
    let victim = id(&spawn(&two, &json!({}))?)?;
    two.kill();
    let mut two = home.server("two", dies)?;
    is(one, "two", |row| row["status"] == "online")?;
    wait_for("the victim", LIMIT, || Ok(says(one, &victim, "true").ok()))?;
    let path = format!("/api/v1/sandboxes/{victim}");
    // The server may die before it answers.
    if step.contains(".destroy.") {
        drop(http::call(two.at, "DELETE", &path, None));
    } else if step.contains(".once.") {
        drop(keyed(two.at, "/sandboxes", step, &json!({})));
    } else {
        drop(http::call(two.at, "POST", "/api/v1/sandboxes", Some(&json!({}))));
    }
    let status = two.wait(LIMIT)?;
    ensure!(status.signal() == Some(9), "it ended with {status} instead of dying");
    drop(two);
    // The other one serves what it has, and knows what the dead one took.
    ensure!(one.get("/api/v1/ready")?.status == 200);
    ensure!(one.live()?.len() <= MOST);

    let two = home.server("two", settings)?;
    if step.contains(".once.") {
        // The same key at the one that lives.
        let again = keyed(two.at, "/sandboxes", step, &json!({}))?;
        ensure!(again.status == 201, "{}: {}", again.status, again.json());
        let replay = keyed(one.at, "/sandboxes", step, &json!({}))?;
        ensure!(again.json() == replay.json(), "{} and {}", again.json(), replay.json());
    }
    agree(home, [one, &two])?;
    if step.contains(".destroy.") && step != "control.destroy.asked" {
        ensure!(one.get(&path)?.status == 404, "a half-destroyed sandbox came back");
    }
    // The limit is exact: what is left of it can be had, and no more.
    let mut made = one.live()?;
    while made.len() < MOST {
        made.push(id(&spawn(&two, &json!({}))?)?);
    }
    ensure!(one.post("/api/v1/sandboxes", &json!({}))?.status == 429);
    let own = one.get("/api/v1/sandboxes")?.json();
    for row in own.as_array().context("rows")?.iter().filter(|row| row["worker_id"] == "two") {
        let path = format!("/api/v1/sandboxes/{}", id(row)?);
        // Where the other one takes calls since it started again is known with the next look.
        wait_for("its end", LIMIT, || Ok((one.delete(&path)?.status == 200).then_some(())))?;
    }
    Ok(())
}

/// Both servers see the same, everything answers at both, and each worker has what its rows say.
fn agree(home: &Home, servers: [&Server; 2]) -> Result<()> {
    wait_for("rows at rest, and runtimes equal to them", LIMIT, || {
        let rows = servers[0].get("/api/v1/sandboxes")?.json();
        let rows = rows.as_array().context("rows")?.clone();
        let mut on = BTreeMap::from([("one", Vec::new()), ("two", Vec::new())]);
        for row in &rows {
            let worker = row["worker_id"].as_str().context("a worker")?;
            on.get_mut(worker).context("one of the two")?.push(id(row)?);
        }
        let same = on.iter_mut().all(|(worker, ids)| {
            ids.sort();
            *ids == runtimes(&home.data(worker))
        });
        Ok((same && rows.iter().all(|row| row["state"] == "running")).then_some(()))
    })?;
    for server in servers {
        for id in servers[0].live()? {
            wait_for("an answer", LIMIT, || Ok(says(server, &id, "true").ok()))?;
        }
    }
    Ok(())
}
