//! The OpenAPI 3.1 document, made from the table of routes and the schemas of the wire types.

mod parts;

use std::sync::OnceLock;

use bytes::Bytes;
use schemars::{
    Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
    transform::RecursiveTransform,
};
use serde_json::{Map, Value, json};
use stacyvm_api_types::{ClientMessage, Code, ControlMessage, ErrorBody, ExecRequest, StreamFrame};

use crate::{
    routes::{
        doc::{Body, Content, Doc, Param, Place, Reply},
        table::{BASE, Route},
    },
    scope::Scope,
};

/// The document as it is served and committed: pretty JSON with a final newline.
pub(crate) fn text() -> Bytes {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let text = serde_json::to_string_pretty(&document()).expect("a JSON value has text keys");
        Bytes::from(text + "\n")
    };
    TEXT.get_or_init(make).clone()
}

/// The document.
fn document() -> Value {
    let table = crate::routes::table();
    let mut writer = Writer::new();
    let mut paths = Map::new();
    for route in &table {
        let path = paths.entry(plain(route.path)).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = writer.operation(route, &table);
    }
    json!({
        "openapi": "3.1.1",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": parts::info(),
        "servers": [{"url": BASE, "description": "The server that this document comes from."}],
        "tags": parts::tags(),
        "paths": paths,
        "components": {
            "schemas": writer.schemas(),
            "responses": parts::responses(),
            "headers": parts::headers(),
            "securitySchemes": parts::security_schemes(),
        },
    })
}

/// A path in the document's spelling, which knows no parameter that takes slashes.
fn plain(path: &str) -> String {
    path.replace("{*", "{")
}

/// What a request and a reply are generated with: keys that a reply always has are required in it,
/// while a request may leave out whatever has a default.
struct Writer {
    requests: SchemaGenerator,
    replies: SchemaGenerator,
}

impl Writer {
    fn new() -> Self {
        let settings = |contract| {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
                settings.contract = contract;
                // Empty text and null, which only say how a client decodes what is missing.
                let undefaulted = |schema: &mut Schema| drop(schema.remove("default"));
                settings.transforms.push(Box::new(RecursiveTransform(undefaulted)));
                settings.transforms.push(Box::new(RecursiveTransform(parts::words)));
            })
        };
        let replies =
            settings(Contract::Serialize).with_transform(RecursiveTransform(parts::left_out));
        let mut writer = Self {
            requests: settings(Contract::Deserialize).into_generator(),
            replies: replies.into_generator(),
        };
        // What no operation names: the body of failures, and the messages of WebSockets.
        writer.replies.subschema_for::<ErrorBody>();
        writer.replies.subschema_for::<StreamFrame>();
        writer.replies.subschema_for::<ControlMessage>();
        writer.requests.subschema_for::<ClientMessage>();
        writer.requests.subschema_for::<ExecRequest>();
        writer
    }

    fn schemas(mut self) -> Map<String, Value> {
        let mut schemas = self.replies.take_definitions(true);
        for (name, schema) in self.requests.take_definitions(true) {
            let before = schemas.insert(name.clone(), schema.clone());
            let same = before.is_none_or(|before| before == schema);
            assert!(same, "{name} differs between requests and replies: inline it, or split it");
        }
        schemas
    }

    fn operation(&mut self, route: &Route, table: &[Route]) -> Value {
        let doc = &route.doc;
        let mut operation = json!({
            "operationId": doc.id,
            "summary": doc.summary,
            "tags": [parts::tag(route.path)],
            "security": parts::security(route.scope),
            "responses": self.responses(route, table),
        });
        if let Some(detail) = doc.detail {
            operation["description"] = detail.into();
        }
        if !doc.params.is_empty() {
            operation["parameters"] = doc.params.iter().map(param).collect();
        }
        if let Some(body) = &doc.body {
            let mut content = content(&mut self.requests, &body.content);
            if !body.needs.is_empty() || !body.refuses.is_empty() {
                let name = format!("{}{}Body", doc.id[..1].to_ascii_uppercase(), &doc.id[1..]);
                for media in content.values_mut() {
                    let schema = self.narrowed(&media["schema"], body);
                    media["schema"] = json!({"$ref": format!("#/components/schemas/{name}")});
                    self.requests.definitions_mut().insert(name.clone(), schema);
                }
            }
            operation["requestBody"] = json!({"required": body.required, "content": content});
        }
        operation
    }

    /// The schema of a type, with what one operation wants of it besides. A copy, because few
    /// generators understand `allOf` of objects that disagree.
    fn narrowed(&self, reference: &Value, body: &Body) -> Value {
        let name = reference["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        let schema = name.and_then(|name| self.requests.definitions().get(name));
        let mut schema = schema.cloned().expect("a body of its own is a named type");
        for key in body.needs {
            let property = &mut schema["properties"][key];
            property["type"] = "string".into();
            property["minLength"] = 1.into();
        }
        for key in body.refuses {
            schema["properties"][key] = json!({"type": "null"});
        }
        if !body.needs.is_empty() {
            schema["required"] = json!(body.needs);
        }
        schema
    }

    fn responses(&mut self, route: &Route, table: &[Route]) -> Map<String, Value> {
        let mut responses = Map::new();
        for code in failures(route.scope, &route.doc) {
            let status = code.status().to_string();
            let reference = format!("#/components/responses/{}", parts::response_name(code));
            responses.insert(status, json!({"$ref": reference}));
        }
        for reply in &route.doc.replies {
            let status = reply.status.as_str().to_owned();
            responses.insert(status, self.reply(reply, route.scope, table));
        }
        responses
    }

    fn reply(&mut self, reply: &Reply, scope: Scope, table: &[Route]) -> Value {
        let mut headers = parts::every_reply();
        if !matches!(scope, Scope::Probe | Scope::Worker(_)) {
            headers.extend(parts::rate_limited());
        }
        for (name, text) in &reply.headers {
            let header = json!({"description": text, "schema": {"type": "string"}});
            headers.insert((*name).to_owned(), header);
        }
        let mut response = json!({"description": reply.text, "headers": headers});
        if !reply.content.is_empty() {
            response["content"] = content(&mut self.replies, &reply.content).into();
        }
        if reply.sandbox && reply.status == http::StatusCode::CREATED {
            response["links"] = links(table).into();
        }
        response
    }
}

/// What a new sandbox's id is for.
fn links(table: &[Route]) -> Map<String, Value> {
    let inside = table.iter().filter(|route| route.path.starts_with("/sandboxes/{id}"));
    let link = |route: &Route| {
        let link = json!({
            "operationId": route.doc.id,
            "parameters": {"id": "$response.body#/id"},
        });
        (route.doc.id.to_owned(), link)
    };
    inside.map(link).collect()
}

/// Everything that may go wrong.
fn failures(scope: Scope, doc: &Doc) -> Vec<Code> {
    const EVERY: &[Code] = &[
        Code::BadRequest,
        Code::Forbidden,
        Code::UriTooLong,
        Code::HeadersTooLarge,
        Code::Internal,
    ];
    const KNOWN_CALLER: &[Code] = &[Code::Unauthorized, Code::ResourceLimit, Code::Unavailable];
    let known: &[Code] = if scope == Scope::Probe { &[] } else { KNOWN_CALLER };
    EVERY.iter().chain(known).chain(&doc.failures).copied().collect()
}

fn param(param: &Param) -> Value {
    let place = match param.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Header => "header",
    };
    json!({
        "name": param.name,
        "in": place,
        "required": param.required,
        "description": param.text,
        "schema": param.schema,
    })
}

/// A body's media types; two types of JSON are alternatives.
fn content(generator: &mut SchemaGenerator, content: &[Content]) -> Map<String, Value> {
    let mut types = Map::new();
    for one in content {
        let (media, value) = match one {
            Content::Json(schema) => ("application/json", json!({"schema": schema(generator)})),
            Content::Bytes(media) => {
                (*media, json!({"schema": {"type": "string", "format": "binary"}}))
            }
            Content::Stream(media, item) => {
                let item = item(generator);
                (*media, json!({"schema": {"type": "string"}, "x-item-schema": item}))
            }
        };
        let both = match types.remove(media) {
            None => value,
            Some(first) => json!({"schema": {"anyOf": [first["schema"], value["schema"]]}}),
        };
        types.insert(media.to_owned(), both);
    }
    types
}
