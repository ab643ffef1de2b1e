//! What a JSON Schema can say about values that Rust holds as text or numbers. Every rule here is
//! one that the server enforces; what it enforces and no schema can say is in the descriptions.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// A number and a unit of a duration as Go writes it.
const DURATION: &str = r"(?:[0-9]{1,19}(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h)";

/// A text that a worker says of itself: at most 255 bytes, which are fewer characters where they
/// are not ASCII.
const LINE: &str = r"[^\u0000-\u001f\u007f-\u009f]{1,255}";

/// Regular expressions of values, without anchors, for schemas of what is no body.
pub mod pattern {
    /// The id of a sandbox.
    pub const SANDBOX: &str = "sb-[0-9a-f]{20}";
    /// The id of a command.
    pub const EXEC: &str = "ex-[0-9a-f]{20}";
    /// The id of a key.
    pub const KEY: &str = "key-[0-9a-f]{20}";
    /// An owner in a header, around which HTTP knows no white space.
    pub const OWNER: &str = r"[^/\\\u0000-\u0020\u007f]{1,128}";
    /// An owner; white space around it is taken away.
    pub const SPACED_OWNER: &str =
        r"[\u0009-\u000d ]*[^/\\\u0000-\u0020\u007f]{1,128}[\u0009-\u000d ]*";
    /// An image's name; no part of it has two dots in a row.
    pub const IMAGE: &str = concat!(
        r"(?:[a-z0-9](?:[a-z0-9_-]|\.[a-z0-9_-])*\.?:[0-9]+/)?",
        r"[a-z0-9](?:[a-z0-9_-]|\.[a-z0-9_-])*\.?",
        r"(?:/[a-z0-9](?:[a-z0-9_-]|\.[a-z0-9_-])*\.?)*",
        "(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?",
    );
    /// The id of a worker.
    pub const WORKER: &str = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}";
    /// The longest image's name.
    pub const IMAGE_LENGTH: usize = 255;
    /// Permission bits as octal text.
    pub const MODE: &str = "(?:0o)?0?[0-7]{1,4}";
    /// An absolute path inside a sandbox.
    pub const PATH: &str = r"/[^\u0000]*";
}

/// Text of a request that may be missing, `null` or empty, all of which mean "not given".
fn optional_text(pattern: &str, example: &str) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "pattern": format!("^(?:{pattern})?$"),
        "examples": [example],
    })
}

/// A count of a request; zero means "not given".
pub(crate) fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX})
}

/// A priority of a request.
pub(crate) fn priority(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["integer", "null"], "minimum": 0, "maximum": 9})
}

/// A duration of a request.
pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    optional_text(&format!("\\+?(?:0|(?:{DURATION})+)"), "30m")
}

/// A duration of a reply, such as `1h0m0s`.
pub(crate) fn elapsed(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": format!("^(?:{DURATION})+$"), "examples": ["1m30s"]})
}

/// A point in time of a reply.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// An owner of a request.
pub(crate) fn owner(_: &mut SchemaGenerator) -> Schema {
    optional_text(pattern::SPACED_OWNER, "ann")
}

/// A worker of a request.
pub(crate) fn worker(_: &mut SchemaGenerator) -> Schema {
    optional_text(pattern::WORKER, "rack-3")
}

/// A name of a worker's host in a request.
pub(crate) fn hostname(_: &mut SchemaGenerator) -> Schema {
    optional_text(LINE, "rack-3.example.org")
}

/// What a worker says that it does.
pub(crate) fn worker_status(_: &mut SchemaGenerator) -> Schema {
    optional_text("online|draining", "online")
}

/// What tells one data directory of a worker from another.
pub(crate) fn instance(_: &mut SchemaGenerator) -> Schema {
    optional_text(LINE, "b1946ac92492d234")
}

/// A version of a program.
pub(crate) fn version(_: &mut SchemaGenerator) -> Schema {
    optional_text(LINE, "1.2.3")
}

/// Where a worker takes calls.
pub(crate) fn rpc_url(_: &mut SchemaGenerator) -> Schema {
    let host = r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])";
    optional_text(&format!("https?://{host}(?::[0-9]{{1,5}})?/?"), "http://10.0.0.7:7424")
}

/// A provider of a worker.
pub(crate) fn provider_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^{LINE}$"),
        "examples": ["native"],
    })
}

fn lines_of_worker(most: usize) -> Schema {
    json_schema!({
        "type": ["array", "null"],
        "items": {"type": "string", "pattern": format!("^(?:{LINE})?$")},
        "maxItems": most,
    })
}

/// The providers of a worker.
pub(crate) fn provider_names(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = lines_of_worker(32);
    schema.insert("items".to_owned(), provider_name(generator).into());
    schema
}

/// What a provider can do on a worker.
pub(crate) fn capabilities(_: &mut SchemaGenerator) -> Schema {
    lines_of_worker(64)
}

/// Images that are on a worker.
pub(crate) fn images(_: &mut SchemaGenerator) -> Schema {
    lines_of_worker(1000)
}

/// Who a worker token of a request is for.
pub(crate) fn audience(_: &mut SchemaGenerator) -> Schema {
    optional_text("worker:control-plane|worker:rpc", "worker:rpc")
}

/// An image of a request.
pub(crate) fn image(_: &mut SchemaGenerator) -> Schema {
    let mut schema = optional_text(pattern::IMAGE, "alpine:latest");
    schema.insert("maxLength".to_owned(), pattern::IMAGE_LENGTH.into());
    schema
}

/// A name of a key in a request.
pub(crate) fn key_name(_: &mut SchemaGenerator) -> Schema {
    optional_text("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "backend-1")
}

/// A role of a request.
pub(crate) fn role(_: &mut SchemaGenerator) -> Schema {
    optional_text("viewer|api|operator|admin", "api")
}

/// Makes all but the status optional: who shows no credential gets nothing else.
pub(crate) fn status_alone(schema: &mut Schema) {
    schema.insert("required".to_owned(), serde_json::json!(["status"]));
}

/// A name of a template in a request.
pub(crate) fn template_name(_: &mut SchemaGenerator) -> Schema {
    optional_text("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "python")
}

/// Permission bits of a request.
pub(crate) fn mode(_: &mut SchemaGenerator) -> Schema {
    optional_text(pattern::MODE, "0644")
}

/// Permission bits of a request that must be there.
pub(crate) fn given_mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^{}$", pattern::MODE),
        "examples": ["0644"],
    })
}

/// The id that a client gives a command.
pub(crate) fn exec_id(_: &mut SchemaGenerator) -> Schema {
    optional_text(pattern::EXEC, "ex-0123456789abcdef0123")
}

/// A directory of a request.
pub(crate) fn directory(_: &mut SchemaGenerator) -> Schema {
    optional_text(pattern::PATH, "/workspace")
}

/// A path of a request that must be there.
pub(crate) fn path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^{}$", pattern::PATH),
        "examples": ["/workspace/a.txt"],
    })
}

/// Text without a NUL character.
pub(crate) fn line(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": r"^[^\u0000]*$"})
}

/// Texts without a NUL character.
pub(crate) fn lines(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": line(generator)})
}

/// What a client attaches to a sandbox.
pub(crate) fn words(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "maxProperties": 64,
        "additionalProperties": {"type": "string"},
    })
}

/// Environment variables of a request.
pub(crate) fn env(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "maxProperties": 64,
        "propertyNames": {"pattern": r"^[^=\u0000]+$"},
        "additionalProperties": line(generator),
    })
}

/// One of some words, which are given separated by spaces, or nothing.
pub(crate) fn one_of(words: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        let none = [Value::from(""), Value::Null];
        let all: Vec<_> = words.split(' ').map(Value::from).chain(none).collect();
        schema.insert("enum".to_owned(), all.into());
    }
}

/// Marks keys, given separated by spaces, that a request must have, though their absence is decoded
/// and refused later, in words of our own.
pub(crate) fn required(names: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        for name in names.split(' ') {
            if let Some(Value::Object(property)) = schema
                .get_mut("properties")
                .and_then(Value::as_object_mut)
                .and_then(|properties| properties.get_mut(name))
            {
                property.remove("default");
                if let Some(kind) = property.get_mut("type")
                    && kind.is_array()
                {
                    *kind = "string".into();
                }
                property.entry("minLength").or_insert_with(|| 1.into());
            }
        }
        schema.insert("required".to_owned(), names.split(' ').collect::<Vec<_>>().into());
    }
}
