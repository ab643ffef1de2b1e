//! Requests: who may ask, in which of four forms, and for which worker.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    extract::Request as HttpRequest,
    response::Response,
};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::upgrade::OnUpgrade;
use stacyvm_fleet::{
    identity::{Refusal, scope_of},
    wire::{self, Lines, Request},
};
use stacyvm_provider::{Error, ErrorKind};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{Call, Rpc, reply::refuse};

/// How long an envelope may take to arrive.
const ENVELOPE: Duration = Duration::from_secs(30);

/// How a request is made.
pub(super) enum Form {
    /// An envelope and nothing else.
    Envelope,
    /// An envelope; the answer's body is raw.
    Answer,
    /// An envelope in a header and a raw body.
    Raw(BodyDataStream),
    /// An envelope on the first line and more lines after it.
    Lines(Rest),
}

/// The lines after the envelope.
pub(super) struct Rest {
    pub(super) lines: Lines,
    pub(super) body: BodyDataStream,
}

/// A request that may be answered.
pub(super) struct Asked {
    pub(super) envelope: Request,
    pub(super) turn: OwnedSemaphorePermit,
    pub(super) form: Form,
    pub(super) upgrade: Option<OnUpgrade>,
    pub(super) takes_trailers: bool,
}

const BAD: &str = wire::Refusal::BAD;
const UNAUTHORIZED: &str = wire::Refusal::UNAUTHORIZED;

/// Reads a request as far as its envelope. The error is the answer.
pub(super) async fn read(rpc: &Rpc, mut request: HttpRequest) -> Result<Asked, Box<Response>> {
    if request.method() != Method::POST {
        let message = "calls are made with POST";
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, BAD, message));
    }
    let (access, worker) = (&rpc.0.access, rpc.0.worker.id());
    let grant =
        access.authenticate(worker, request.headers()).map_err(|refusal| denied(&refusal))?;
    let turn = turn(rpc, request.headers())?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let (head, body) = request.into_parts();
    let takes_trailers = head.headers.get(header::TE).is_some_and(|te| te == "trailers");
    let (envelope, form) = match timeout(ENVELOPE, envelope(&head.headers, body)).await {
        Ok(Ok(read)) => read,
        Ok(Err(message)) => return Err(refuse(StatusCode::BAD_REQUEST, BAD, message)),
        Err(_) => {
            let message = "the request did not arrive in time";
            return Err(refuse(StatusCode::REQUEST_TIMEOUT, BAD, message));
        }
    };
    let call = Call { rpc: rpc.clone(), envelope, turn };
    if call.envelope.worker_id != rpc.name() {
        let message = "the request is for another worker";
        return Err(refuse(StatusCode::FORBIDDEN, UNAUTHORIZED, message));
    }
    if !(1..=256).contains(&call.envelope.id.len()) {
        let error = Error::new(ErrorKind::Invalid, "an id of 1 to 256 bytes is required");
        return Err(Box::new(call.failure(&error)));
    }
    let Some(scope) = scope_of(&call.envelope.method) else {
        // Its status is that of a request that cannot be right, its kind says what it is.
        let named = &call.envelope.method;
        let named = named.get(..named.floor_char_boundary(64)).unwrap_or_default();
        let message = format!("this worker does not know the method {named:?}");
        let reply = call.fault(&Error::new(ErrorKind::Unsupported, message));
        return Err(Box::new(call.json(StatusCode::BAD_REQUEST, &reply)));
    };
    grant.permit(scope).map_err(|refusal| denied(&refusal))?;
    let Call { envelope, turn, .. } = call;
    Ok(Asked { envelope, turn, form, upgrade, takes_trailers })
}

fn denied(refusal: &Refusal) -> Box<Response> {
    tracing::info!(%refusal, "a call was refused");
    if refusal.is_forbidden() {
        let message = "the worker RPC credential does not hold the scope of this method";
        return refuse(StatusCode::FORBIDDEN, UNAUTHORIZED, message);
    }
    let message = "invalid or missing worker RPC credentials";
    refuse(StatusCode::UNAUTHORIZED, UNAUTHORIZED, message)
}

fn turn(rpc: &Rpc, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Box<Response>> {
    let is_stream = headers.contains_key(wire::STREAM) || headers.contains_key(wire::ENVELOPE);
    let turns = if is_stream { &rpc.0.streams } else { &rpc.0.calls };
    Arc::clone(turns).try_acquire_owned().map_err(|_| {
        let message = "too many calls are under way";
        refuse(StatusCode::SERVICE_UNAVAILABLE, wire::Refusal::UNAVAILABLE, message)
    })
}

async fn envelope(headers: &HeaderMap, body: Body) -> Result<(Request, Form), &'static str> {
    const UNREADABLE: &str = "the request is no envelope";
    if let Some(envelope) = headers.get(wire::ENVELOPE) {
        let envelope = wire::from_header(envelope).map_err(|_| UNREADABLE)?;
        return Ok((envelope, Form::Raw(body.into_data_stream())));
    }
    let streams = headers.get(wire::STREAM).map(|how| how.as_bytes());
    if streams == Some(b"ndjson") {
        let lines = Lines::new(wire::MAX_ENVELOPE);
        let mut rest = Rest { lines, body: body.into_data_stream() };
        let line = rest.next().await.map_err(|_| UNREADABLE)?.ok_or(UNREADABLE)?;
        rest.lines.set_longest(wire::MAX_INPUT_LINE);
        let envelope = serde_json::from_slice(&line).map_err(|_| UNREADABLE)?;
        return Ok((envelope, Form::Lines(rest)));
    }
    let whole = Limited::new(body, wire::MAX_ENVELOPE).collect().await;
    let text = whole.map_err(|_| "the request broke off, or is too large")?.to_bytes();
    let envelope = serde_json::from_slice(&text).map_err(|_| UNREADABLE)?;
    let form = if streams == Some(b"raw") { Form::Answer } else { Form::Envelope };
    Ok((envelope, form))
}

/// The body broke off, or is not lines.
pub(super) struct Cut;

impl Rest {
    /// The next line; `None` when there are no more. A last line needs no end.
    pub(super) async fn next(&mut self) -> Result<Option<bytes::Bytes>, Cut> {
        loop {
            if let Some(line) = self.lines.take_line().map_err(|_| Cut)? {
                return Ok(Some(line));
            }
            match self.body.next().await {
                Some(Ok(piece)) => self.lines.push(&piece),
                Some(Err(_)) => return Err(Cut),
                None => return self.lines.last().map_err(|_| Cut),
            }
        }
    }
}
