//! Commands of a worker at a distance: one request that goes on as long as the command does. Its
//! body carries what the command is told, its answer what the command says.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use stacyvm_provider::{Error, Exec, ExecEvent, ExecInput, Result};
use stacyvm_types::ExecId;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    call::{Call, CallId},
    link::{Answer, Body, Lent, Link, Outgoing, Turn},
};
use crate::wire::{self, EventLine, InputLine, Lines, Reply};

/// A worker says something at least every 10 s, a blank line if there is nothing else.
const SILENCE: Duration = Duration::from_secs(40);
/// How long the end of an answer may take after the end of its command.
const REST: Duration = Duration::from_secs(2);
/// Inputs that wait for the connection.
const INPUTS: usize = 16;

/// Starts or follows a command, which ends by itself after `deadline` if there is one.
pub(crate) async fn follow(
    link: &Arc<Link>,
    call: Call,
    exec: ExecId,
    deadline: Option<Duration>,
) -> Result<Exec> {
    let (input, told) = mpsc::channel(INPUTS);
    let over = CancellationToken::new();
    let body = body(call.line()?, told, over.clone());
    let over = over.drop_guard();
    let ndjson = HeaderValue::from_static(wire::NDJSON);
    let headers = vec![
        (header::CONTENT_TYPE, ndjson.clone()),
        (header::ACCEPT, ndjson),
        (wire::STREAM, HeaderValue::from_static("ndjson")),
    ];
    let outgoing = Outgoing { method: call.method, turn: Turn::Stream, headers, body };
    let limit = wire::patience(call.method);
    let sent = timeout(limit, link.send(outgoing)).await;
    let Answer { response, lent } = sent.unwrap_or_else(|_| Err(link.silent(limit)))?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(link.failure(&call, head.status, body).await);
    }
    let events = Events {
        call: call.id,
        body: Some((body, lent, over)),
        link: Arc::clone(link),
        lines: Lines::new(wire::MAX_LINE),
        seq: 0,
        heard: Instant::now(),
        ends: deadline.and_then(|deadline| Instant::now().checked_add(deadline)),
    };
    let events = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((event, events))
    });
    Ok(Exec { id: exec, events: events.boxed(), input })
}

/// The envelope, and after it what the command is told, until nobody tells it anything more or it
/// is over.
fn body(envelope: Bytes, told: mpsc::Receiver<ExecInput>, over: CancellationToken) -> Body {
    let inputs = stream::unfold((told, over), |(mut told, over)| async move {
        let input = over.run_until_cancelled(told.recv()).await??;
        let mut text = Vec::new();
        for line in InputLine::of(input) {
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut text, &line);
            text.push(b'\n');
        }
        Some((Bytes::from(text), (told, over)))
    });
    let pieces = stream::iter([envelope]).chain(inputs);
    let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    StreamBody::new(frames).map_err(|never| match never {}).boxed_unsync()
}

struct Events {
    call: CallId,
    /// Taken when nothing more is to be read. Dropped early it ends the request and the answer.
    body: Option<(Incoming, Lent, DropGuard)>,
    link: Arc<Link>,
    lines: Lines,
    seq: u64,
    /// When something was said last, blank lines aside.
    heard: Instant,
    /// When the command has ended at the latest.
    ends: Option<Instant>,
}

impl Events {
    /// The next event; an error is the last one.
    async fn next(&mut self) -> Option<Result<ExecEvent>> {
        let event = loop {
            match self.lines.take_line() {
                Ok(Some(line)) => break self.event(&line),
                Ok(None) => {}
                Err(error) => break Err(self.link.nonsense().because(error)),
            }
            let limit = self.patience();
            if limit.is_zero() {
                // Something may always be there, so this is not for the timer to say.
                break Err(self.link.silent(SILENCE));
            }
            let (body, ..) = self.body.as_mut()?;
            match timeout(limit, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.push(data);
                    }
                }
                Ok(Some(Err(error))) => break Err(self.link.broke_off().because(error)),
                Ok(None) => break Err(self.link.broke_off()),
                Err(_) => break Err(self.link.silent(SILENCE)),
            }
        };
        self.heard = Instant::now();
        match &event {
            Ok(ExecEvent::Exit(_)) => self.finish(),
            Ok(_) => {}
            Err(_) => self.stop(),
        }
        Some(event)
    }

    /// How long anything is waited for. After the end of the command a worker that says blank lines
    /// only says nothing.
    fn patience(&self) -> Duration {
        let last = self.ends.and_then(|ends| ends.max(self.heard).checked_add(SILENCE));
        match last {
            Some(last) => SILENCE.min(last.saturating_duration_since(Instant::now())),
            None => SILENCE,
        }
    }

    fn event(&mut self, line: &[u8]) -> Result<ExecEvent> {
        let reply: Reply =
            serde_json::from_slice(line).map_err(|error| self.link.nonsense().because(error))?;
        if reply.seq.is_some_and(|seq| seq != self.seq) {
            return Err(self.lost_lines());
        }
        self.seq += 1;
        let line: EventLine = self.link.result(&self.call, StatusCode::OK, reply)?;
        line.event()
    }

    fn lost_lines(&self) -> Error {
        self.link.nonsense().because("a line of the stream is missing")
    }

    fn stop(&mut self) {
        self.body = None;
        self.lines = Lines::new(0);
    }

    /// Ends the request, and reads the end of the answer, so that the connection is good for
    /// another call. Nobody waits for it.
    fn finish(&mut self) {
        let Some((mut body, lent, over)) = self.body.take() else { return };
        self.lines = Lines::new(0);
        drop(over);
        self.link.afterwards(async move {
            let rest = async {
                loop {
                    match body.frame().await {
                        Some(Ok(_)) => {}
                        Some(Err(_)) => return,
                        None => return lent.give_back(),
                    }
                }
            };
            // What does not end soon is closed instead.
            let _ = timeout(REST, rest).await;
        });
    }
}
