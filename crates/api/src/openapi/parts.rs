//! The parts of the document that are the same whatever routes there are.

use std::collections::BTreeMap;

use http::StatusCode;
use schemars::Schema;
use serde_json::{Map, Value, json};
use stacyvm_api_types::Code;

use crate::scope::Scope;

const ABOUT: &str = "\
StacyVM gives every agent, code runner or preview its own disposable computer.

- Request bodies are one JSON object. Unknown keys are ignored; empty text, `0` and `null` mean \
\"not given\" in optional fields, and an empty query parameter is one that was not given.
- Durations are written as Go writes them: `30m`, `1h30m`, `1.5s`, `250ms`.
- Every failure has the body `ErrorBody`; its `code` decides what a program does.
- `HEAD` works on every `GET`. A method that a path does not take is a 405 `METHOD_NOT_ALLOWED` \
with `Allow`.
- `X-Request-ID` is kept when it is 1 to 128 of `A-Z a-z 0-9 . _ -`, otherwise replaced; every \
reply carries it.
- The words in a security requirement are the scope that the credential must hold. Each includes \
those before it: `read`, `api`, `operator`, `admin`. Those that begin with `worker:` are a worker's \
own, for paths with its own id.
- Replies only ever gain keys, and `code` only ever gains values.";

pub(super) fn info() -> Value {
    json!({
        "title": "StacyVM",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "A sandbox for every agent, on your own hardware.",
        "description": ABOUT,
        "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
    })
}

const TAGS: &[(&str, &str)] = &[
    ("sandboxes", "Disposable computers."),
    ("exec", "Commands inside a sandbox."),
    ("files", "Files inside a sandbox."),
    ("templates", "Named recipes for sandboxes."),
    ("images", "What sandboxes are made from."),
    ("providers", "What runs sandboxes."),
    ("quotas", "How much an owner may have."),
    ("workers", "The hosts that sandboxes run on."),
    ("worker", "What workers say, with credentials of their own."),
    ("events", "What happened."),
    ("system", "The server itself."),
    ("admin", "Credentials and the record of who did what."),
];

pub(super) fn tags() -> Value {
    TAGS.iter().map(|(name, text)| json!({"name": name, "description": text})).collect()
}

/// What a path is about.
pub(super) fn tag(path: &str) -> &'static str {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let named = |part: &&str| TAGS.iter().map(|(name, _)| *name).find(|name| name == part);
    match parts.as_slice() {
        ["sandboxes", "{id}", part, ..] => named(part).unwrap_or("sandboxes"),
        [part, ..] => named(part).unwrap_or("system"),
        [] => "system",
    }
}

/// Ways to say who asks; one is enough.
pub(super) fn security(scope: Scope) -> Value {
    if scope == Scope::Probe {
        return json!([]);
    }
    let is_workers = matches!(scope, Scope::Worker(_));
    let scope = scope.as_str();
    if is_workers {
        return json!([
            {"WorkerId": [], "WorkerToken": [scope]},
            {"WorkerId": [], "Bearer": [scope]},
        ]);
    }
    json!([{"ApiKey": [scope]}, {"AdminKey": [scope]}, {"Bearer": [scope]}])
}

pub(super) fn security_schemes() -> Value {
    json!({
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "AdminKey": {"type": "apiKey", "in": "header", "name": "X-Admin-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
        "WorkerId": {"type": "apiKey", "in": "header", "name": "X-Worker-ID"},
        "WorkerToken": {"type": "apiKey", "in": "header", "name": "X-Worker-Token"},
    })
}

/// Takes `null` away from the keys that an object may leave out: a reply leaves them out.
pub(super) fn left_out(schema: &mut Schema) {
    let required = schema.get("required").cloned().unwrap_or_default();
    let required = required.as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    let optional = properties.iter_mut().filter(|(name, _)| !required.contains(&json!(name)));
    for (_, property) in optional {
        let Some(property) = property.as_object_mut() else { continue };
        if let Some(Value::Array(types)) = property.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [kind] = types.as_mut_slice() {
                let kind = kind.take();
                property.insert("type".to_owned(), kind);
            }
        }
        if let Some(Value::Array(kinds)) = property.get_mut("anyOf") {
            kinds.retain(|kind| kind["type"] != "null");
        }
    }
}

/// Turns alternatives that are words into an enumeration, which more generators understand, and
/// tells in its description what each word means.
pub(super) fn words(schema: &mut Schema) {
    let Some(Value::Array(alternatives)) = schema.get("oneOf") else { return };
    let word = |one: &Value| {
        let meaning = one["description"].as_str().unwrap_or_default();
        Some((one.get("const")?.as_str()?.to_owned(), meaning.to_owned()))
    };
    let Some(words) = alternatives.iter().map(word).collect::<Option<Vec<_>>>() else { return };
    let about = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let lines: String =
        words.iter().map(|(word, meaning)| format!("\n- `{word}`: {meaning}")).collect();
    let description = format!("{about}\n{lines}");
    let list: Vec<_> = words.into_iter().map(|(word, _)| word).collect();
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), list.into());
    schema.insert("description".to_owned(), description.into());
}

/// Headers of every reply.
pub(super) fn every_reply() -> Map<String, Value> {
    let reference = json!({"$ref": "#/components/headers/RequestId"});
    Map::from_iter([("X-Request-ID".to_owned(), reference)])
}

/// Headers of replies to callers that are counted.
pub(super) fn rate_limited() -> Map<String, Value> {
    let header = |name: &str, part: &str| {
        let reference = format!("#/components/headers/{part}");
        (name.to_owned(), json!({"$ref": reference}))
    };
    let limit = header("X-RateLimit-Limit", "RateLimitLimit");
    Map::from_iter([limit, header("X-RateLimit-Remaining", "RateLimitRemaining")])
}

pub(super) fn headers() -> Value {
    json!({
        "RequestId": {
            "description": "Finds the request in the server's log.",
            "required": true,
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        },
        "RateLimitLimit": {
            "description": "Where requests are limited: how many the caller may send at once.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "RateLimitRemaining": {
            "description": "Where requests are limited: how many of these are left.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "RetryAfter": {
            "description": "Whole seconds after which the same request may succeed, where that is \
                            known.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "ContentRange": {
            "description": "How long the file is.",
            "schema": {"type": "string", "pattern": "^bytes \\*/[0-9]+$"},
        },
    })
}

/// The name of the response that carries a code.
pub(super) fn response_name(code: Code) -> String {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let words = status.canonical_reason().unwrap_or("Failure");
    words.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// One response for each status of a failure.
pub(super) fn responses() -> Map<String, Value> {
    let mut by_name: BTreeMap<String, Vec<Code>> = BTreeMap::new();
    for code in Code::ALL {
        by_name.entry(response_name(*code)).or_default().push(*code);
    }
    by_name.into_iter().map(|(name, codes)| (name, response(&codes))).collect()
}

fn response(codes: &[Code]) -> Value {
    let lines: Vec<_> = codes.iter().map(|code| format!("`{code}`: {}", code.meaning())).collect();
    let mut headers = every_reply();
    if codes.contains(&Code::ResourceLimit) {
        headers.extend(rate_limited());
    }
    let more = match codes.first() {
        Some(Code::Unavailable | Code::ResourceLimit) => Some(("Retry-After", "RetryAfter")),
        _ if codes.contains(&Code::IdempotencyKeyInUse) => Some(("Retry-After", "RetryAfter")),
        Some(Code::RangeNotSatisfiable) => Some(("Content-Range", "ContentRange")),
        _ => None,
    };
    if let Some((name, part)) = more {
        let reference = format!("#/components/headers/{part}");
        headers.insert(name.to_owned(), json!({"$ref": reference}));
    }
    json!({
        "description": lines.join("\n"),
        "headers": headers,
        "content": {"application/json": {"schema": {
            "allOf": [
                {"$ref": "#/components/schemas/ErrorBody"},
                {"properties": {"code": {"enum": codes}}},
            ],
        }}},
    })
}
