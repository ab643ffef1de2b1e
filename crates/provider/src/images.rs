//! Root file systems that were imported by name.

use async_trait::async_trait;
use stacyvm_types::Timestamp;

use crate::{ByteStream, Result};

/// One imported root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its name, such as `alpine:latest`.
    pub name: String,
    /// Bytes of its files.
    pub size: u64,
    /// When it was imported.
    pub created: Timestamp,
}

/// The imported images of a provider.
///
/// An import is all or nothing: another import under the same name replaces the image for later
/// launches; running sandboxes keep what they started from. Removing an image that a sandbox uses
/// is [`crate::ErrorKind::Conflict`].
#[async_trait]
pub trait Images: Send + Sync {
    /// All images, by name.
    async fn list(&self) -> Result<Vec<ImageRecord>>;

    /// Imports a tar archive, plain or gzip-compressed, as the image `name`. Hostile archives
    /// (absolute or climbing names, links that lead outside, device nodes, more than the size and
    /// entry caps) are refused with [`crate::ErrorKind::Invalid`] or
    /// [`crate::ErrorKind::TooLarge`] and leave nothing.
    async fn import(&self, name: &str, archive: ByteStream) -> Result<ImageRecord>;

    /// Removes an image. Removing an unknown one is [`crate::ErrorKind::NoImage`].
    async fn remove(&self, name: &str) -> Result<()>;
}
