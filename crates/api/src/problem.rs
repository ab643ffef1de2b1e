//! Errors on the wire. This is the only place that knows which HTTP status a failure has.

use std::{error::Error as StdError, fmt::Write as _, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use stacyvm_api_types::{Code, ErrorBody};
use stacyvm_control as control;

use crate::{idempotency::REPLAYED, json, views};

/// The result of a handler.
pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

/// A refused or failed request.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) message: String,
    details: Option<Map<String, Value>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log only.
    cause: Option<Box<dyn StdError + Send + Sync>>,
    /// The log has enough of its kind.
    is_unlogged: bool,
}

/// How a problem travels from a handler to the edge, which knows the request id.
#[derive(Clone)]
pub(crate) struct Carried(pub(crate) Arc<Problem>);

/// The longest message; what a client sent is echoed, and it may have sent a lot.
const MAX_MESSAGE: usize = 1024;

impl Problem {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if MAX_MESSAGE < message.len() {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push('…');
        }
        Self { code, message, details: None, headers: Vec::new(), cause: None, is_unlogged: false }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    fn with_detail(mut self, key: &str, value: Value) -> Self {
        self.details.get_or_insert_default().insert(key.to_owned(), value);
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same without its line in the log.
    pub(crate) const fn unlogged(mut self) -> Self {
        self.is_unlogged = true;
        self
    }

    pub(crate) fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The problem of a sandbox id that cannot exist.
    pub(crate) fn no_sandbox(text: &str) -> Self {
        Self::new(Code::NotFound, format!("sandbox not found: {}", echo(text)))
    }

    /// A reply that the HTTP library made with this status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let code = Code::ALL.iter().copied().find(|code| code.status() == status.as_u16());
        let other = if status.is_server_error() { Code::Internal } else { Code::BadRequest };
        let code = code.unwrap_or(other);
        let message = status.canonical_reason().unwrap_or("the request was refused");
        Self::new(code, message.to_lowercase())
    }

    /// A handler that panicked.
    pub(crate) fn panicked() -> Self {
        Self::new(Code::Internal, "internal error").because("the handler panicked")
    }

    /// The problem of an answer that was kept, marked as given before.
    pub(crate) fn replayed(body: ErrorBody) -> Self {
        let ErrorBody { code, message, details, .. } = body;
        let problem = Self { details, ..Self::new(code, message) };
        problem.with_header(REPLAYED, HeaderValue::from_static("true"))
    }

    /// What the reply of this problem says under a request id.
    pub(crate) fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            code: self.code,
            message: self.message.clone(),
            request_id: request_id.to_owned(),
            details: self.details.clone(),
        }
    }

    /// The reply of this problem under a request id.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let mut response = json::response(self.status(), &self.body(request_id));
        for (name, value) in &self.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        if matches!(self.code, Code::Unavailable | Code::IdempotencyKeyInUse) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Says it once in the log: failures of ours loudly, refusals quietly.
    pub(crate) fn log(&self) {
        if self.is_unlogged {
            return;
        }
        let status = self.code.status();
        let code = self.code.as_str();
        let message = &self.message;
        let cause = self.cause.as_deref().map(chain).unwrap_or_default();
        // What a provider cannot do and a full disk are refusals too, whatever their number.
        let refused = matches!(self.code, Code::Unsupported | Code::DiskFull);
        if status < 500 || refused {
            tracing::info!(http.status = status, code, cause, "refused: {message}");
        } else {
            tracing::error!(http.status = status, code, cause, "failed: {message}");
        }
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// What a client sent, fit to be shown: cut, and without control characters.
pub(crate) fn echo(text: &str) -> String {
    const MAX: usize = 64;
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut shown: String = text.chars().take(MAX).map(clean).collect();
    if text.chars().nth(MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// An error with everything that caused it, for the log.
fn chain(error: &(dyn StdError + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(Carried(Arc::new(self)));
        response
    }
}

impl From<control::Error> for Problem {
    fn from(error: control::Error) -> Self {
        use control::Error as E;
        let message = error.to_string();
        match error {
            E::Invalid(_) => Self::new(Code::BadRequest, message),
            E::NoSandbox(_)
            | E::NoProvider(_)
            | E::NoImage(_)
            | E::NoTemplate(_)
            | E::NotFound(_) => Self::new(Code::NotFound, message),
            E::Ended { cause, .. } => {
                Self::new(Code::NotFound, message).with_detail("cause", json!(views::cause(&cause)))
            }
            E::Conflict(_) | E::SetUp { .. } | E::Fenced => Self::new(Code::Conflict, message),
            E::WrongState { phase, .. } => {
                let state = json!(phase.wire_state());
                let problem = Self::new(Code::WrongState, message).with_detail("state", state);
                match phase.cause() {
                    Some(cause) => problem.with_detail("cause", json!(views::cause(cause))),
                    None => problem,
                }
            }
            E::KeyInUse => Self::new(Code::IdempotencyKeyInUse, message),
            E::KeyReused => Self::new(Code::IdempotencyKeyReused, message),
            E::Limit(_) => Self::new(Code::ResourceLimit, message),
            E::ExecTimeout(_) => Self::new(Code::Timeout, message),
            E::Unsupported(_) => Self::new(Code::Unsupported, message),
            E::NotExecutable(_) => Self::new(Code::NotExecutable, message),
            E::Denied(_) | E::Forbidden(_) => Self::new(Code::Forbidden, message),
            E::TooLarge(_) => Self::new(Code::PayloadTooLarge, message),
            E::RangePastEnd { size } => {
                let problem = Self::new(Code::RangeNotSatisfiable, message);
                match HeaderValue::try_from(format!("bytes */{size}")) {
                    Ok(value) => problem.with_header(header::CONTENT_RANGE, value),
                    Err(_) => problem,
                }
            }
            E::DiskFull => Self::new(Code::DiskFull, message),
            E::Unavailable(failure) => Self::new(Code::Unavailable, message).because(failure),
            E::Internal(failure) => Self::new(Code::Internal, "internal error").because(failure),
        }
    }
}
