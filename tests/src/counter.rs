//! A command that counts for as long as its sandbox lives.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{Server, http, server::wait_for};

const COUNTER: &str = "ex-00000000000000000001";
const LIMIT: Duration = Duration::from_secs(30);

/// Its output, read piece by piece through whichever server is up.
#[derive(Debug)]
pub struct Counter {
    /// Where it counts.
    pub sandbox: String,
    offset: u64,
    next: u64,
    partial: String,
}

impl Counter {
    /// Spawns a sandbox and begins to count in it.
    pub fn start(server: &Server) -> Result<Self> {
        Self::start_in(server, server.spawn()?)
    }

    /// Begins to count in a sandbox.
    pub fn start_in(server: &Server, sandbox: String) -> Result<Self> {
        let line = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
        let request = json!({ "command": line, "exec_id": COUNTER, "stream": true });
        let body = request.to_string();
        let at = server.at;
        let path = format!("/api/v1/sandboxes/{sandbox}/exec");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = std::net::TcpStream::connect(at)?;
        std::io::Write::write_all(&mut stream, head.as_bytes())?;
        let mut first = [0; 512];
        let n = std::io::Read::read(&mut stream, &mut first)?;
        let first = String::from_utf8_lossy(&first[..n]).into_owned();
        ensure!(first.starts_with("HTTP/1.1 200"), "{first}");
        Ok(Self { sandbox, offset: 0, next: 0, partial: String::new() })
    }

    /// Reads on from where it was left; every number must follow its predecessor.
    pub fn reads_on(&mut self, server: &Server) -> Result<()> {
        let before = self.next;
        wait_for("the counter's next output", LIMIT, || {
            let path =
                format!("/api/v1/sandboxes/{}/exec/{COUNTER}?offset={}", self.sandbox, self.offset);
            // A server that is busy may not have begun to answer yet.
            let Ok(reply) = http::peek(server.at, &path, Duration::from_millis(100)) else {
                return Ok(None);
            };
            if reply.status == 503 {
                // Its worker has just started again, and this server may not know where yet.
                return Ok(None);
            }
            ensure!(reply.status == 200, "resume answered {}: {}", reply.status, reply.json());
            for frame in reply.lines() {
                ensure!(frame["stream"] == "stdout", "unexpected frame {frame}");
                self.offset = frame["seq"].as_u64().context("seq")?;
                self.partial.push_str(frame["data"].as_str().context("data")?);
            }
            while let Some(end) = self.partial.find('\n') {
                let line: String = self.partial.drain(..=end).collect();
                ensure!(line.trim() == self.next.to_string(), "{line:?}, expected {}", self.next);
                self.next += 1;
            }
            Ok((self.next > before).then_some(()))
        })
    }
}
