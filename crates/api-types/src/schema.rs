//! What a JSON Schema can say about values that Rust holds as text or numbers. Every rule here is one
//! that the server enforces; what it enforces and no schema can say is in the descriptions.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// A duration as Go writes it.
const DURATION: &str = "(?:[0-9]{1,19}(?:\\.[0-9]*)?|\\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h)";
/// One part of an image's name: no two dots in a row.
const IMAGE_PART: &str = "[a-z0-9](?:[a-z0-9_-]|\\.[a-z0-9_-])*\\.?";

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
    optional_text(r"[^/\\\u0000-\u0020\u007f]{1,128}", "ann")
}

/// An image of a request.
pub(crate) fn image(_: &mut SchemaGenerator) -> Schema {
    let parts = format!("{IMAGE_PART}(?:/{IMAGE_PART})*");
    let name = format!("(?:{IMAGE_PART}:[0-9]+/)?{parts}");
    let mut schema =
        optional_text(&format!("{name}(?::[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}})?"), "alpine:latest");
    schema.insert("maxLength".to_owned(), 255.into());
    schema
}

/// A name of a template in a request.
pub(crate) fn template_name(_: &mut SchemaGenerator) -> Schema {
    optional_text("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "python")
}

/// Permission bits of a request.
pub(crate) fn mode(_: &mut SchemaGenerator) -> Schema {
    optional_text("(?:0o)?0?[0-7]{1,4}", "0644")
}

/// Permission bits of a request that must be there.
pub(crate) fn given_mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^(?:0o)?0?[0-7]{1,4}$", "examples": ["0644"]})
}

/// The id that a client gives a command.
pub(crate) fn exec_id(_: &mut SchemaGenerator) -> Schema {
    optional_text("ex-[0-9a-f]{20}", "ex-0123456789abcdef0123")
}

/// A directory of a request.
pub(crate) fn directory(_: &mut SchemaGenerator) -> Schema {
    optional_text(r"/[^\u0000]*", "/workspace")
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
