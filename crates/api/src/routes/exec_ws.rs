//! Commands over a WebSocket: output one way, standard input, signals and sizes the other.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    extract::ws::{
        CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
        rejection::WebSocketUpgradeRejection,
    },
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde::Serialize;
use stacyvm_api_types::{ClientMessage, Code, ControlMessage, ExecRequest, TtySize};
use stacyvm_provider::{ExecInput, Stdin};
use stacyvm_types::SandboxId;
use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};

use super::{
    doc::{doc, flag},
    exec::{attach, size, started, wanted},
    table::{Route, get},
};
use crate::{
    Api,
    extract::{PathText, Query, Sandbox, decode},
    follow::{self, Follow, Step},
    json,
    problem::{Problem, Result},
    scope::Scope,
};

const MAX_MESSAGE: usize = 1 << 20;
const UNANSWERED_PINGS: u32 = 3;
/// How long a closing handshake may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/sandboxes/{id}/exec/ws",
            Scope::Api,
            run,
            doc("execSocket", "Runs a command over a WebSocket, with its standard input.")
                .detail(
                    "The first message is an `ExecRequest`. Then the client sends \
                     `ClientMessage`s, or binary messages as standard input; the \
                     server sends `ControlMessage`s, `StreamFrame`s, and with \
                     `binary` output as binary messages. It closes after `done`.",
                )
                .inside()
                .switches(),
        ),
        get(
            "/sandboxes/{id}/exec/{exec_id}/ws",
            Scope::Api,
            resume,
            doc("resumeExecSocket", "Takes a command up again over a WebSocket.")
                .detail("As `execSocket`, without a first message.")
                .inside()
                .exec()
                .query("binary", "Whether output comes as binary messages.", flag())
                .switches(),
        ),
    ]
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

fn upgrade(socket: Upgrade) -> Result<WebSocketUpgrade> {
    let socket = socket.map_err(|_| {
        Problem::bad_request("this route is a WebSocket; send an upgrade request for version 13")
    })?;
    Ok(socket.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE))
}

/// R1.2: runs a command that the first message describes.
pub(super) async fn run(api: Api, Sandbox(id): Sandbox, socket: Upgrade) -> Result<Response> {
    let socket = upgrade(socket)?;
    api.control.get(&id).await?;
    let token = api.config.sessions.token();
    Ok(socket.on_upgrade(async move |socket| {
        let _token = token;
        begin(&api, id, socket).await;
    }))
}

/// R1.2: takes a command up again at an offset.
pub(super) async fn resume(
    api: Api,
    Sandbox(id): Sandbox,
    path: PathText,
    query: Query,
    socket: Upgrade,
) -> Result<Response> {
    let socket = upgrade(socket)?;
    let binary = query.flag("binary")?;
    let follow = attach(&api, &id, &path, &query).await?;
    let token = api.config.sessions.token();
    Ok(socket.on_upgrade(async move |socket| {
        let _token = token;
        session(&api, socket, follow, binary).await;
    }))
}

async fn begin(api: &Api, id: SandboxId, mut socket: WebSocket) {
    let first = tokio::select! {
        first = timeout(api.config.timing.first_message, first_text(&mut socket)) => first,
        () = api.config.stopping.cancelled() => {
            return refuse(socket, &stopping(), close_code::AWAY).await;
        }
    };
    let request = match first {
        Ok(Some(text)) => decode::<ExecRequest>(text.as_bytes()),
        Ok(None) => return,
        Err(_) => Err(Problem::new(Code::Timeout, "the first message did not come in time")),
    };
    let request = request.and_then(|request| {
        let binary = request.binary == Some(true);
        let mut wanted = wanted(request)?;
        wanted.stdin = Stdin::Pipe;
        Ok((wanted, binary))
    });
    let (request, binary) = match request {
        Ok(request) => request,
        Err(problem) => return refuse(socket, &problem, close_code::INVALID).await,
    };
    match api.control.exec(&id, request).await {
        Ok(exec) => session(api, socket, started(api, &id, exec), binary).await,
        Err(error) => {
            let problem = Problem::from(error);
            problem.log();
            refuse(socket, &problem, close_code::ERROR).await;
        }
    }
}

fn stopping() -> Problem {
    Problem::new(Code::Unavailable, "the server is stopping")
}

async fn first_text(socket: &mut WebSocket) -> Option<String> {
    loop {
        match socket.recv().await?.ok()? {
            Message::Text(text) => return Some(text.as_str().to_owned()),
            // Not JSON; decoding it says so.
            Message::Binary(_) => return Some(String::new()),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return None,
        }
    }
}

fn text(value: &impl Serialize) -> Message {
    Message::Text(json::text(value).into())
}

fn complaint(problem: &Problem) -> ControlMessage {
    let (code, message) = (problem.code, problem.message.clone());
    ControlMessage::Error { code, error: message.clone(), message }
}

/// Says why and closes. A peer that does not listen is not waited for.
async fn refuse(socket: WebSocket, problem: &Problem, code: u16) {
    let (mut sink, mut source) = socket.split();
    let goodbye = async {
        if sink.send(text(&complaint(problem))).await.is_ok() {
            close(&mut sink, &mut source, code).await;
        }
    };
    let _ = timeout(GOODBYE, goodbye).await;
}

/// The closing handshake: reading on keeps the last messages from being lost to a reset.
async fn close(
    sink: &mut SplitSink<WebSocket, Message>,
    source: &mut SplitStream<WebSocket>,
    code: u16,
) {
    let frame = CloseFrame { code, reason: "".into() };
    if sink.send(Message::Close(Some(frame))).await.is_ok() {
        while let Some(Ok(_)) = source.next().await {}
    }
}

/// What both directions know of each other.
#[derive(Default)]
struct Pulse {
    /// Pings since the peer was last heard.
    unanswered: AtomicU32,
    /// Whether input waits for the command to read. Nothing is heard meanwhile.
    blocked: AtomicBool,
}

async fn session(api: &Api, socket: WebSocket, mut follow: Follow, binary: bool) {
    let (mut sink, mut source) = socket.split();
    let pulse = Pulse::default();
    let (notes, mut noted) = mpsc::channel(8);
    let input = follow.input();
    let ended = tokio::select! {
        ended = outward(api, &mut sink, &mut follow, binary, &pulse, &mut noted) => ended,
        () = inward(&mut source, &input, &pulse, &notes) => None,
    };
    if let Some(code) = ended {
        // Whether the peer says goodbye too changes nothing.
        let _ = timeout(GOODBYE, close(&mut sink, &mut source, code)).await;
    }
}

/// Sends what the command says. Returns the code to close with, or nothing when the peer is gone.
async fn outward(
    api: &Api,
    sink: &mut SplitSink<WebSocket, Message>,
    follow: &mut Follow,
    binary: bool,
    pulse: &Pulse,
    noted: &mut mpsc::Receiver<ControlMessage>,
) -> Option<u16> {
    let period = api.config.timing.ping;
    let mut pings = interval(period);
    pings.reset();
    let started = ControlMessage::Started { exec_id: follow.id(), seq: follow.seq() };
    sink.send(text(&started)).await.ok()?;
    loop {
        let message = tokio::select! {
            step = follow.next(period) => match step {
                Step::Output(_, data, _) if binary => Message::Binary(data),
                Step::Output(kind, data, seq) => text(&follow::frame(kind, &data, seq)),
                Step::Notice(frame) => text(&frame),
                Step::End(frame) => {
                    let interrupted = frame.exit_code.is_none();
                    let stops = api.config.stopping.is_cancelled();
                    let last = async {
                        sink.send(text(&frame)).await.ok()?;
                        if interrupted {
                            return Some(if stops { close_code::AWAY } else { close_code::ERROR });
                        }
                        sink.send(text(&ControlMessage::Done)).await.ok()?;
                        Some(close_code::NORMAL)
                    };
                    // A stopping server does not wait for a peer that does not read.
                    return if stops { timeout(GOODBYE, last).await.ok()? } else { last.await };
                }
                Step::Quiet => continue,
            },
            Some(note) = noted.recv() => text(&note),
            _ = pings.tick() => {
                if pulse.blocked.load(Relaxed) {
                    pulse.unanswered.store(0, Relaxed);
                }
                if UNANSWERED_PINGS <= pulse.unanswered.fetch_add(1, Relaxed) {
                    return None;
                }
                Message::Ping(Bytes::new())
            }
        };
        let sent = tokio::select! {
            sent = sink.send(message) => sent.ok(),
            // The unread rest is in the journal; the peer resumes there.
            () = stalled(api) => None,
        };
        sent?;
    }
}

/// Ends a while after the server was told to stop.
async fn stalled(api: &Api) {
    api.config.stopping.cancelled().await;
    tokio::time::sleep(GOODBYE).await;
}

/// Passes on what the peer sends, until it leaves.
async fn inward(
    source: &mut SplitStream<WebSocket>,
    input: &mpsc::Sender<ExecInput>,
    pulse: &Pulse,
    notes: &mpsc::Sender<ControlMessage>,
) {
    while let Some(Ok(message)) = source.next().await {
        pulse.unanswered.store(0, Relaxed);
        let wanted = match message {
            Message::Text(text) => understood(&text),
            Message::Binary(data) => Ok(ExecInput::Data(data)),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        match wanted {
            Ok(wanted) => {
                pulse.blocked.store(true, Relaxed);
                // A command that has ended takes no input; its exit is on the way.
                let _ = input.send(wanted).await;
                pulse.blocked.store(false, Relaxed);
            }
            Err(problem) => {
                // The receiver lives as long as this loop.
                let _ = notes.send(complaint(&problem)).await;
            }
        }
    }
}

fn understood(text: &str) -> Result<ExecInput> {
    Ok(match decode::<ClientMessage>(text.as_bytes())? {
        ClientMessage::Stdin { data } => ExecInput::Data(data.into()),
        ClientMessage::StdinEof => ExecInput::Eof,
        ClientMessage::Signal { signal } => ExecInput::Signal(signal.number()),
        ClientMessage::Resize { rows, cols } => ExecInput::Resize(size(TtySize { rows, cols })?),
    })
}
