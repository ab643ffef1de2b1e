//! Files inside a sandbox.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A file, described the same way by every provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileInfo {
    /// Absolute path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits as octal text, such as `0644`.
    pub mode: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// `YYYY-MM-DDTHH:MM:SSZ`.
    #[schemars(schema_with = "schema::time")]
    pub mod_time: String,
    /// The last part of the path.
    #[serde(default)]
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub kind: FileKind,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe, or a kind of a newer server.
    #[default]
    #[serde(other)]
    Other,
}

/// `POST /sandboxes/{id}/files`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = schema::required("path"))]
pub struct WriteRequest {
    /// Absolute path.
    #[schemars(schema_with = "schema::path")]
    pub path: String,
    /// The text.
    pub content: String,
    /// Octal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::mode")]
    pub mode: Option<String>,
}

/// The reply to a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WriteReply {
    /// `written`.
    pub status: String,
    /// The file as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileInfo>,
}

/// `POST /sandboxes/{id}/files/move`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = schema::required("old_path new_path"))]
pub struct MoveRequest {
    /// What to move.
    #[schemars(schema_with = "schema::path")]
    pub old_path: String,
    /// Where to.
    #[schemars(schema_with = "schema::path")]
    pub new_path: String,
}

/// `POST /sandboxes/{id}/files/chmod`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = schema::required("path mode"))]
pub struct ChmodRequest {
    /// The file.
    #[schemars(schema_with = "schema::path")]
    pub path: String,
    /// Octal text.
    #[schemars(schema_with = "schema::given_mode")]
    pub mode: String,
}
