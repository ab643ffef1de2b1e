//! Requests that do not wait long, to whichever server answers.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;
use stacyvm_tests::{Reply, http};

use crate::cluster::{ADMIN, TOKEN};

const CONNECT: Duration = Duration::from_millis(500);
/// Longer than a server waits for Postgres or for a worker that went away just now.
const ANSWER: Duration = Duration::from_secs(8);

/// Sends a request and reads the whole reply, or fails after the limit.
fn send(at: SocketAddr, head: &str, body: &str, limit: Duration) -> Result<Reply> {
    let give_up = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&at, CONNECT)?;
    stream.set_write_timeout(Some(limit))?;
    // Lines that come with the request line follow it.
    let (line, more) = head.split_once("\r\n").unwrap_or((head, "Accept: */*"));
    let request = format!(
        "{line} HTTP/1.1\r\nHost: {at}\r\n{more}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut piece = [0; 16384];
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer within {limit:?}");
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            n => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
    }
    let reply = http::parse(&bytes)?;
    // A body that was cut is no answer.
    let promised = reply.head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    ensure!(promised.is_none_or(|promised| promised == reply.body.len()), "a reply was cut");
    Ok(reply)
}

/// A client of the servers.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    servers: Vec<SocketAddr>,
}

impl Caller {
    pub(crate) const fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    /// Asks one server once.
    pub(crate) fn ask(
        &self,
        server: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Reply> {
        let at = self.servers.iter().cycle().nth(server).copied();
        let at = at.ok_or_else(|| anyhow::anyhow!("there is no server"))?;
        let mut head = format!("{method} {path}\r\nX-Admin-API-Key: {ADMIN}");
        for (name, value) in headers {
            head.push_str(&format!("\r\n{name}: {value}"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        send(at, &head, &body, ANSWER)
    }

    /// Reads what a server's event stream holds after an event, for this long at most.
    pub(crate) fn follow(
        &self,
        server: usize,
        after: u64,
        limit: Duration,
        over: &AtomicBool,
        mut heard: impl FnMut(&str),
    ) -> Result<()> {
        let at = self.servers.iter().cycle().nth(server).copied();
        let at = at.ok_or_else(|| anyhow::anyhow!("there is no server"))?;
        let leave = Instant::now() + limit;
        let mut stream = TcpStream::connect_timeout(&at, CONNECT)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let request = format!(
            "GET /api/v1/events?after={after} HTTP/1.1\r\nHost: {at}\r\n\
             X-Admin-API-Key: {ADMIN}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let (mut text, mut piece) = (Vec::new(), [0; 16384]);
        while Instant::now() < leave && !over.load(Ordering::Relaxed) {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => text.extend_from_slice(piece.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        let reply = http::parse(&text)?;
        ensure!(reply.status == 200, "the stream answered {}", reply.status);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        // What comes after the last blank line is not whole yet.
        let whole = text.rfind("\n\n").and_then(|end| text.get(..end)).unwrap_or_default();
        for frame in whole.split("\n\n") {
            if let Some(data) = frame.lines().find_map(|line| line.strip_prefix("data: ")) {
                heard(data);
            }
        }
        Ok(())
    }
}

/// Calls a worker as a control plane does; the reply's envelope.
pub(crate) fn call_worker(at: SocketAddr, worker: &str, envelope: &Value) -> Result<Value> {
    let head = format!(
        "POST /rpc\r\nContent-Type: application/json\r\nX-Worker-ID: {worker}\r\n\
         X-Worker-Token: {TOKEN}"
    );
    let reply = send(at, &head, &envelope.to_string(), Duration::from_secs(2))?;
    Ok(reply.json())
}
