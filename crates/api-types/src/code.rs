//! Error codes and the error body.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

macro_rules! codes {
    ($(#[doc = $meaning:literal] $name:ident => $text:literal, $status:literal, $retryable:literal;)*) => {
        /// What went wrong, for programs. The list only grows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $text)] $name,)*
            /// A code of a newer server. Never sent.
            #[serde(other)]
            #[schemars(skip)]
            Unknown,
        }

        impl Code {
            /// Every code that a server sends.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Unknown => "UNKNOWN" }
            }

            /// The HTTP status that carries it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* Self::Unknown => 500 }
            }

            /// When it is sent, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning.trim_start(),)*
                    Self::Unknown => "A code of a newer server.",
                }
            }

            /// Whether the same request may succeed later.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* Self::Unknown => false }
            }
        }
    };
}

codes! {
    /// The request cannot be right.
    BadRequest => "BAD_REQUEST", 400, false;
    /// Credentials are missing or wrong.
    Unauthorized => "UNAUTHORIZED", 401, false;
    /// A host, origin or right that is not allowed.
    Forbidden => "FORBIDDEN", 403, false;
    /// No such thing, or one that has ended.
    NotFound => "NOT_FOUND", 404, false;
    /// The path does not take this method.
    MethodNotAllowed => "METHOD_NOT_ALLOWED", 405, false;
    /// A command met its deadline, or a body stopped arriving.
    Timeout => "TIMEOUT", 408, false;
    /// It exists already, is in use, or has a newer owner.
    Conflict => "CONFLICT", 409, false;
    /// The sandbox's state does not allow it.
    WrongState => "WRONG_STATE", 409, false;
    /// The first request with this idempotency key has not ended.
    IdempotencyKeyInUse => "IDEMPOTENCY_KEY_IN_USE", 409, true;
    /// A body or an answer above its limit.
    PayloadTooLarge => "PAYLOAD_TOO_LARGE", 413, false;
    /// The request target is too long.
    UriTooLong => "URI_TOO_LONG", 414, false;
    /// A content type or encoding that the route does not take.
    UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE", 415, false;
    /// A range past the end of the file.
    RangeNotSatisfiable => "RANGE_NOT_SATISFIABLE", 416, false;
    /// The program cannot be executed.
    NotExecutable => "NOT_EXECUTABLE", 422, false;
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused => "IDEMPOTENCY_KEY_REUSED", 422, false;
    /// A limit refuses it.
    ResourceLimit => "RESOURCE_LIMIT", 429, true;
    /// The headers are too large.
    HeadersTooLarge => "HEADERS_TOO_LARGE", 431, false;
    /// A bug.
    Internal => "INTERNAL_ERROR", 500, false;
    /// The provider cannot do this.
    Unsupported => "UNSUPPORTED", 501, false;
    /// The store or a provider does not answer.
    Unavailable => "UNAVAILABLE", 503, true;
    /// A disk is full.
    DiskFull => "DISK_FULL", 507, false;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of every error reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
    /// Finds the request in the server's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// What `docs/http.md` promises for some codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Map<String, Value>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_word_in_json_and_in_text() {
        for code in Code::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
        }
    }

    #[test]
    fn a_code_of_a_newer_server_is_still_an_error_body() {
        let body: ErrorBody =
            serde_json::from_str(r#"{"code":"TEAPOT","message":"short and stout"}"#).unwrap();
        assert_eq!(body.code, Code::Unknown);
    }

    #[test]
    fn every_code_has_its_page_and_its_row() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
        let table = std::fs::read_to_string(format!("{docs}/http.md")).unwrap();
        for code in Code::ALL {
            let page = std::fs::read_to_string(format!("{docs}/errors/{code}.md")).unwrap();
            assert!(page.starts_with(&format!("# `{code}` ({})\n", code.status())), "{code}");
            let later = if code.retryable() { "later" } else { "no" };
            let row = format!("| `{code}` | {} | {later} |", code.status());
            assert!(table.contains(&row), "docs/http.md lacks: {row}");
        }
    }
}
