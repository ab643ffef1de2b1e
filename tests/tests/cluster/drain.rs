//! R5.7: nothing new on a worker; what runs there goes on.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use stacyvm_tests::{Counter, Relay, Server, python, server, server::wait_for};

use crate::world::{
    Home, LIMIT, Settings, becomes, destroy, generation, heard, id, is, nobody_takes_it, says,
    spawn,
};

fn workers(server: &Server, verb: &str, id: &str) -> Result<String> {
    let mut command = Command::new(server::binary());
    command.args(["--server", &format!("http://{}", server.at), "workers", verb, id]);
    python::run(&mut command)
}

pub(crate) fn by_command() -> Result<()> {
    let home = Home::new()?;
    let settings = Settings { provider: "mock", ..Settings::default() };
    let mut server = home.control_plane("server", &settings)?;
    let beats = Relay::start()?;
    beats.mend(server.at);
    let relayed = format!("http://{}", beats.at);
    let one = home.worker_of("one", &relayed, &settings)?;
    heard(&server, &one)?;
    let there = server.spawn()?;
    let other = home.worker_of("other", &relayed, &settings)?;
    heard(&server, &other)?;
    workers(&server, "drain", "one")?;
    let mut made = Vec::new();
    for _ in 0..5 {
        let row = spawn(&server, &json!({}))?;
        ensure!(row["worker_id"] == "other", "{row}");
        made.push(id(&row)?);
    }
    ensure!(says(&server, &there, "echo on")? == "on\n", "what runs goes on");
    workers(&server, "drain", "other")?;
    nobody_takes_it(&server)?;

    // It is written in the registry: neither end forgets it.
    server.kill();
    server = home.control_plane("server", &settings)?;
    beats.mend(server.at);
    for name in ["one", "other"] {
        is(&server, name, |row| row["status"] == "draining" && row["cordoned"] == true)?;
    }
    nobody_takes_it(&server)?;
    workers(&server, "undrain", "one")?;
    let row = spawn(&server, &json!({}))?;
    ensure!(row["worker_id"] == "one", "{row}");
    made.extend([id(&row)?, there]);
    for id in made {
        destroy(&server, &id)?;
    }
    is(&server, "other", |row| row["load"]["sandboxes"] == 0)
}

/// R5.7: SIGTERM is a heartbeat that says `draining`; the next process adopts what ran.
pub(crate) fn by_signal() -> Result<()> {
    let home = Home::new()?;
    let slow = Settings { provider: "native", ..Settings::default() };
    let server = home.control_plane("server", &slow)?;
    let mut worker = home.worker("far", &server, &slow)?;
    let mut counter = Counter::start(&server)?;
    let sandbox = counter.sandbox.clone();
    counter.reads_on(&server)?;
    let before = generation(&server, "far", &sandbox)?;

    let ended = worker.stop(LIMIT)?;
    ensure!(ended.success(), "{ended}: {}", worker.log());
    let row = server.get("/api/v1/workers/far")?.json();
    ensure!(row["status"] == "draining" || row["status"] == "offline", "{row}");
    nobody_takes_it(&server)?;
    let log = worker.log();
    ensure!(log.contains("what runs goes on"), "{log}");

    let worker = home.worker("far", &server, &slow)?;
    becomes(&server, &sandbox, "running")?;
    counter.reads_on(&server)?;
    ensure!(before <= generation(&server, "far", &sandbox)?);
    destroy(&server, &sandbox)?;
    is(&server, &worker.id, |row| row["load"]["sandboxes"] == 0)
}

/// A heartbeat as far as its status, which says whether the worker is draining.
fn beat(listener: &TcpListener) -> Result<(TcpStream, String)> {
    let mut stream = wait_for("a heartbeat", LIMIT, || match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let (mut said, mut piece) = (String::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut piece)?;
        ensure!(0 < count, "a heartbeat that ended early: {said}");
        said.push_str(&String::from_utf8_lossy(&piece[..count]));
        if let Some((_, rest)) = said.split_once("\"status\":\"")
            && let Some((status, _)) = rest.split_once('"')
        {
            return Ok((stream, status.to_owned()));
        }
    }
}

/// R5.7: a heartbeat that is under way when the worker is told to stop says that it is online. One
/// that is `draining` comes after it, so that no server goes by the older one.
pub(crate) fn last_word() -> Result<()> {
    let home = Home::new()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let url = format!("http://{}", listener.local_addr()?);
    let settings = Settings { provider: "mock", ..Settings::default() };
    let mut worker = home.worker_of("far", &url, &settings)?;
    let (mut first, status) = beat(&listener)?;
    ensure!(status == "online", "{status}");
    worker.signal(Signal::TERM)?;
    wait_for("the signal", LIMIT, || Ok(worker.log().contains("what runs goes on").then_some(())))?;
    // Not while the first one has no answer.
    std::thread::sleep(Duration::from_millis(300));
    let early = listener.accept().err().context("the last word comes before an earlier one")?;
    ensure!(early.kind() == ErrorKind::WouldBlock, "{early}");
    first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")?;
    let (mut last, status) = beat(&listener)?;
    ensure!(status == "draining", "{status}");
    last.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")?;
    let ended = wait_for("the end", LIMIT, || Ok(worker.child.try_wait()?))?;
    ensure!(ended.success(), "{ended}: {}", worker.log());
    Ok(())
}
