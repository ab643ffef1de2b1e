//! R8.3: the document of every route.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};
use stacyvm_api::{Scope, routes};

use crate::world::{BASE, World};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/openapi.json");

/// R8.3: the committed document is the served one. `UPDATE_GOLDEN=1` rewrites it.
#[tokio::test]
async fn the_committed_document_is_the_one_that_is_served() {
    let world = World::new().await;
    let reply = world.get("/openapi.json").await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
    let path = Path::new(COMMITTED);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &reply.body).unwrap();
    }
    let committed: Value =
        serde_json::from_slice(&std::fs::read(path).unwrap_or_default()).unwrap_or_default();
    assert!(
        committed == reply.json(),
        "openapi/openapi.json is not the document of this code; run\n    \
         UPDATE_GOLDEN=1 cargo test -p stacyvm-api --test http openapi"
    );
}

/// The names in the braces of a path.
fn placeholders(path: &str) -> BTreeSet<&str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name).collect()
}

/// R8.3: nothing is routed that is not documented, with its scope, its parameters and a success.
#[tokio::test]
async fn every_route_is_in_the_document_with_its_scope() {
    let world = World::new().await;
    let document = world.get("/openapi.json").await.json();
    let mut documented = BTreeSet::new();
    for row in routes() {
        let path = row.path.strip_prefix(BASE).unwrap().replace("{*", "{");
        let path = path.strip_suffix('/').unwrap_or(&path);
        let operation = &document["paths"][path][row.method.as_str().to_ascii_lowercase()];
        assert_eq!(operation["operationId"], row.operation, "{row:?}");
        let scopes = match row.scope {
            Scope::Probe => json!([]),
            Scope::Worker(right) => {
                let scope = [right.as_str()];
                json!([
                    {"WorkerId": [], "WorkerToken": scope},
                    {"WorkerId": [], "Bearer": scope},
                ])
            }
            scope => {
                let scope = [scope.as_str()];
                json!([{"ApiKey": scope}, {"AdminKey": scope}, {"Bearer": scope}])
            }
        };
        assert_eq!(operation["security"], scopes, "{row:?}");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named = |one: &Value| Some(one.get("name")?.as_str()?.to_owned());
        let in_path = parameters.iter().filter(|one| one["in"] == "path").filter_map(named);
        let in_path: BTreeSet<_> = in_path.collect();
        assert_eq!(in_path.iter().map(String::as_str).collect::<BTreeSet<_>>(), placeholders(path));
        let statuses = operation["responses"].as_object().unwrap();
        assert!(statuses.keys().any(|status| matches!(&status[..1], "1" | "2")), "{row:?}");
        assert_eq!(statuses.contains_key("401"), row.scope != Scope::Probe, "{row:?}");
        documented.insert(row.operation);
    }
    let operations = document["paths"].as_object().unwrap().values();
    let operations: usize = operations.map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, documented.len());
}

fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    let world = World::new().await;
    let document = world.get("/openapi.json").await.json();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 30);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}
