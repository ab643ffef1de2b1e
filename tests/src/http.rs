//! One HTTP/1.1 request on a connection of its own: small enough to send what no client would.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header lines as they came.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body's lines as JSON values, blank ones skipped.
    pub fn lines(&self) -> Vec<Value> {
        String::from_utf8_lossy(&self.body)
            .lines()
            .filter(|line| !line.trim().is_empty())
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// Sends a request with a JSON body and reads the whole reply.
pub fn call(at: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Result<Reply> {
    call_with(at, None, method, path, body)
}

/// [`call`] with a key.
pub fn call_with(
    at: SocketAddr,
    key: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Reply> {
    let key = key.map(|key| format!("X-API-Key: {key}\r\n")).unwrap_or_default();
    let body = body.map(Value::to_string);
    let kind = body.as_ref().map(|_| "Content-Type: application/json\r\n").unwrap_or_default();
    let body = body.unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\n{key}{kind}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    raw(at, &[head.as_bytes(), body.as_bytes()].concat())
}

/// Sends these bytes and reads until the server closes.
pub fn raw(at: SocketAddr, request: &[u8]) -> Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    if bytes.is_empty() {
        read.context("no reply")?;
        bail!("the server closed without a reply");
    }
    parse(&bytes)
}

/// Like [`raw`], for a body that the server may refuse before it has read all of it.
pub fn raw_while_writing(at: SocketAddr, request: &[u8]) -> Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut writer = stream.try_clone()?;
    let mut bytes = Vec::new();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || drop(writer.write_all(request)));
        // A connection that is reset after the reply has delivered the reply.
        drop(stream.read_to_end(&mut bytes));
        drop(stream.shutdown(std::net::Shutdown::Both));
        drop(writing.join());
    });
    parse(&bytes)
}

/// `GET`s an endless stream and leaves after `limit`, with what came until then.
pub fn peek(at: SocketAddr, path: &str, limit: Duration) -> Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let deadline = Instant::now() + limit;
    let mut bytes = Vec::new();
    let mut piece = [0; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    parse(&bytes)
}

/// Takes the bytes of a reply apart.
pub fn parse(bytes: &[u8]) -> Result<Reply> {
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("no end of head")?;
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    let rest = &bytes[split + 4..];
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(rest) } else { rest.to_vec() };
    Ok(Reply { status, head, body })
}

/// Joins the chunks that arrived; a connection that broke mid-chunk yields what was there.
fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line_end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line_end])
            .ok()
            .and_then(|line| usize::from_str_radix(line.trim(), 16).ok())
            .unwrap_or(0);
        if size == 0 {
            break;
        }
        let from = line_end + 2;
        let to = (from + size).min(rest.len());
        body.extend_from_slice(&rest[from..to]);
        rest = rest.get(to + 2..).unwrap_or_default();
    }
    body
}
