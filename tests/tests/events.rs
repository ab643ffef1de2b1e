//! R2.5: the event stream across the death of the server.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stacyvm_tests::{Options, Server, http, server::wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// What a follower has read, over however many connections.
#[derive(Default)]
struct Follower {
    events: Vec<Value>,
    last: u64,
}

impl Follower {
    /// Reads on after the last event that it has.
    fn reads_on(&mut self, server: &Server) -> Result<()> {
        let path = format!("/api/v1/events?after={}", self.last);
        let reply = http::peek(server.at, &path, Duration::from_millis(200))?;
        ensure!(reply.status == 200, "the stream answered {}", reply.status);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        // What comes after the last blank line is not whole yet.
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        for frame in whole.split("\n\n") {
            let Some(data) = frame.lines().find_map(|line| line.strip_prefix("data: ")) else {
                continue;
            };
            let event: Value = serde_json::from_str(data)?;
            let id = event["id"].as_str().and_then(|id| id.strip_prefix("evt-")).context("id")?;
            let id: u64 = id.parse()?;
            ensure!(self.last < id, "event {id} after {}", self.last);
            ensure!(event["type"] != "gap", "nothing was forgotten: {event}");
            self.last = id;
            self.events.push(event);
        }
        Ok(())
    }

    /// How often each sandbox was seen to be created and to run.
    fn seen(&self) -> BTreeMap<(String, String), usize> {
        let mut seen = BTreeMap::new();
        for event in &self.events {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            *seen.entry((text("sandbox_id"), text("type"))).or_default() += 1;
        }
        seen
    }

    fn has(&self, sandboxes: &[String]) -> bool {
        let seen = self.seen();
        let once = |id: &String, kind: &str| seen.get(&(id.clone(), kind.to_owned())) == Some(&1);
        sandboxes.iter().all(|id| once(id, "sandbox.created") && once(id, "sandbox.running"))
    }
}

fn serve(data: &std::path::Path) -> Result<Server> {
    Server::start(data, &Options { args: vec!["--provider=mock".into()], ..Options::default() })
}

/// Nothing that was answered is missing, nothing comes twice, and what was seen stays what it was.
#[test]
fn a_follower_misses_nothing_when_the_server_is_killed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let mut follower = Follower::default();
    let mut answered = Vec::new();
    for _ in 0..3 {
        let mut server = serve(&data)?;
        let ids = std::sync::Mutex::new(Vec::new());
        let stops = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stops.load(Ordering::SeqCst) {
                        // Unanswered once the server is dead: then nothing was promised.
                        let Ok(reply) = server.post("/api/v1/sandboxes", &json!({})) else { break };
                        if let (201, Some(id)) = (reply.status, reply.json()["id"].as_str()) {
                            ids.lock().expect("no panic").push(id.to_owned());
                        }
                    }
                });
            }
            let enough = wait_for("some sandboxes", LIMIT, || {
                Ok((20 < ids.lock().expect("no panic").len()).then_some(()))
            });
            let read = follower.reads_on(&server);
            let pid = rustix::process::Pid::from_child(&server.child);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
            stops.store(true, Ordering::SeqCst);
            enough.and(read)
        })?;
        server.kill();
        answered.append(&mut ids.into_inner().expect("no panic"));
    }

    let server = serve(&data)?;
    wait_for("every event that was missing", LIMIT, || {
        follower.reads_on(&server)?;
        Ok(follower.has(&answered).then_some(()))
    })?;
    let twice: Vec<_> = follower
        .seen()
        .into_iter()
        .filter(|((_, kind), count)| {
            kind.starts_with("sandbox.") && kind != "sandbox.running" && 1 < *count
        })
        .collect();
    ensure!(twice.is_empty(), "came twice: {twice:?}");
    let mut again = Follower::default();
    wait_for("the replay from the start", LIMIT, || {
        again.reads_on(&server)?;
        Ok((follower.last <= again.last).then_some(()))
    })?;
    let known = follower.events.len();
    ensure!(again.events[..known] == follower.events[..], "the replay is another story");
    for id in server.live()? {
        ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200);
    }
    Ok(())
}

/// R2.6: what was done before a crash is in the audit log after it.
#[test]
fn the_audit_log_outlives_the_server() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let mut server = serve(&data)?;
    let id = server.spawn()?;
    server.exec(&id, "true")?;
    let at = format!("/api/v1/admin/audit/operations?sandbox={id}");
    let before = wait_for("both records", LIMIT, || {
        let rows = server.get(&at)?.json();
        Ok((rows.as_array().map(Vec::len) == Some(2)).then_some(rows))
    })?;
    server.kill();
    let server = serve(&data)?;
    let after = server.get(&at)?.json();
    let rows = after.as_array().context("rows")?;
    for row in before.as_array().context("rows")? {
        ensure!(rows.contains(row), "{row} is not in {after}");
    }
    // A request is recorded after its answer.
    wait_for("the record of a look at the log", LIMIT, || {
        let admin = server.get("/api/v1/admin/audit?path=operations")?.json();
        Ok(admin.as_array().is_some_and(|rows| !rows.is_empty()).then_some(()))
    })?;
    server.delete(&format!("/api/v1/sandboxes/{id}"))?;
    Ok(())
}
