//! The file's JSON Schema, for editors: made from the keys, so that it cannot differ from them.

use serde_json::{Map, Value, json};

use crate::{
    config::Config,
    keys::keys,
    later::{self, Later},
};

/// The JSON Schema of the file.
pub fn schema() -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "stacyvm.yaml",
        "description": "The settings of a StacyVM server.",
    });
    let defaults = Config::default();
    for key in keys() {
        let mut schema = (key.schema)();
        let meaning = match schema["description"].as_str() {
            Some(form) => format!("{} ({form})", key.meaning),
            None => key.meaning.to_owned(),
        };
        schema["description"] = meaning.into();
        let default = key.shown(&defaults);
        if !default.is_null() {
            schema["default"] = default;
        }
        insert(&mut root, key.path, schema);
    }
    for later in later::ALL {
        insert(&mut root, later.path.trim_end_matches(".*"), Later::schema(later));
    }
    root
}

fn insert(node: &mut Value, path: &str, leaf: Value) {
    let Some(object) = node.as_object_mut() else { return };
    object.insert("type".to_owned(), json!(["object", "null"]));
    object.insert("additionalProperties".to_owned(), json!(false));
    let inside = object.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    match path.split_once('.') {
        None => inside[path] = leaf,
        Some((section, rest)) => {
            if inside[section].is_null() {
                inside[section] = json!({});
            }
            insert(&mut inside[section], rest, leaf);
        }
    }
}
