//! A collector of traces, small enough to be part of a test.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Result;
use serde_json::Value;

/// One span, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its trace, in hex.
    pub trace: String,
    /// Its id, in hex.
    pub id: String,
    /// The span that it is part of, in hex; empty when there is none.
    pub parent: String,
    /// What was done.
    pub name: String,
    /// What it was done to.
    pub attributes: BTreeMap<String, String>,
}

/// Takes OTLP as JSON on a loopback port until the test ends.
#[derive(Debug)]
pub struct Collector {
    /// Where it listens.
    pub at: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    spans: Vec<Span>,
    heads: Vec<String>,
}

impl Collector {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let seen = Arc::<Mutex<Seen>>::default();
        let theirs = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = theirs.clone();
                // A connection that breaks has nothing more to say.
                thread::spawn(move || drop(answer(stream, &seen)));
            }
        });
        Ok(Self { at, seen })
    }

    /// The spans that came until now.
    pub fn spans(&self) -> Vec<Span> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).spans.clone()
    }

    /// The heads of the requests that came until now.
    pub fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).heads.clone()
    }
}

fn answer(stream: TcpStream, seen: &Mutex<Seen>) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(Ok(0), |(_, length)| length.parse())?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let spans = spans(&serde_json::from_slice(&body)?);
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.spans.extend(spans);
            seen.heads.push(head);
        }
        writer.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        )?;
    }
}

fn spans(body: &Value) -> Vec<Span> {
    let each = |value: &Value, key| value[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resources = each(body, "resourceSpans").into_iter();
    let scopes = resources.flat_map(|resource| each(&resource, "scopeSpans"));
    scopes
        .flat_map(|scope| each(&scope, "spans"))
        .map(|span| Span {
            trace: text(&span["traceId"]),
            id: text(&span["spanId"]),
            parent: text(&span["parentSpanId"]),
            name: text(&span["name"]),
            attributes: each(&span, "attributes")
                .iter()
                .map(|pair| (text(&pair["key"]), text(&pair["value"]["stringValue"])))
                .collect(),
        })
        .collect()
}
