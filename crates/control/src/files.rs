//! Files, ports, figures and logs of a sandbox.

use std::{ops::Range, sync::Arc};

use stacyvm_provider::{
    ByteStream, Duplex, Error as GuestError, ErrorKind, FileInfo, FileRead, Guest, Stats,
    WriteOptions,
};
use stacyvm_store::Sandbox;
use stacyvm_types::{EventKind, SandboxId};

use crate::{Control, Error, Result, events};

/// How much of a path an event shows.
const SHOWN_PATH: usize = 256;

impl Control {
    /// Reads a file, or a range of it.
    #[tracing::instrument(name = "file_read", skip_all, fields(sandbox.id = %id))]
    pub async fn read_file(
        &self,
        id: &SandboxId,
        path: &str,
        range: Option<Range<u64>>,
    ) -> Result<FileRead> {
        let (row, guest) = self.inside(id).await?;
        let ranged = range.is_some();
        let file = match guest.read(path, range).await {
            Ok(file) => file,
            Err(error) => {
                if ranged
                    && error.kind == ErrorKind::Invalid
                    && let Ok(info) = guest.stat(path).await
                    && info.kind == stacyvm_provider::FileKind::File
                {
                    return Err(Error::RangePastEnd { size: info.size });
                }
                return Err(self.failed(&row, "file.read", error).await);
            }
        };
        let size = file.range.end.saturating_sub(file.range.start);
        self.note_file(&row, EventKind::FileRead, path, size).await;
        Ok(file)
    }

    /// Replaces or makes a file.
    #[tracing::instrument(name = "file_write", skip_all, fields(sandbox.id = %id))]
    pub async fn write_file(
        &self,
        id: &SandboxId,
        path: &str,
        options: WriteOptions,
        body: ByteStream,
    ) -> Result<FileInfo> {
        let (row, guest) = self.inside(id).await?;
        let written = guest.write(path, options, body).await;
        let info = self.done(&row, "file.write", written).await?;
        self.note_file(&row, EventKind::FileWritten, path, info.size).await;
        Ok(info)
    }

    /// The entries of a directory.
    #[tracing::instrument(name = "file_list", skip_all, fields(sandbox.id = %id))]
    pub async fn list_files(&self, id: &SandboxId, path: &str) -> Result<Vec<FileInfo>> {
        let (row, guest) = self.inside(id).await?;
        let listed = guest.list(path).await;
        self.done(&row, "file.list", listed).await
    }

    /// One path.
    #[tracing::instrument(name = "file_stat", skip_all, fields(sandbox.id = %id))]
    pub async fn stat_file(&self, id: &SandboxId, path: &str) -> Result<FileInfo> {
        let (row, guest) = self.inside(id).await?;
        let found = guest.stat(path).await;
        self.done(&row, "file.stat", found).await
    }

    /// The paths that match a pattern.
    #[tracing::instrument(name = "file_glob", skip_all, fields(sandbox.id = %id))]
    pub async fn glob_files(&self, id: &SandboxId, pattern: &str) -> Result<Vec<String>> {
        let (row, guest) = self.inside(id).await?;
        let found = guest.glob(pattern).await;
        self.done(&row, "file.glob", found).await
    }

    /// Renames a file or directory.
    #[tracing::instrument(name = "file_move", skip_all, fields(sandbox.id = %id))]
    pub async fn move_file(&self, id: &SandboxId, from: &str, to: &str) -> Result<()> {
        let (row, guest) = self.inside(id).await?;
        let moved = guest.rename(from, to).await;
        self.done(&row, "file.move", moved).await
    }

    /// Sets permission bits.
    #[tracing::instrument(name = "file_chmod", skip_all, fields(sandbox.id = %id))]
    pub async fn chmod_file(&self, id: &SandboxId, path: &str, mode: u32) -> Result<()> {
        if 0o7777 < mode {
            return Err(Error::invalid("mode must be between 0 and 7777, octal"));
        }
        let (row, guest) = self.inside(id).await?;
        let changed = guest.chmod(path, mode).await;
        self.done(&row, "file.chmod", changed).await
    }

    /// Removes a file, a link, an empty directory, or with `recursive` a whole tree.
    #[tracing::instrument(name = "file_delete", skip_all, fields(sandbox.id = %id))]
    pub async fn remove_file(&self, id: &SandboxId, path: &str, recursive: bool) -> Result<()> {
        let (row, guest) = self.inside(id).await?;
        let removed = guest.remove(path, recursive).await;
        self.done(&row, "file.delete", removed).await
    }

    /// Connects to a TCP port inside.
    pub async fn dial(&self, id: &SandboxId, port: u16) -> Result<Box<dyn Duplex>> {
        let (row, guest) = self.inside(id).await?;
        guest.dial(port).await.map_err(|error| self.of_guest(&row, error))
    }

    /// What a sandbox uses now.
    pub async fn stats(&self, id: &SandboxId) -> Result<Stats> {
        let (row, guest) = self.inside(id).await?;
        guest.stats().await.map_err(|error| self.of_guest(&row, error))
    }

    /// The last lines that commands wrote.
    pub async fn logs(&self, id: &SandboxId, lines: usize) -> Result<Vec<String>> {
        let (row, guest) = self.inside(id).await?;
        guest.logs(lines).await.map_err(|error| self.of_guest(&row, error))
    }

    async fn inside(&self, id: &SandboxId) -> Result<(Sandbox, Arc<dyn Guest>)> {
        let row = self.usable(id).await?;
        let guest = self.guest(&row).await?;
        Ok((row, guest))
    }

    async fn done<T>(
        &self,
        row: &Sandbox,
        operation: &str,
        result: Result<T, GuestError>,
    ) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.failed(row, operation, error).await),
        }
    }

    async fn failed(&self, row: &Sandbox, operation: &str, error: GuestError) -> Error {
        let data = [
            ("operation", operation.to_owned()),
            ("provider", row.spec.provider.clone()),
            ("error", error.message.clone()),
        ];
        self.record_event(events::about(row, EventKind::OperationFailed, data)).await;
        self.of_guest(row, error)
    }

    async fn note_file(&self, row: &Sandbox, kind: EventKind, path: &str, bytes: u64) {
        let shown = &path[..path.floor_char_boundary(SHOWN_PATH)];
        let data = [("path", shown.to_owned()), ("bytes", bytes.to_string())];
        self.record_event(events::about(row, kind, data)).await;
    }
}
