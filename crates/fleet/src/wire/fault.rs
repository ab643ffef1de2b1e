//! Failures that survive the hop.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use stacyvm_provider::{Error, ErrorKind, Outcome};

use super::Reply;

/// The longest sentence that is told, or taken over from the other end, in bytes. One that breaks a
/// body off goes into a trailer as base64, and clients of HTTP take 16 KiB of trailers.
const MAX_SENTENCE: usize = 4 << 10;

const WORDS: [(ErrorKind, &str); 15] = [
    (ErrorKind::NoSandbox, "no_sandbox"),
    (ErrorKind::NoImage, "no_image"),
    (ErrorKind::NotFound, "not_found"),
    (ErrorKind::Invalid, "invalid"),
    (ErrorKind::Conflict, "conflict"),
    (ErrorKind::Denied, "denied"),
    (ErrorKind::NotExecutable, "not_executable"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::Exhausted, "exhausted"),
    (ErrorKind::DiskFull, "disk_full"),
    (ErrorKind::TooLarge, "too_large"),
    (ErrorKind::Timeout, "timeout"),
    (ErrorKind::Fenced, "fenced"),
    (ErrorKind::Unavailable, "unavailable"),
    (ErrorKind::Internal, "internal"),
];

/// The parts of a reply that say what failed.
pub struct Fault;

impl Fault {
    /// The reply that carries an error. What caused it stays in this process's log.
    pub fn reply(id: &str, worker: &str, error: &Error) -> Reply {
        let word = WORDS.iter().find(|(kind, _)| *kind == error.kind).map(|(_, word)| *word);
        let outcome = match error.outcome {
            Outcome::NotDone => "not_done",
            Outcome::Unknown => "unknown",
        };
        Reply {
            id: id.to_owned(),
            worker_id: worker.to_owned(),
            error: Some(sentence(&error.message)),
            kind: word.map(str::to_owned),
            outcome: Some(outcome.to_owned()),
            ..Reply::default()
        }
    }

    /// The error that a reply carries, if it is one. A reply without a kind, which is an older
    /// worker's, is judged by its status.
    pub fn error(reply: &Reply, status: StatusCode) -> Option<Error> {
        if reply.error.is_none() && status.is_success() {
            return None;
        }
        let told = reply.kind.as_deref();
        let kind = WORDS.iter().find(|(_, word)| Some(*word) == told).map(|(kind, _)| *kind);
        let outcome = match reply.outcome.as_deref() {
            Some("not_done") => Some(Outcome::NotDone),
            Some(_) => Some(Outcome::Unknown),
            None => None,
        };
        let judged = judged(status);
        let message = match &reply.error {
            Some(told) => sentence(told),
            None => format!("the worker answered with status {}", status.as_u16()),
        };
        let mut error = Error::new(kind.unwrap_or(judged.0), message);
        error.outcome = outcome.unwrap_or(judged.1);
        Some(error)
    }
}

/// One line of a bounded length, whatever a sandbox or the other end made of it.
pub(crate) fn sentence(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_SENTENCE);
    let text = text.get(..end).unwrap_or_default();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What a worker answers to a request before it knows which call it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// A word for the kind of it.
    pub code: String,
    /// A sentence.
    pub message: String,
}

impl Refusal {
    /// The code of a request that cannot be right.
    pub const BAD: &'static str = "BAD_REQUEST";
    /// The code of a caller that may not do this.
    pub const UNAUTHORIZED: &'static str = "UNAUTHORIZED";
    /// The code of a worker that can take no more.
    pub const UNAVAILABLE: &'static str = "UNAVAILABLE";

    /// The error that it is, if it is one: nothing was done. Other servers that answer in the place
    /// of a worker say nothing about what is there, and a proxy may have handed the call on.
    pub fn error(&self, status: StatusCode) -> Option<Error> {
        let kind = match (status.as_u16(), &*self.code) {
            (400, Self::BAD) => ErrorKind::Invalid,
            (401 | 403, Self::UNAUTHORIZED) | (405, Self::BAD) | (503, Self::UNAVAILABLE) => {
                ErrorKind::Unavailable
            }
            _ => return None,
        };
        Some(Error::new(kind, sentence(&self.message)))
    }
}

/// The status that a failure is answered with.
pub const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NoSandbox | ErrorKind::NoImage | ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Invalid | ErrorKind::NotExecutable => StatusCode::BAD_REQUEST,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Denied | ErrorKind::Fenced => StatusCode::FORBIDDEN,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What a status means when nothing else says it.
fn judged(status: StatusCode) -> (ErrorKind, Outcome) {
    use ErrorKind as K;
    match status.as_u16() {
        400 => (K::Invalid, Outcome::NotDone),
        // Refused credentials, another worker, a lease: nothing that the caller's caller did.
        401 | 403 | 405 | 503 => (K::Unavailable, Outcome::NotDone),
        404 => (K::NoSandbox, Outcome::NotDone),
        409 => (K::Conflict, Outcome::NotDone),
        413 => (K::TooLarge, Outcome::NotDone),
        429 => (K::Exhausted, Outcome::NotDone),
        501 => (K::Unsupported, Outcome::NotDone),
        504 => (K::Timeout, Outcome::Unknown),
        507 => (K::DiskFull, Outcome::Unknown),
        _ => (K::Unavailable, Outcome::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_hop() {
        for (kind, _) in WORDS {
            for outcome in [Outcome::NotDone, Outcome::Unknown] {
                let mut error = Error::new(kind, "a sentence").because("a secret of the host");
                error.outcome = outcome;
                let reply = Fault::reply("1", "w", &error);
                let text = serde_json::to_string(&reply).unwrap();
                assert!(!text.contains("secret"), "{text}");
                let reply = serde_json::from_str(&text).unwrap();
                let after = Fault::error(&reply, status_of(kind)).unwrap();
                let expected = (kind, outcome, "a sentence");
                assert_eq!((after.kind, after.outcome, &*after.message), expected);
            }
        }
    }

    #[test]
    fn the_kinds_of_the_api_have_statuses_of_their_own() {
        let statuses = [
            (ErrorKind::NoSandbox, 404),
            (ErrorKind::Conflict, 409),
            (ErrorKind::Exhausted, 429),
            (ErrorKind::Unsupported, 501),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::Timeout, 504),
            (ErrorKind::DiskFull, 507),
        ];
        for (kind, status) in statuses {
            assert_eq!(status_of(kind), status);
        }
    }

    #[test]
    fn a_reply_of_an_older_worker_is_judged_by_its_status() {
        let reply = Reply { error: Some("sandbox not found: sb-1".into()), ..Reply::default() };
        let error = Fault::error(&reply, StatusCode::NOT_FOUND).unwrap();
        assert_eq!((error.kind, error.outcome), (ErrorKind::NoSandbox, Outcome::NotDone));
        let error = Fault::error(&Reply::default(), StatusCode::BAD_GATEWAY).unwrap();
        assert_eq!((error.kind, error.outcome), (ErrorKind::Unavailable, Outcome::Unknown));
        assert!(Fault::error(&Reply::default(), StatusCode::OK).is_none());
    }

    /// A client of HTTP gives up on longer trailers, and the connection with them.
    #[test]
    fn the_worst_sentence_of_a_sandbox_fits_a_trailer() {
        const TRAILERS: usize = 16 << 10;
        for worst in ["\u{1}", "\"", "\\", "é", "\n", "\u{2028}", "x"] {
            let error = Error::new(ErrorKind::Internal, worst.repeat(1 << 20));
            let reply = Fault::reply(&"i".repeat(256), &"w".repeat(64), &error);
            assert!(!reply.error.as_ref().unwrap().contains(char::is_control));
            let header = super::super::to_header(&reply).unwrap();
            assert!(header.len() + 100 < TRAILERS, "{worst:?}: {}", header.len());
        }
    }

    #[test]
    fn a_sentence_without_end_is_cut() {
        let reply = Reply { error: Some("é".repeat(1 << 20)), ..Reply::default() };
        let error = Fault::error(&reply, StatusCode::INTERNAL_SERVER_ERROR).unwrap();
        assert!(error.message.len() <= MAX_SENTENCE);
    }
}
