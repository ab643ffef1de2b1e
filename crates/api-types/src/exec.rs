//! Commands: the request, the synchronous reply, the frames of a stream.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Code, schema};

/// `POST /sandboxes/{id}/exec`, and the first message on `…/exec/ws`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ExecRequest {
    /// A shell line, or the program in argv mode.
    #[schemars(schema_with = "schema::line")]
    pub command: String,
    /// Shell mode: quoted and appended. Argv mode: literal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::lines")]
    pub args: Option<Vec<String>>,
    /// `shell` (default) or `argv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::one_of("shell argv"))]
    pub mode: Option<String>,
    /// Added to the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::env")]
    pub env: Option<BTreeMap<String, String>>,
    /// Absolute directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::directory")]
    pub workdir: Option<String>,
    /// A user inside, optionally `user:group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The deadline as a duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Option<String>,
    /// Standard input, followed by its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// The id to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::exec_id")]
    pub exec_id: Option<String>,
    /// Whether the reply is a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// A terminal; WebSocket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// Whether output comes as binary messages; WebSocket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<bool>,
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TtySize {
    /// Lines.
    #[schemars(range(min = 1, max = 4096))]
    pub rows: u16,
    /// Columns.
    #[schemars(range(min = 1, max = 4096))]
    pub cols: u16,
}

/// The reply to an exec without a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecReply {
    /// As a shell shows it.
    pub exit_code: i32,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// The exact standard output, in standard base64, when `stdout` is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// The exact standard error, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    /// How long it ran.
    #[serde(default)]
    #[schemars(schema_with = "schema::elapsed")]
    pub duration: String,
    /// Its id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exec_id: String,
    /// `exit`, `signal` or `lost`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether output was cut; left out when it was not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// What a frame of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
    /// Output before `seq` was lost.
    Truncated,
    /// The end; nothing follows.
    Exit,
    /// A kind of a newer server; to be ignored.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// One line of an NDJSON stream, or one text message of a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamFrame {
    /// What it is.
    pub stream: StreamKind,
    /// Output; empty on frames that carry none. Bytes that are not UTF-8 are replaced.
    #[serde(default)]
    pub data: String,
    /// The exact output, in standard base64, when `data` is not: it held bytes that are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The byte offset after this frame: where to resume.
    #[serde(default)]
    pub seq: u64,
    /// On `exit`: the code as a shell shows it. Absent when the stream was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// On `exit`: `exit`, `signal`, `timeout`, `lost` or `interrupted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// On `exit` by a signal: its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// On `exit`: the command's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_id: Option<String>,
    /// On an interrupted stream: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// On an interrupted stream: why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl StreamFrame {
    /// A frame that carries output, or none.
    pub const fn new(stream: StreamKind, data: String, seq: u64) -> Self {
        Self {
            stream,
            data,
            base64: None,
            seq,
            exit_code: None,
            reason: None,
            signal: None,
            exec_id: None,
            code: None,
            message: None,
        }
    }
}
