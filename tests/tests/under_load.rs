//! What many callers at once, large bodies and a destroy in the middle look like from outside.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stacyvm_tests::{Options, Reply, Server, http, server::wait_for};

fn serve(dir: &Path) -> Result<Server> {
    Server::start(
        &dir.join("data"),
        &Options { args: vec!["--pool=0".into()], ..Options::default() },
    )
}

/// Runs the same shell line `count` times at once.
fn at_once(server: &Server, id: &str, count: usize, line: &str) -> Vec<Result<Reply>> {
    let request = json!({ "command": line, "timeout": "50s" });
    let path = format!("/api/v1/sandboxes/{id}/exec");
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..count).map(|_| scope.spawn(|| server.post(&path, &request))).collect();
        calls.into_iter().map(|call| call.join().expect("no panic")).collect()
    })
}

/// R1.2: output of many commands shares one channel, and none of them stands still.
#[test]
fn many_commands_write_much_at_once_and_all_end() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = serve(dir.path())?;
    let id = server.spawn()?;
    for reply in at_once(&server, &id, 16, "head -c 4000000 /dev/zero | tr '\\0' x") {
        let reply = reply?;
        ensure!(reply.status == 200, "{}: {}", reply.status, reply.json()["message"]);
        ensure!(reply.json()["stdout"].as_str().map(str::len) == Some(4_000_000), "output is cut");
    }
    ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200);
    Ok(())
}

/// R1.2: more commands than a sandbox takes are refused as a limit, and its files stay in reach.
#[test]
fn too_many_commands_are_refused_and_files_stay_in_reach() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = serve(dir.path())?;
    let id = server.spawn()?;
    let mut statuses: Vec<u16> = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let calls = scope.spawn(|| at_once(&server, &id, 400, "sleep 3"));
        let stat = format!("/api/v1/sandboxes/{id}/files/stat?path=/workspace");
        let started = "pgrep -c sleep || true";
        wait_for("commands that run", Duration::from_secs(20), || {
            let count = server.exec(&id, started);
            Ok(count.is_ok().then_some(()))
        })?;
        let reply = server.get(&stat)?;
        ensure!(reply.status == 200, "stat meanwhile answered {}", reply.status);
        for reply in calls.join().expect("no panic") {
            statuses.push(reply?.status);
        }
        Ok(())
    })?;
    ensure!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    ensure!(statuses.contains(&200), "none ran");
    ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200);
    Ok(())
}

/// R1.3: a full disk is an error for who writes, not the end of the sandbox.
#[test]
fn an_upload_larger_than_the_disk_is_refused_and_the_sandbox_lives() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = serve(dir.path())?;
    let limits = json!({ "memory_mb": 64, "disk_mb": 64 });
    let reply = server.post("/api/v1/sandboxes", &limits)?.json();
    let id = reply["id"].as_str().context("id")?.to_owned();
    let body = vec![7; 80 << 20];
    let head = format!(
        "PUT /api/v1/sandboxes/{id}/files?path=/workspace/big HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        server.at,
        body.len()
    );
    // The server answers before it has read everything, so the rest may meet a closed connection.
    let reply = http::raw_while_writing(server.at, &[head.as_bytes(), &body].concat())?;
    ensure!(reply.status == 507, "{}: {}", reply.status, reply.json());
    ensure!(server.exec(&id, "echo lives; ls /workspace")?["stdout"] == "lives\n");
    ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200);
    Ok(())
}

/// R1.7: a command that is under way when its sandbox is destroyed ends with that cause.
#[test]
fn a_destroy_ends_running_commands_and_says_so() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = serve(dir.path())?;
    let id = server.spawn()?;
    let path = format!("/api/v1/sandboxes/{id}/exec");
    let line = "touch /workspace/started; sleep 100";
    let request = json!({ "command": line, "stream": true });
    let (waited, streamed) = std::thread::scope(|scope| {
        let waited = scope.spawn(|| server.post(&path, &json!({ "command": "sleep 100" })));
        let streamed = scope.spawn(|| server.post(&path, &request));
        let stat = format!("/api/v1/sandboxes/{id}/files/stat?path=/workspace/started");
        let started = wait_for("the command's start", Duration::from_secs(20), || {
            Ok((server.get(&stat)?.status == 200).then_some(()))
        });
        let destroyed = server.delete(&format!("/api/v1/sandboxes/{id}"));
        assert!(started.is_ok() && destroyed.is_ok_and(|reply| reply.status == 200));
        (waited.join().expect("no panic"), streamed.join().expect("no panic"))
    });
    let waited = waited?;
    ensure!(waited.status == 404, "{}: {}", waited.status, waited.json());
    ensure!(waited.json()["details"]["cause"]["kind"] == "requested", "{}", waited.json());
    let last = streamed?.lines().pop().unwrap_or(Value::Null);
    ensure!(last["stream"] == "exit" && last["reason"] == "lost", "{last}");
    Ok(())
}

/// R1.8: a server that is told to stop hands back what it waits for, and leaves sandboxes alone.
#[test]
fn a_stopping_server_hands_back_the_command_it_waits_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = serve(dir.path())?;
    let id = server.spawn()?;
    let path = format!("/api/v1/sandboxes/{id}/exec");
    let line = "touch /workspace/started; sleep 6; echo done";
    let (at, request) = (server.at, json!({ "command": line }));
    let waited = std::thread::spawn(move || http::call(at, "POST", &path, Some(&request)));
    let stat = format!("/api/v1/sandboxes/{id}/files/stat?path=/workspace/started");
    wait_for("the command's start", Duration::from_secs(20), || {
        Ok((server.get(&stat)?.status == 200).then_some(()))
    })?;
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let reply = waited.join().expect("no panic")?;
    ensure!(reply.status == 503, "{}: {}", reply.status, reply.json());
    let message = reply.json()["message"].as_str().unwrap_or_default().to_owned();
    let exec = message.rsplit(' ').next().unwrap_or_default().to_owned();
    ensure!(exec.starts_with("ex-"), "{message}");
    let status = server.wait(Duration::from_secs(11))?;
    ensure!(status.success(), "the server ended with {status}");

    let server = serve(dir.path())?;
    let lines = server.get(&format!("/api/v1/sandboxes/{id}/exec/{exec}?offset=0"))?.lines();
    ensure!(lines[0]["data"] == "done\n", "{lines:?}");
    ensure!(server.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200);
    Ok(())
}
