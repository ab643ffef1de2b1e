//! What every request passes on its way in and every reply on its way out: limits, browser rules,
//! the request id, the error envelope, and the net under a panic.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body::Body as _;
use stacyvm_api_types::Code;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::{
    Api,
    audit::Watched,
    body::Patient,
    observe, origin,
    problem::{Carried, Problem, Result, echo},
};

const MAX_TARGET: usize = 16 << 10;
const MAX_HEADERS: usize = 64 << 10;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const REQUEST_HEADERS: &str = "Content-Type, X-API-Key, X-Admin-API-Key, X-Request-ID, X-User-ID, \
                               X-Tenant-ID, Authorization, Range, Last-Event-ID, Idempotency-Key";
const REPLY_HEADERS: &str = "X-Request-ID, X-Exec-ID, Content-Range, Accept-Ranges, Retry-After, \
                             Idempotency-Replayed, X-RateLimit-Limit, X-RateLimit-Remaining, \
                             X-Next-Cursor, Content-Disposition";

/// The request's id, for whoever handles it.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

/// The way in and out.
pub(crate) async fn pass(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.as_str().into()));
    let watched = Watched::begin(&api, &mut request, &id);
    let span = tracing::info_span!(
        "request",
        request.id = %id,
        method = %request.method(),
        path = %echo(request.uri().path()),
        trace.id = tracing::field::Empty,
        otel.name = tracing::field::Empty,
        http.response.status_code = tracing::field::Empty,
    );
    let begun = Instant::now();
    let in_flight = api.observed.http.begin();
    let (method, route) = (request.method().clone(), request.extensions().get().cloned());
    let route = route.as_ref().map_or(observe::UNMATCHED, MatchedPath::as_str);
    trace(&api, &span, route, &request);
    let ended = span.clone();
    let response = async {
        let (mut response, origin) = match admit(&api, &request) {
            Ok(origin) => {
                let response = match preflight(&request, origin.as_ref()) {
                    Some(response) => response,
                    None => answer(&api, request, next).await,
                };
                (response, origin)
            }
            Err(problem) => (problem.into_response(), None),
        };
        response = enveloped(response, &id);
        finish(response.headers_mut(), &id, origin);
        if let Some(watched) = watched {
            watched.answered(&response);
        }
        response
    }
    .instrument(span)
    .await;
    drop(in_flight);
    ended.record("http.response.status_code", response.status().as_u16());
    api.observed.http.record(&method, route, response.status(), begun.elapsed());
    response
}

/// Joins the caller's trace, and names it in what is logged.
fn trace(api: &Api, span: &Span, route: &str, request: &Request) {
    let id = match api.config.join_trace {
        Some(join) => {
            span.record("otel.name", format!("{} {route}", request.method()));
            join(span, request.headers())
        }
        None => traced(request.headers()),
    };
    if let Some(id) = id {
        span.record("trace.id", id);
    }
}

/// The id of the trace that the caller is in, where it says so.
fn traced(headers: &HeaderMap) -> Option<String> {
    let parent = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = parent.split('-');
    let (_version, id) = (parts.next()?, parts.next()?);
    let hex = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (hex && id.bytes().any(|b| b != b'0')).then(|| id.to_owned())
}

/// No route has this path.
pub(crate) async fn no_route(request: Request) -> Problem {
    let message = format!("not found: no route {}", echo(request.uri().path()));
    Problem::new(Code::NotFound, message)
}

/// The path has no such method; the router adds `Allow`.
pub(crate) async fn no_method(request: Request) -> Problem {
    let message = format!("this path does not take {}", echo(request.method().as_str()));
    Problem::new(Code::MethodNotAllowed, message)
}

fn admit(api: &Api, request: &Request) -> Result<Option<HeaderValue>> {
    let (uri, headers) = (request.uri(), request.headers());
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    if MAX_TARGET < target {
        let message = format!("the request target is longer than {MAX_TARGET} bytes");
        return Err(Problem::new(Code::UriTooLong, message));
    }
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if MAX_HEADERS < size {
        let message = format!("the headers are larger than {MAX_HEADERS} bytes");
        return Err(Problem::new(Code::HeadersTooLarge, message));
    }
    let config = &api.config;
    let authority = uri.authority().map(http::uri::Authority::as_str);
    origin::check_host(headers, authority, &config.allowed_hosts)?;
    let Some(origin) = origin::check_origin(headers, &config.allowed_origins)? else {
        return Ok(None);
    };
    origin::check_body_type(request.method(), headers)?;
    Ok(HeaderValue::from_str(origin).ok())
}

/// The answer to a browser that asks first.
fn preflight(request: &Request, origin: Option<&HeaderValue>) -> Option<Response> {
    let asks = request.method() == Method::OPTIONS
        && origin.is_some()
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    asks.then(|| {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        let set = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        for (name, value) in set {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    })
}

async fn answer(api: &Api, request: Request, next: Next) -> Response {
    let patience = api.config.timing.body_progress;
    let request = request.map(|body| {
        if body.is_end_stream() { body } else { Body::new(Patient::new(body, patience)) }
    });
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Problem::panicked().into_response(),
    }
}

/// Gives a failure its body, and logs it.
fn enveloped(mut response: Response, id: &str) -> Response {
    let status = response.status();
    let carried = response.extensions_mut().remove::<Carried>();
    let foreign = (status.is_client_error() || status.is_server_error())
        && response.headers().get(header::CONTENT_TYPE).is_none_or(|t| t != "application/json");
    let rendered = match carried {
        Some(Carried(problem)) => {
            problem.log();
            problem.render(id)
        }
        None if foreign => {
            let problem = Problem::of_status(status);
            problem.log();
            problem.render(id)
        }
        None => return response,
    };
    let allow = response.headers_mut().remove(header::ALLOW);
    let mut response = rendered;
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn finish(headers: &mut HeaderMap, id: &str, origin: Option<HeaderValue>) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = HeaderValue::from_static(REPLY_HEADERS);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// The client's id where it is one, otherwise a fresh version 4 UUID.
fn request_id(headers: &HeaderMap) -> String {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|text| (1..=128).contains(&text.len()) && text.bytes().all(known));
    if let Some(given) = given {
        return given.to_owned();
    }
    let bits = rand::random::<u128>();
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R2.10: a caller's trace is named in the log also where nobody makes traces.
    #[test]
    fn a_callers_trace_is_known_by_its_id() {
        let with = |value: &'static str| {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("traceparent"),
                HeaderValue::from_static(value),
            )]);
            traced(&headers)
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(with("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap(), id);
        for wrong in
            ["", "00", "00-4bf9-00f067aa0ba902b7-01", "00-00000000000000000000000000000000-0-0"]
        {
            assert_eq!(with(wrong), None, "{wrong}");
        }
        assert_eq!(traced(&HeaderMap::new()), None);
    }

    #[test]
    fn a_request_id_is_kept_when_it_is_plain_and_replaced_when_it_is_not() {
        let with = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            request_id(&headers)
        };
        assert_eq!(with(b"a.B_9-"), "a.B_9-");
        for bad in [&b""[..], b"a b", b"a/b", b"<x>", "é".as_bytes(), &[b'a'; 129]] {
            let fresh = with(bad);
            assert_eq!(fresh.len(), 36);
            assert_eq!(&fresh[14..15], "4");
            assert!(matches!(&fresh[19..20], "8" | "9" | "a" | "b"), "{fresh}");
        }
    }
}
