//! What can go wrong, in terms of what the caller can do.

use std::{error::Error as StdError, io, time::Duration};

use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};
use stacyvm_api_types::{Code, ErrorBody};

use crate::Settings;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused it and said why.
    #[error("{}", .0.message)]
    Api(Box<ApiFailure>),
    /// There is no server there, or no way to it. The request was not sent.
    #[error("cannot connect to {server}")]
    Connect {
        /// The address that was tried.
        server: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The server did not begin its answer in time. Whether it happened is not known.
    #[error("the server did not answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// The connection broke. Whether it happened is not known.
    #[error("the connection to the server broke")]
    Broken(#[source] BoxError),
    /// What answered does not speak this API.
    #[error("the server's answer cannot be understood: {0}")]
    Unexpected(String),
    /// The request cannot be written. It was not sent.
    #[error("{0}")]
    Invalid(String),
    /// What was to be uploaded could not be read.
    #[error("what is to be sent cannot be read")]
    Source(#[source] io::Error),
}

/// What the server said when it refused.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiFailure {
    /// The reason for programs; [`Code::Unknown`] when this client does not know the word, or
    /// what answered is not StacyVM.
    pub code: Code,
    /// The HTTP status.
    pub status: u16,
    /// The reason for people.
    pub message: String,
    /// Under this id the server's log says more.
    pub request_id: String,
    /// More, by code; see `docs/http.md`.
    pub details: Option<Map<String, Value>>,
    /// How long to wait before the next try, if the server said so.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// What the server said, if it was the server that refused.
    pub fn api(&self) -> Option<&ApiFailure> {
        match self {
            Self::Api(failure) => Some(failure),
            _ => None,
        }
    }

    /// The server's code, if it was the server that refused.
    pub fn code(&self) -> Option<Code> {
        self.api().map(|failure| failure.code)
    }

    /// Whether the same request may work later. It says nothing about whether the failed one
    /// happened: see [`Error::may_have_happened`].
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::NoAnswer(_) | Self::Broken(_) => true,
            Self::Api(failure) => match failure.code {
                Code::Unknown => matches!(failure.status, 429 | 502..=504),
                code => code.retryable(),
            },
            Self::Unexpected(_) | Self::Invalid(_) | Self::Source(_) => false,
        }
    }

    /// Whether the request may have had its effect all the same.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Invalid(_) => false,
            Self::NoAnswer(_) | Self::Broken(_) | Self::Unexpected(_) | Self::Source(_) => true,
            Self::Api(failure) => 500 <= failure.status,
        }
    }

    /// The message with everything that caused it, for people.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = StdError::source(self);
        while let Some(error) = source {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            source = error.source();
        }
        text
    }

    pub(crate) const fn never_sent(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// Whether a short pause may already help: a server that restarts or is briefly unavailable.
    pub(crate) fn is_worth_retrying_soon(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken(_) => true,
            Self::Api(failure) => matches!(failure.status, 502..=504),
            Self::NoAnswer(_) | Self::Unexpected(_) | Self::Invalid(_) | Self::Source(_) => false,
        }
    }
}

pub(crate) fn from_pool(error: &hyper_util::client::legacy::Error, settings: &Settings) -> Error {
    if error.is_connect() {
        connect(settings, innermost(error))
    } else {
        Error::Broken(innermost(error))
    }
}

pub(crate) fn connect(settings: &Settings, source: BoxError) -> Error {
    Error::Connect { server: settings.server.to_string(), source }
}

/// HTTP libraries wrap the reason in several layers that say nothing; the last one says it.
fn innermost(error: &hyper_util::client::legacy::Error) -> BoxError {
    let mut reason = error.to_string();
    let mut source = StdError::source(error);
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    reason.into()
}

pub(crate) fn from_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let retry_after = text("retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs);
    let body = serde_json::from_slice(body).unwrap_or_else(|_| ErrorBody {
        code: Code::Unknown,
        message: format!("the server answered {status} without saying why"),
        request_id: String::new(),
        details: None,
    });
    let request_id = match body.request_id {
        id if id.is_empty() => text("x-request-id").unwrap_or_default(),
        id => id,
    };
    Error::Api(Box::new(ApiFailure {
        code: body.code,
        status: status.as_u16(),
        message: body.message,
        request_id,
        details: body.details,
        retry_after,
    }))
}

/// An error that a WebSocket said in a message.
pub(crate) fn from_message(code: Code, message: String) -> Error {
    Error::Api(Box::new(ApiFailure {
        code,
        status: code.status(),
        message,
        request_id: String::new(),
        details: None,
        retry_after: None,
    }))
}
