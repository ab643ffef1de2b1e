//! Commands: their events as lines while they run, and what they are told as lines of the request.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::Either, stream};
use http::StatusCode;
use serde::Serialize;
use stacyvm_fleet::wire::{AttachParams, EventLine, ExecParams, InputLine, method};
use stacyvm_provider::{Error, ErrorKind, Exec, ExecEvent, ExecInput, Exit, Guest, Output, Result};
use stacyvm_types::ExecId;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Call, raw,
    reply::{ndjson, text},
    request::Rest,
};

/// A blank line follows so much silence, so that each side notices when the other is gone.
const BEAT: Duration = Duration::from_secs(10);
/// How long the end of a request may take after the end of its command.
const REST: Duration = Duration::from_secs(2);
/// The largest output of a command that is answered at once.
const MAX_OUTPUT: usize = 8 << 20;

fn fresh() -> ExecId {
    ExecId::from_entropy(rand::random())
}

/// Starts or follows a command. The guest is kept for as long as it is followed.
async fn begin(call: &Call) -> Result<(Arc<dyn Guest>, Exec)> {
    if call.envelope.method == method::EXEC_ATTACH {
        let params: AttachParams = call.envelope.params()?;
        let exec = ExecId::parse(&params.exec_id)
            .map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
        let guest = call.guest().await?;
        let exec = guest.attach(&exec, params.offset).await?;
        return Ok((guest, exec));
    }
    let params: ExecParams = call.envelope.params()?;
    let spec = params.spec(fresh)?;
    let guest = call.guest().await?;
    let exec = guest.exec(spec).await?;
    Ok((guest, exec))
}

/// Answers with lines for as long as the command runs.
pub(super) async fn follow(call: Call, rest: Rest) -> Response {
    let (guest, exec) = match call.in_time(begin(&call)).await {
        Ok(begun) => begun,
        Err(error) => return call.failure(&error),
    };
    // A caller that names its commands knows what is not text.
    let takes_bytes = call.envelope.method == method::EXEC_ATTACH
        || call.envelope.params::<ExecParams>().is_ok_and(|params| params.exec_id.is_some());
    let Exec { events, input, .. } = exec;
    let inputs = AbortOnDropHandle::new(call.rpc.0.tasks.spawn(tell(rest, input)));
    let lines = Follow {
        call,
        _guest: guest,
        events,
        inputs,
        ready: VecDeque::new(),
        seq: 0,
        takes_bytes,
        over: false,
    };
    let lines = stream::unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    ndjson(StatusCode::OK, Body::from_stream(lines))
}

/// Hands on what a command is told, and reads the request to its end also when nobody listens.
async fn tell(mut rest: Rest, input: mpsc::Sender<ExecInput>) {
    let mut listens = true;
    while let Ok(Some(line)) = rest.next().await {
        let read = serde_json::from_slice::<InputLine>(&line).map(InputLine::input);
        let Ok(Ok(told)) = read else {
            tracing::debug!("a line of a request is no input");
            return;
        };
        if let Some(told) = told
            && listens
        {
            listens = input.send(told).await.is_ok();
        }
    }
}

struct Follow {
    call: Call,
    _guest: Arc<dyn Guest>,
    events: futures_util::stream::BoxStream<'static, Result<ExecEvent>>,
    inputs: AbortOnDropHandle<()>,
    ready: VecDeque<Bytes>,
    seq: u64,
    takes_bytes: bool,
    over: bool,
}

impl Follow {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(line) = self.ready.pop_front() {
            return Some(line);
        }
        if self.over {
            // The request ends before the answer does, so that the connection can be used again.
            let _ = timeout(REST, &mut self.inputs).await;
            return None;
        }
        let stopping = self.call.rpc.0.stopping.clone();
        let event = tokio::select! {
            biased;
            event = self.events.next() => event,
            () = sleep(BEAT) => return Some(Bytes::from_static(b"\n")),
            () = stopping.cancelled() => {
                let message = "the worker stops; the command goes on";
                Some(Err(Error::unknown(ErrorKind::Unavailable, message)))
            }
        };
        let event = event.unwrap_or_else(|| {
            Err(Error::unknown(ErrorKind::Unavailable, "the command's output broke off"))
        });
        self.over = matches!(event, Ok(ExecEvent::Exit(_)) | Err(_));
        match event {
            Ok(event) => {
                for line in EventLine::of(event) {
                    self.push(line);
                }
            }
            Err(error) => self.break_off(&error),
        }
        self.ready.pop_front()
    }

    fn push(&mut self, line: EventLine) {
        let line = if self.takes_bytes { line } else { line.as_text() };
        match raw(&line) {
            Ok(result) => {
                let mut reply = self.call.line(result);
                reply.seq = Some(self.seq);
                self.seq += 1;
                self.ready.push_back(text(&reply).into());
            }
            Err(error) => {
                self.over = true;
                self.break_off(&error);
            }
        }
    }

    fn break_off(&mut self, error: &Error) {
        self.call.log(error);
        let mut reply = self.call.fault(error);
        reply.seq = Some(self.seq);
        self.seq += 1;
        self.ready.push_back(text(&reply).into());
    }
}

#[derive(Serialize)]
struct Chunk {
    stream: &'static str,
    data: String,
}

#[derive(Serialize)]
struct Chunks {
    sandbox_id: String,
    chunks: Vec<Chunk>,
    exit_code: i32,
}

#[derive(Serialize)]
struct Ended {
    sandbox_id: String,
    exit_code: i32,
    stdout: String,
    stderr: String,
}

/// Answers when the command has ended, with all that it wrote.
pub(super) async fn buffered(call: Call) -> Response {
    let result = match method::EXEC == call.envelope.method {
        true => Either::Left(ended(&call)),
        false => Either::Right(chunks(&call)),
    };
    let result = result.await;
    call.reply(result)
}

async fn ended(call: &Call) -> Result<Option<Box<serde_json::value::RawValue>>> {
    let params: ExecParams = call.envelope.params()?;
    let (pieces, exit) = collect(call).await?;
    let text = |wanted: Output| {
        let bytes: Vec<u8> = pieces
            .iter()
            .filter(|(stream, _)| *stream == wanted)
            .flat_map(|(_, b)| b.clone())
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    raw(&Ended {
        sandbox_id: params.sandbox_id,
        exit_code: exit.code(),
        stdout: text(Output::Stdout),
        stderr: text(Output::Stderr),
    })
}

async fn chunks(call: &Call) -> Result<Option<Box<serde_json::value::RawValue>>> {
    let params: ExecParams = call.envelope.params()?;
    let (pieces, exit) = collect(call).await?;
    let chunk = |(stream, data): (Output, Bytes)| Chunk {
        stream: match stream {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
        },
        data: String::from_utf8_lossy(&data).into_owned(),
    };
    let chunks = pieces.into_iter().map(chunk).collect();
    raw(&Chunks { sandbox_id: params.sandbox_id, chunks, exit_code: exit.code() })
}

/// A command's output and end. One that meets its deadline is [`ErrorKind::Timeout`].
async fn collect(call: &Call) -> Result<(Vec<(Output, Bytes)>, Exit)> {
    let (_guest, exec) = begin(call).await?;
    let Exec { mut events, input, .. } = exec;
    drop(input);
    let (mut pieces, mut size) = (Vec::new(), 0);
    while let Some(event) = events.next().await {
        match event? {
            ExecEvent::Output { stream, data, .. } => {
                // What a piece costs besides its bytes counts too.
                size += data.len() + size_of::<(Output, Bytes)>();
                if MAX_OUTPUT < size {
                    let message = "the output is too large for one answer; ask for a stream";
                    return Err(Error::unknown(ErrorKind::TooLarge, message));
                }
                pieces.push((stream, data));
            }
            ExecEvent::Truncated { .. } => {}
            ExecEvent::Exit(Exit::Timeout) => {
                return Err(Error::unknown(ErrorKind::Timeout, "exec timeout"));
            }
            ExecEvent::Exit(exit) => return Ok((pieces, exit)),
        }
    }
    Err(Error::unknown(ErrorKind::Unavailable, "the command's output broke off"))
}
