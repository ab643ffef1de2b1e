//! Requests and replies.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use stacyvm_provider::{Error, ErrorKind};

use super::MAX_HEADER;

/// What is not an envelope, or not one of this kind. The reason is for logs and callers.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is no JSON of the expected form.
    #[error("not the JSON that was expected")]
    Json(#[from] serde_json::Error),
    /// The header's text is no base64url.
    #[error("not base64url")]
    Base64(#[from] base64::DecodeError),
    /// The header is too long.
    #[error("longer than {MAX_HEADER} bytes")]
    TooLong,
}

/// A call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Names the call; the reply repeats it.
    pub id: String,
    /// What is asked for: one of [`super::method`].
    pub method: String,
    /// The worker that is asked.
    pub worker_id: String,
    /// By which right, for what changes a sandbox or reaches into one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The method's parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Box<RawValue>>,
}

impl Request {
    /// The parameters as those of a method; missing ones are an empty object.
    pub fn params<P: DeserializeOwned>(&self) -> Result<P, Error> {
        let text = self.params.as_deref().map_or("{}", RawValue::get);
        serde_json::from_str(text).map_err(|error| {
            let message = format!("the parameters are not those of {}: {error}", self.method);
            Error::new(ErrorKind::Invalid, message)
        })
    }
}

/// The right to command a sandbox: its generation with its holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The sandbox.
    pub resource_id: String,
    /// The worker that holds it.
    pub holder_id: String,
    /// The fence.
    #[serde(default)]
    pub generation: u64,
}

/// An answer, or one line of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reply {
    /// The call's id.
    #[serde(default)]
    pub id: String,
    /// The worker that answers.
    #[serde(default)]
    pub worker_id: String,
    /// A sentence about the failure; there is none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The failure's kind, a word of [`super::Fault`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `not_done` or `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The line's place in its stream, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The method's result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
}

/// A value as the text of a header.
pub fn to_header<T: Serialize>(value: &T) -> Result<HeaderValue, Malformed> {
    let text = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(value)?);
    if MAX_HEADER < text.len() {
        return Err(Malformed::TooLong);
    }
    HeaderValue::try_from(text).map_err(|_| Malformed::TooLong)
}

/// The value of a header.
pub fn from_header<T: DeserializeOwned>(value: &HeaderValue) -> Result<T, Malformed> {
    if MAX_HEADER < value.len() {
        return Err(Malformed::TooLong);
    }
    Ok(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(value.as_bytes())?)?)
}
