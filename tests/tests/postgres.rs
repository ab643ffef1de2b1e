//! The built binary over a Postgres that the test starts.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use stacyvm_postgres_fixture::{self as postgres, Disk, Stop};
use stacyvm_tests::{Options, Server, server, server::wait_for};

const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let arguments = Arguments::from_args();
    let database = match arguments.list {
        true => None,
        false => match postgres::Server::start(Disk::Unsynced) {
            Ok(database) => Some(Arc::new(database)),
            Err(error) => {
                eprintln!("\nSKIPPED: the server on Postgres is not tested here: {error:#}\n");
                None
            }
        },
    };
    let trials = [
        (
            "what_a_server_remembers_is_in_postgres",
            remembers as fn(&postgres::Server) -> Result<()>,
        ),
        ("a_server_survives_a_restart_of_the_database", survives),
        ("a_place_that_one_server_frees_goes_to_a_waiter_of_another", waits_for_another),
        ("the_commands_about_the_database_know_postgres", commands),
    ];
    let trials = trials.map(|(name, test)| {
        let ignored = database.is_none() && !arguments.list;
        let name = if ignored { format!("{name} (no Postgres here)") } else { name.to_owned() };
        let database = database.clone();
        let trial = Trial::test(name, move || {
            let database = database.as_deref().ok_or("there is no Postgres")?;
            test(database).map_err(|error| format!("{error:?}").into())
        });
        trial.with_ignored_flag(ignored)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    drop(database);
    conclusion.exit();
}

/// Settings of a server in a database of its own. Postgres trusts who is on this host, so that the
/// password can be any; nobody may ever see it.
fn settings(database: &postgres::Server, dir: &Path) -> Result<String> {
    let name = database.create_database()?;
    settings_of(database, &name, dir, "")
}

/// The same with more settings, for a database that may have other servers.
fn settings_of(database: &postgres::Server, name: &str, dir: &Path, more: &str) -> Result<String> {
    std::fs::create_dir_all(dir)?;
    let dsn = database.dsn(name).replace("stacyvm@", "stacyvm:hunter2@");
    std::fs::write(dir.join("dsn"), dsn)?;
    let file = dir.join("stacyvm.yaml");
    let text = format!(
        "providers: {{default: mock, mock: {{enabled: true}}}}\n\
         database: {{driver: postgres, dsn_file: {}}}\n{more}",
        dir.join("dsn").display()
    );
    std::fs::write(&file, text)?;
    Ok(format!("--config={}", file.display()))
}

fn start(dir: &Path, settings: &str) -> Result<Server> {
    Server::start(
        &dir.join("data"),
        &Options { args: vec![settings.to_owned()], ..Options::default() },
    )
}

/// Asks the server to stop, and waits until it has.
fn stop(server: Server) {
    drop(server);
}

fn shows_no_password(dir: &Path) -> Result<()> {
    let log = std::fs::read_to_string(dir.join("data/log"))?;
    ensure!(!log.contains("hunter2"), "the log holds the password:\n{log}");
    Ok(())
}

fn remembers(database: &postgres::Server) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let settings = settings(database, dir.path())?;
    let server = start(dir.path(), &settings)?;
    let id = server.spawn()?;
    ensure!(server.exec(&id, "echo kept")?["stdout"] == "kept\n");
    let diagnostics = server.get("/api/v1/diagnostics")?.json().to_string();
    ensure!(!diagnostics.contains("hunter2"), "{diagnostics}");
    stop(server);
    let server = start(dir.path(), &settings)?;
    // Runtimes of the mock provider end with the process; that there was one is remembered.
    let row = server.get(&format!("/api/v1/sandboxes/{id}"))?;
    ensure!(row.json()["details"]["cause"]["kind"] == "runtime_died", "{}", row.json());
    ensure!(!dir.path().join("data/stacyvm.db").exists(), "there is a file of SQLite");
    stop(server);
    shows_no_password(dir.path())
}

fn survives(_: &postgres::Server) -> Result<()> {
    let database = postgres::Server::start(Disk::Unsynced)?;
    let dir = tempfile::tempdir()?;
    let server = start(dir.path(), &settings(&database, dir.path())?)?;
    let id = server.spawn()?;
    database.stop(Stop::Fast)?;
    let refused = server.post("/api/v1/sandboxes", &serde_json::json!({}))?;
    ensure!(refused.status == 503, "{} {}", refused.status, refused.json());
    database.run()?;
    let new = wait_for("a spawn after the restart", LIMIT, || Ok(server.spawn().ok()))?;
    for id in [id, new] {
        ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status < 300);
    }
    stop(server);
    shows_no_password(dir.path())
}

fn waits_for_another(database: &postgres::Server) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let name = database.create_database()?;
    let serve = |worker: &str| -> Result<Server> {
        let dir = dir.path().join(worker);
        let more = format!(
            "worker: {{id: {worker}}}\n\
             defaults: {{max_sandboxes: 1, spawn_overflow: queue, spawn_queue_timeout: 60s}}\n"
        );
        start(&dir, &settings_of(database, &name, &dir, &more)?)
    };
    let (one, other) = (serve("one")?, serve("other")?);
    let held = one.spawn()?;
    let waiting = std::thread::scope(|scope| {
        let spawn = scope.spawn(|| other.spawn());
        let queued = wait_for("a spawn that waits", LIMIT, || {
            let scheduler = &other.get("/api/v1/diagnostics")?.json()["scheduler"];
            Ok((scheduler["spawn_queue_depth"] == 1).then_some(()))
        });
        let freed = one.delete(&format!("/api/v1/sandboxes/{held}"));
        let spawned = spawn.join().map_err(|_| anyhow::anyhow!("the spawn panicked"))?;
        queued?;
        ensure!(freed?.status < 300);
        spawned
    })?;
    ensure!(one.live()? == [waiting.clone()], "both servers see the same");
    ensure!(other.delete(&format!("/api/v1/sandboxes/{waiting}"))?.status < 300);
    stop(one);
    stop(other);
    for worker in ["one", "other"] {
        shows_no_password(&dir.path().join(worker))?;
    }
    Ok(())
}

fn run(settings: &str, arguments: &[&str]) -> Result<(i32, String)> {
    let output = Command::new(server::binary()).args(arguments).arg(settings).output()?;
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let said = said.concat();
    ensure!(!said.contains("hunter2"), "{said}");
    Ok((output.status.code().context("it was killed")?, said))
}

fn commands(database: &postgres::Server) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let settings = settings(database, dir.path())?;
    let (code, said) = run(&settings, &["db", "check"])?;
    ensure!(code == 1 && said.contains("not StacyVM's"), "of an empty database: {code} {said}");
    stop(start(dir.path(), &settings)?);
    let (code, said) = run(&settings, &["db", "check", "-o", "json"])?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(code == 0 && report["problems"] == serde_json::json!([]), "{code} {said}");
    ensure!(report["database"].as_str().is_some_and(|place| place.contains("127.0.0.1")), "{said}");
    let (code, said) = run(&settings, &["db", "backup", "/nonexistent/file"])?;
    ensure!(code != 0 && said.contains("pg_dump"), "{code} {said}");
    let (code, said) = run(&settings, &["db", "restore", "/nonexistent/file"])?;
    ensure!(code != 0 && said.contains("pg_restore"), "{code} {said}");
    Ok(())
}
