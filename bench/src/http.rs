//! A keep-alive HTTP/1.1 client for JSON, as thin as a client can be: what is measured is the
//! server.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// One connection.
pub(crate) struct Client {
    at: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(at: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        Ok(Self { at, stream: BufReader::new(stream) })
    }

    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Vec<u8>)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.at,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }

    /// Creates a sandbox and returns its id.
    pub(crate) fn create(&mut self, request: &Value) -> Result<String> {
        let (status, body) = self.call("POST", "/sandboxes", Some(request))?;
        ensure!(status == 201, "create answered {status}: {}", String::from_utf8_lossy(&body));
        let body: Value = serde_json::from_slice(&body)?;
        Ok(body["id"].as_str().context("no id")?.to_owned())
    }

    /// Runs a program and expects exit code 0.
    pub(crate) fn exec(&mut self, id: &str, program: &str) -> Result<()> {
        let request = json!({ "command": program, "mode": "argv" });
        let (status, body) = self.call("POST", &format!("/sandboxes/{id}/exec"), Some(&request))?;
        let reply: Value = serde_json::from_slice(&body)?;
        ensure!(status == 200 && reply["exit_code"] == 0, "exec answered {status}: {reply}");
        Ok(())
    }

    /// Destroys a sandbox.
    pub(crate) fn destroy(&mut self, id: &str) -> Result<()> {
        let (status, body) = self.call("DELETE", &format!("/sandboxes/{id}"), None)?;
        ensure!(status == 200, "destroy answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}
