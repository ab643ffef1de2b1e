//! Replies on the wire.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::value::RawValue;
use stacyvm_fleet::wire::{self, Fault, Refusal, Reply};
use stacyvm_provider::{Error, ErrorKind, Outcome};

use super::Call;

/// A refusal without an envelope.
pub(super) fn refuse(status: StatusCode, code: &str, message: &str) -> Box<Response> {
    let refusal = Refusal { code: code.to_owned(), message: message.to_owned() };
    Box::new((status, axum::Json(refusal)).into_response())
}

impl Call {
    /// An answer, or a line of one.
    pub(super) fn line(&self, result: Option<Box<RawValue>>) -> Reply {
        Reply {
            id: self.envelope.id.clone(),
            worker_id: self.rpc.name().to_owned(),
            result,
            ..Reply::default()
        }
    }

    /// A failure as a reply.
    pub(super) fn fault(&self, error: &Error) -> Reply {
        Fault::reply(&self.envelope.id, self.rpc.name(), error)
    }

    pub(super) fn json(&self, status: StatusCode, reply: &Reply) -> Response {
        (status, axum::Json(reply)).into_response()
    }

    /// The answer to a call that failed. What nobody but the operator can do something about is
    /// logged here, because the caller gets no more than its sentence.
    pub(super) fn failure(&self, error: &Error) -> Response {
        self.log(error);
        self.json(wire::status_of(error.kind), &self.fault(error))
    }

    pub(super) fn log(&self, error: &Error) {
        let method = &*self.envelope.method;
        match (error.kind, error.outcome) {
            (ErrorKind::Internal, _) => tracing::error!(method, ?error, "a call failed"),
            (_, Outcome::Unknown) => tracing::warn!(method, ?error, "a call failed"),
            (_, Outcome::NotDone) => tracing::debug!(method, ?error, "a call was refused"),
        }
    }
}

/// A reply as a line.
pub(super) fn text(reply: &Reply) -> Vec<u8> {
    let mut text = serde_json::to_vec(reply).unwrap_or_default();
    text.push(b'\n');
    text
}

/// An answer in lines.
pub(super) fn ndjson(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(wire::NDJSON);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
