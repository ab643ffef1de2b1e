//! The header `Idempotency-Key`: which requests take it, what makes two of them the same, and how an
//! answer is kept and replayed. What a key means for the work is control's.
//!
//! The layer stands between the one that says who asks and the handlers. It reads the whole body,
//! which all of its routes do anyway, and runs the handler on a task of the server's, so that a
//! client that goes away neither stops the work nor loses its answer.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::Value;
use stacyvm_api_types::ErrorBody;
use stacyvm_control::{self as control, Key, Turn, Verdict};
use stacyvm_store::Answer;

use crate::{
    Api, body,
    problem::{Carried, Problem, Result},
    routes::{NDJSON, table},
};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const LONGEST_KEY: usize = 255;
/// The longest answer that is kept; a longer one is made anew.
const LONGEST_KEPT: u64 = 256 << 10;

/// What a route that takes keys does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It begins with a spawn.
    Spawn,
    /// Anything else.
    Other,
}

/// The turn of a request that brought a key.
pub(crate) struct Once(pub(crate) Option<Turn>);

impl Once {
    /// The turn, for the use cases that take one.
    pub(crate) const fn turn(&self) -> Option<&Turn> {
        self.0.as_ref()
    }

    /// The command, as that of the turn.
    pub(crate) fn exec(&self, wanted: control::ExecRequest) -> Result<control::ExecRequest> {
        match &self.0 {
            Some(turn) => Ok(turn.of_exec(wanted)?),
            None => Ok(wanted),
        }
    }
}

impl FromRequestParts<Api> for Once {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Turn>().cloned()))
    }
}

/// Answers a request that brings a key, once.
pub(crate) async fn pass(State(api): State<Api>, request: Request, next: Next) -> Response {
    let Some((route, work)) = taken(&request) else { return next.run(request).await };
    match once(&api, route, work, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

/// The route and work of a request that brings a key and may.
fn taken(request: &Request) -> Option<(&'static str, Work)> {
    if request.method() != Method::POST || !request.headers().contains_key(KEY) {
        return None;
    }
    table::keyed(request.extensions().get::<MatchedPath>()?.as_str())
}

async fn once(
    api: &Api,
    route: &str,
    work: Work,
    request: Request,
    next: Next,
) -> Result<Response> {
    let given = key(request.headers())?;
    let (mut parts, body) = request.into_parts();
    let api = match Api::from_request_parts(&mut parts, api).await {
        Ok(api) => api,
        Err(never) => match never {},
    };
    let bytes = body::read(&parts.headers, body, api.config.max_json_body).await?;
    let key = bound(&api, route, &given, &parts, &bytes);
    let key = if work == Work::Spawn { key.of_spawn() } else { key };
    let answered = api
        .control
        .once(key, move |turn| async move {
            parts.extensions.insert(turn);
            judged(next.run(Request::from_parts(parts, Body::from(bytes))).await).await
        })
        .await?;
    match answered {
        control::Once::First(response) => Ok(response),
        control::Once::Anew(response) => Ok(marked(response)),
        control::Once::Replay(answer) => Ok(replayed(answer)),
    }
}

fn key(headers: &HeaderMap) -> Result<HeaderValue> {
    let mut keys = headers.get_all(KEY).iter();
    let fits = |key: &&HeaderValue| {
        let bytes = key.as_bytes();
        (1..=LONGEST_KEY).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    match (keys.next().filter(fits), keys.next()) {
        (Some(key), None) => Ok(key.clone()),
        _ => Err(Problem::bad_request(format!(
            "Idempotency-Key must be one header of 1 to {LONGEST_KEY} visible ASCII characters"
        ))),
    }
}

/// The key, bound to everything that makes the request this one.
fn bound(api: &Api, route: &str, key: &HeaderValue, parts: &Parts, body: &Bytes) -> Key {
    let user = parts.headers.get("x-user-id").map_or(&b""[..], |user| user.as_bytes().trim_ascii());
    let path = parts.uri.path().trim_end_matches('/');
    let query = parts.uri.query().unwrap_or_default();
    let streams: &[u8] = if accepts_lines(&parts.headers) { b"lines" } else { b"" };
    let body = canonical(body);
    let asked = [path.as_bytes(), query.as_bytes(), streams, &body];
    api.control.key(route, user, key.as_bytes(), &asked)
}

/// Whether a stream of lines is asked for by header.
pub(crate) fn accepts_lines(headers: &HeaderMap) -> bool {
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains(NDJSON));
    headers.get_all(header::ACCEPT).iter().any(accepts)
}

/// A body whose white space and order of keys do not count, if it is JSON.
fn canonical(body: &Bytes) -> Bytes {
    match serde_json::from_slice::<Value>(body) {
        // Maps of values are ordered by key.
        Ok(value) => Bytes::from(value.to_string()),
        Err(_) => body.clone(),
    }
}

/// A response, and whether it is the answer of every repeat.
async fn judged(response: Response) -> (Response, Verdict) {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let carried = response.extensions().get::<Carried>();
        let verdict = match carried {
            Some(Carried(problem)) => verdict(problem),
            None => verdict(&Problem::of_status(status)),
        };
        return (response, verdict);
    }
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut answer =
        Answer { status: status.as_u16(), content_type: content_type.to_owned(), body: None };
    let is_short = response.body().size_hint().exact().is_some_and(|size| size <= LONGEST_KEPT);
    if !is_short {
        return (response, Verdict::Keep(answer));
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return (Problem::panicked().into_response(), Verdict::Release);
    };
    let body = body.to_bytes();
    answer.body = String::from_utf8(body.to_vec()).ok();
    (Response::from_parts(parts, Body::from(body)), Verdict::Keep(answer))
}

/// Whether a failure is the answer of every repeat: not one that a repeat may cure, and not one
/// after which nobody knows what was done.
fn verdict(problem: &Problem) -> Verdict {
    if problem.code.retryable() || 500 <= problem.code.status() {
        return Verdict::Release;
    }
    let Ok(body) = serde_json::to_string(&problem.body("")) else { return Verdict::Release };
    let content_type = "application/json".to_owned();
    Verdict::Keep(Answer { status: problem.code.status(), content_type, body: Some(body) })
}

fn marked(mut response: Response) -> Response {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn replayed(answer: Answer) -> Response {
    let body = answer.body.unwrap_or_default();
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_client_error() {
        return match serde_json::from_str::<ErrorBody>(&body) {
            Ok(error) => Problem::replayed(error).into_response(),
            Err(_) => Problem::of_status(status).into_response(),
        };
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    if let Ok(kind) = HeaderValue::from_str(&answer.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    marked(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_header_of_visible_characters() {
        let with = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY, HeaderValue::from_bytes(value).unwrap());
            }
            key(&headers).map(|key| key.as_bytes().to_vec()).map_err(|problem| problem.message)
        };
        assert_eq!(with(&[b"a!~"]), Ok(b"a!~".to_vec()));
        assert!(with(&[&[b'k'; 255]]).is_ok());
        let bad: &[&[&[u8]]] =
            &[&[], &[b""], &[b"a b"], &[&[b'k'; 256]], &[b"a", b"a"], &[b"\xe9"]];
        for bad in bad {
            assert!(with(bad).unwrap_err().contains("1 to 255"), "{bad:?}");
        }
    }

    /// R3.10: every `POST` that creates or runs something. What an administrator makes may be a
    /// secret, and a secret is not kept.
    #[test]
    fn every_post_that_does_something_takes_a_key() {
        for route in crate::routes::table() {
            let asks = matches!(route.path, "/sandboxes/admission" | "/providers/test");
            // Saying again that one lives is saying it once.
            let lives = matches!(route.scope, crate::scope::Scope::Worker(_));
            let acts =
                route.method == Method::POST && !asks && !lives && !route.path.contains("/admin");
            assert_eq!(route.doc.once.is_some(), acts, "{} {}", route.method, route.path);
        }
    }

    #[test]
    fn white_space_and_order_do_not_make_another_body_and_values_do() {
        let same = |a: &'static str, b: &'static str| {
            canonical(&Bytes::from_static(a.as_bytes()))
                == canonical(&Bytes::from_static(b.as_bytes()))
        };
        assert!(same(r#"{"a":1,"b":[1,2]}"#, r#" {"b": [1, 2], "a": 1} "#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":2}"#));
        assert!(!same(r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#));
        assert!(!same(r#"{"a":1} x"#, r#"{"a":1} y"#), "what is no JSON is compared as it is");
        assert!(!same("", "{}"));
    }
}
