//! What the OpenAPI document says about a route. What follows from the route itself (the scope, the
//! refusals that every request may meet) is added where the document is made.

use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};
use stacyvm_api_types::{Code, Sandbox, pattern as form};

use crate::idempotency::Work;

/// A type's schema, made when the document is.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One operation.
pub(crate) struct Doc {
    /// Unique, in the spelling of method names in generated clients.
    pub(crate) id: &'static str,
    /// One sentence.
    pub(crate) summary: &'static str,
    /// What a caller must know besides.
    pub(crate) detail: Option<&'static str>,
    pub(crate) params: Vec<Param>,
    pub(crate) body: Option<Body>,
    pub(crate) replies: Vec<Reply>,
    /// Refusals and failures of this route, besides those that every route has.
    pub(crate) failures: Vec<Code>,
    /// What it does, where an idempotency key is taken.
    pub(crate) once: Option<Work>,
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Path,
    Query,
    Header,
}

/// One parameter.
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) required: bool,
    pub(crate) text: &'static str,
    pub(crate) schema: Value,
}

/// A request's body.
pub(crate) struct Body {
    pub(crate) required: bool,
    pub(crate) content: Vec<Content>,
    /// Keys that this operation needs, though the type does without.
    pub(crate) needs: &'static [&'static str],
    /// Keys of the type that this operation refuses.
    pub(crate) refuses: &'static [&'static str],
}

/// One media type of a body.
pub(crate) enum Content {
    /// JSON of a type.
    Json(SchemaOf),
    /// Bytes as they are.
    Bytes(&'static str),
    /// A sequence of messages, each of a type.
    Stream(&'static str, SchemaOf),
}

/// A reply that is no failure.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) text: &'static str,
    pub(crate) content: Vec<Content>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    /// Whether the body is a sandbox, whose id other operations take.
    pub(crate) sandbox: bool,
}

/// What any work inside a sandbox may meet.
const INSIDE: &[Code] = &[
    Code::NotFound,
    Code::Conflict,
    Code::WrongState,
    Code::PayloadTooLarge,
    Code::ResourceLimit,
    Code::Unsupported,
    Code::DiskFull,
];

/// What any spawn may meet.
pub(super) const SPAWN: &[Code] = &[
    Code::NotFound,
    Code::Conflict,
    Code::WrongState,
    Code::PayloadTooLarge,
    Code::NotExecutable,
    Code::ResourceLimit,
    Code::Unsupported,
    Code::DiskFull,
];

/// An operation by its id, with one sentence about what it does.
pub(super) const fn doc(id: &'static str, summary: &'static str) -> Doc {
    Doc {
        id,
        summary,
        detail: None,
        params: Vec::new(),
        body: None,
        replies: Vec::new(),
        failures: Vec::new(),
        once: None,
    }
}

impl Doc {
    /// What a caller must know besides the summary.
    pub(super) const fn detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    fn param(
        mut self,
        place: Place,
        required: bool,
        name: &'static str,
        text: &'static str,
        schema: Value,
    ) -> Self {
        self.params.push(Param { name, place, required, text, schema });
        self
    }

    /// A part of the path.
    pub(super) fn path(self, name: &'static str, text: &'static str, schema: Value) -> Self {
        self.param(Place::Path, true, name, text, schema)
    }

    /// A query parameter that may be missing.
    pub(super) fn query(self, name: &'static str, text: &'static str, schema: Value) -> Self {
        self.param(Place::Query, false, name, text, schema)
    }

    /// A query parameter that must be there.
    pub(super) fn needs(self, name: &'static str, text: &'static str, schema: Value) -> Self {
        self.param(Place::Query, true, name, text, schema)
    }

    /// A request header that may be missing.
    pub(super) fn header(self, name: &'static str, text: &'static str, schema: Value) -> Self {
        self.param(Place::Header, false, name, text, schema)
    }

    /// The header that names the owner of what is made.
    pub(super) fn for_owner(self) -> Self {
        let text = "The owner; wins over `owner_id` in the body.";
        self.header("X-User-ID", text, maybe(form::OWNER))
    }

    /// Works inside the sandbox that the path names.
    pub(super) fn inside(self) -> Self {
        self.sandbox().fails(INSIDE)
    }

    /// The path names a sandbox.
    pub(super) fn sandbox(self) -> Self {
        self.path("id", "The sandbox.", matching(form::SANDBOX)).fails(&[Code::NotFound])
    }

    /// The path names a command of the sandbox, and the query an offset of its output.
    pub(super) fn exec(self) -> Self {
        let offset = "The count of output bytes to leave out.";
        self.path("exec_id", "The command.", matching(form::EXEC)).query("offset", offset, number())
    }

    /// The connection becomes a WebSocket.
    pub(super) fn switches(self) -> Self {
        self.header("Upgrade", "`websocket`.", choice(&["websocket"]))
            .header("Connection", "`Upgrade`.", text())
            .header("Sec-WebSocket-Version", "`13`.", choice(&["13"]))
            .header("Sec-WebSocket-Key", "As RFC 6455 says.", text())
            .gives_nothing(StatusCode::SWITCHING_PROTOCOLS, "The WebSocket is open.")
    }

    fn body(mut self, required: bool, content: Vec<Content>) -> Self {
        self.body = Some(Body { required, content, needs: &[], refuses: &[] });
        self.fails(&[Code::Timeout, Code::PayloadTooLarge, Code::UnsupportedMediaType])
    }

    /// A JSON body that must be there.
    pub(super) fn takes<T: JsonSchema>(self) -> Self {
        self.body(true, vec![Content::Json(SchemaGenerator::subschema_for::<T>)])
    }

    /// A JSON body that may be missing.
    pub(super) fn may_take<T: JsonSchema>(self) -> Self {
        self.body(false, vec![Content::Json(SchemaGenerator::subschema_for::<T>)])
    }

    /// Keys of the body that this operation needs, though the type does without.
    pub(super) fn needing(mut self, keys: &'static [&'static str]) -> Self {
        if let Some(body) = &mut self.body {
            body.needs = keys;
        }
        self
    }

    /// Keys of the type that this operation refuses.
    pub(super) fn refusing(mut self, keys: &'static [&'static str]) -> Self {
        if let Some(body) = &mut self.body {
            body.refuses = keys;
        }
        self
    }

    /// A body that is taken as it is, and may be empty.
    pub(super) fn takes_bytes(self, types: &[&'static str]) -> Self {
        self.body(false, types.iter().copied().map(Content::Bytes).collect())
    }

    /// A reply without a body of its own.
    pub(super) fn gives_nothing(mut self, status: StatusCode, text: &'static str) -> Self {
        let (content, headers) = (Vec::new(), Vec::new());
        self.replies.push(Reply { status, text, content, headers, sandbox: false });
        self
    }

    fn content(mut self, content: Content) -> Self {
        if let Some(reply) = self.replies.last_mut() {
            reply.content.push(content);
        }
        self
    }

    /// A JSON reply.
    pub(super) fn gives<T: JsonSchema>(self, status: StatusCode, text: &'static str) -> Self {
        self.gives_nothing(status, text).content(Content::Json(SchemaGenerator::subschema_for::<T>))
    }

    /// The last reply may also be JSON of another type.
    pub(super) fn or_gives<T: JsonSchema>(self) -> Self {
        self.content(Content::Json(SchemaGenerator::subschema_for::<T>))
    }

    /// A reply that shows a sandbox.
    pub(super) fn shows_sandbox(self, status: StatusCode, text: &'static str) -> Self {
        let mut doc = self.gives::<Sandbox>(status, text);
        if let Some(reply) = doc.replies.last_mut() {
            reply.sandbox = true;
        }
        doc
    }

    /// A success with a text of this media type.
    pub(super) fn gives_text(
        self,
        status: StatusCode,
        text: &'static str,
        media: &'static str,
    ) -> Self {
        self.gives_nothing(status, text).content(Content::Bytes(media))
    }

    /// A reply that is bytes.
    pub(super) fn gives_bytes(self, status: StatusCode, text: &'static str) -> Self {
        self.gives_nothing(status, text).content(Content::Bytes("application/octet-stream"))
    }

    /// The last reply may also be comma-separated values.
    pub(super) fn or_csv(self) -> Self {
        self.content(Content::Bytes("text/csv"))
    }

    /// The last reply may also be a sequence of messages.
    pub(super) fn streams<T: JsonSchema>(self, media: &'static str) -> Self {
        self.content(Content::Stream(media, SchemaGenerator::subschema_for::<T>))
    }

    /// The last reply carries a header.
    pub(super) fn with(mut self, name: &'static str, text: &'static str) -> Self {
        if let Some(reply) = self.replies.last_mut() {
            reply.headers.push((name, text));
        }
        self
    }

    /// Takes an idempotency key; said last, after the replies.
    pub(super) fn once(mut self, work: Work) -> Self {
        self.once = Some(work);
        let text = "A name for this piece of work: a repeat with the same key answers what the \
                    first one answered, and does nothing again.";
        for reply in &mut self.replies {
            let text = "`true` when the work was done before.";
            reply.headers.push(("Idempotency-Replayed", text));
        }
        self.header("Idempotency-Key", text, matching("[!-~]{1,255}"))
            .fails(&[Code::IdempotencyKeyInUse, Code::IdempotencyKeyReused])
    }

    /// Refusals and failures of this route.
    pub(super) fn fails(mut self, codes: &[Code]) -> Self {
        self.failures.extend_from_slice(codes);
        self
    }
}

/// Any text at all.
pub(super) fn any() -> Value {
    json!({"type": "string"})
}

/// Any text that is there.
pub(super) fn text() -> Value {
    json!({"type": "string", "minLength": 1})
}

/// Text of a form.
pub(super) fn matching(form: &str) -> Value {
    json!({"type": "string", "pattern": format!("^{form}$")})
}

/// Text of a form, or empty, which is as good as missing.
pub(super) fn maybe(form: &str) -> Value {
    matching(&format!("(?:{form})?"))
}

/// One of some words.
pub(super) fn choice(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

/// `true` or `false`.
pub(super) fn flag() -> Value {
    json!({"type": "boolean", "default": false})
}

/// A whole number from zero.
pub(super) fn number() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": u64::MAX})
}

/// An absolute path inside a sandbox.
pub(super) fn file() -> Value {
    let mut schema = matching(form::PATH);
    schema["examples"] = json!(["/workspace/a.txt"]);
    schema
}

/// An image's name.
pub(super) fn image() -> Value {
    let mut schema = matching(form::IMAGE);
    schema["maxLength"] = form::IMAGE_LENGTH.into();
    schema
}
