//! JSON replies, with every character escaped that a line-splitting client could stumble over.

use std::fmt::Write as _;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// A JSON reply with its status.
pub(crate) struct Json<T>(pub(crate) StatusCode, pub(crate) T);

/// A 200.
pub(crate) const fn ok<T>(value: T) -> Json<T> {
    Json(StatusCode::OK, value)
}

/// A 201.
pub(crate) const fn created<T>(value: T) -> Json<T> {
    Json(StatusCode::CREATED, value)
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        response(self.0, &self.1)
    }
}

/// A JSON reply.
pub(crate) fn response(status: StatusCode, value: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(line(value)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// One value as one line, newline included.
pub(crate) fn line(value: &impl Serialize) -> Bytes {
    let mut text = text(value);
    text.push('\n');
    text.into()
}

/// One value on one line.
///
/// Python's `splitlines` cuts at U+0085, U+2028 and U+2029 too, and terminals act on the C1
/// controls. In JSON such characters can only stand inside a string, so escaping them afterwards
/// is safe.
pub(crate) fn text(value: &impl Serialize) -> String {
    let plain = serde_json::to_string(value).expect("wire types have text keys and finite numbers");
    let hostile = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
    if !plain.contains(hostile) {
        return plain;
    }
    let mut escaped = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        if hostile(c) {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_inside_a_line_looks_like_the_end_of_one() {
        let hostile = "a\u{85}b\u{2028}c\u{2029}d\u{7f}\n\r\u{b}\u{c}\u{1c}\u{9b}é😀";
        let line = text(&hostile);
        assert!(!line.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')));
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), hostile);
    }
}
