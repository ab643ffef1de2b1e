//! Files, ports, figures and logs of a sandbox.

use std::{ops::Range, sync::Arc};

use stacyvm_provider::{
    ByteStream, Duplex, Error as GuestError, ErrorKind, FileInfo, FileKind, FileRead, Guest, Stats,
    WriteOptions,
};
use stacyvm_store::Sandbox;
use stacyvm_types::{EventKind, Operation, SandboxId};

use crate::{Control, Error, Result, events, operations::Act};

/// How much of a path an event shows.
const SHOWN_PATH: usize = 256;

/// The inside of a sandbox for one operation.
struct Inside {
    control: Control,
    row: Sandbox,
    guest: Arc<dyn Guest>,
}

impl Inside {
    fn failed(&self, error: GuestError) -> Error {
        self.control.of_guest(&self.row, error)
    }
}

impl Control {
    /// Reads a file, or a range of it.
    #[tracing::instrument(name = "file_read", skip_all, fields(sandbox.id = %id))]
    pub async fn read_file(
        &self,
        id: &SandboxId,
        path: &str,
        range: Option<Range<u64>>,
    ) -> Result<FileRead> {
        let told = |_: &FileRead| String::new();
        self.on_files(Operation::FileRead, id, path.to_owned(), told, |inside| async move {
            let ranged = range.is_some();
            let file = match inside.guest.read(path, range).await {
                Ok(file) => file,
                Err(error) if ranged && error.kind == ErrorKind::Invalid => {
                    return Err(match inside.guest.stat(path).await {
                        Ok(info) if info.kind == FileKind::File => {
                            Error::RangePastEnd { size: info.size }
                        }
                        _ => inside.failed(error),
                    });
                }
                Err(error) => return Err(inside.failed(error)),
            };
            let size = file.range.end.saturating_sub(file.range.start);
            inside.control.note_file(&inside.row, EventKind::FileRead, path, size).await;
            Ok(file)
        })
        .await
    }

    /// Replaces or makes a file. Goes on when the caller goes away; a body that breaks off with it
    /// leaves the file as it was.
    #[tracing::instrument(name = "file_write", skip_all, fields(sandbox.id = %id))]
    pub async fn write_file(
        &self,
        id: &SandboxId,
        path: &str,
        options: WriteOptions,
        body: ByteStream,
    ) -> Result<FileInfo> {
        let (control, id, path) = (self.clone(), id.clone(), path.to_owned());
        self.to_the_end(async move {
            let told = |info: &FileInfo| format!("bytes={} mode={:04o}", info.size, info.mode);
            let write = |inside: Inside| {
                let path = path.clone();
                async move {
                    let written = inside.guest.write(&path, options, body).await;
                    let info = written.map_err(|error| inside.failed(error))?;
                    let (row, kind) = (&inside.row, EventKind::FileWritten);
                    inside.control.note_file(row, kind, &path, info.size).await;
                    Ok(info)
                }
            };
            control.on_files(Operation::FileWrite, &id, path.clone(), told, write).await
        })
        .await
    }

    /// The entries of a directory.
    #[tracing::instrument(name = "file_list", skip_all, fields(sandbox.id = %id))]
    pub async fn list_files(&self, id: &SandboxId, path: &str) -> Result<Vec<FileInfo>> {
        let told = |entries: &Vec<FileInfo>| format!("count={}", entries.len());
        self.on_files(Operation::FileList, id, path.to_owned(), told, |inside| async move {
            inside.guest.list(path).await.map_err(|error| inside.failed(error))
        })
        .await
    }

    /// One path.
    #[tracing::instrument(name = "file_stat", skip_all, fields(sandbox.id = %id))]
    pub async fn stat_file(&self, id: &SandboxId, path: &str) -> Result<FileInfo> {
        let told = |_: &FileInfo| String::new();
        self.on_files(Operation::FileStat, id, path.to_owned(), told, |inside| async move {
            inside.guest.stat(path).await.map_err(|error| inside.failed(error))
        })
        .await
    }

    /// The paths that match a pattern.
    #[tracing::instrument(name = "file_glob", skip_all, fields(sandbox.id = %id))]
    pub async fn glob_files(&self, id: &SandboxId, pattern: &str) -> Result<Vec<String>> {
        let told = |paths: &Vec<String>| format!("count={}", paths.len());
        self.on_files(Operation::FileGlob, id, pattern.to_owned(), told, |inside| async move {
            inside.guest.glob(pattern).await.map_err(|error| inside.failed(error))
        })
        .await
    }

    /// Renames a file or directory. Goes on when the caller goes away.
    #[tracing::instrument(name = "file_move", skip_all, fields(sandbox.id = %id))]
    pub async fn move_file(&self, id: &SandboxId, from: &str, to: &str) -> Result<()> {
        let (control, id) = (self.clone(), id.clone());
        let (from, to) = (from.to_owned(), to.to_owned());
        self.to_the_end(async move {
            let both = format!("{from} -> {to}");
            let told = |(): &()| String::new();
            let work = |inside: Inside| async move {
                inside.guest.rename(&from, &to).await.map_err(|error| inside.failed(error))
            };
            control.on_files(Operation::FileMove, &id, both, told, work).await
        })
        .await
    }

    /// Sets permission bits. Goes on when the caller goes away.
    #[tracing::instrument(name = "file_chmod", skip_all, fields(sandbox.id = %id))]
    pub async fn chmod_file(&self, id: &SandboxId, path: &str, mode: u32) -> Result<()> {
        let (control, id, path) = (self.clone(), id.clone(), path.to_owned());
        self.to_the_end(async move {
            let told = move |(): &()| format!("mode={mode:04o}");
            let target = path.clone();
            let work = |inside: Inside| async move {
                if 0o7777 < mode {
                    return Err(Error::invalid("mode must be between 0 and 7777, octal"));
                }
                inside.guest.chmod(&target, mode).await.map_err(|error| inside.failed(error))
            };
            control.on_files(Operation::FileChmod, &id, path, told, work).await
        })
        .await
    }

    /// Removes a file, a link, an empty directory, or with `recursive` a whole tree. Goes on when
    /// the caller goes away.
    #[tracing::instrument(name = "file_delete", skip_all, fields(sandbox.id = %id))]
    pub async fn remove_file(&self, id: &SandboxId, path: &str, recursive: bool) -> Result<()> {
        let (control, id, path) = (self.clone(), id.clone(), path.to_owned());
        self.to_the_end(async move {
            let told = move |(): &()| format!("recursive={recursive}");
            let target = path.clone();
            let work = |inside: Inside| async move {
                let removed = inside.guest.remove(&target, recursive).await;
                removed.map_err(|error| inside.failed(error))
            };
            control.on_files(Operation::FileDelete, &id, path, told, work).await
        })
        .await
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

    /// Works on the files of a sandbox, and records what came of it.
    async fn on_files<T, W, F>(
        &self,
        operation: Operation,
        id: &SandboxId,
        resource: String,
        told: impl FnOnce(&T) -> String,
        work: W,
    ) -> Result<T>
    where
        W: FnOnce(Inside) -> F,
        F: Future<Output = Result<T>>,
    {
        let mut attempt = self.attempt(Act::Operation(operation), resource).on(id);
        let result = async {
            let row = self.usable(id).await?;
            attempt.concerns(&row);
            let guest = self.guest(&row).await?;
            work(Inside { control: self.clone(), row, guest }).await
        }
        .await;
        attempt.end(result, told).await
    }

    async fn note_file(&self, row: &Sandbox, kind: EventKind, path: &str, bytes: u64) {
        let shown = &path[..path.floor_char_boundary(SHOWN_PATH)];
        let data = [("path", shown.to_owned()), ("bytes", bytes.to_string())];
        self.record_event(events::about(row, kind, data)).await;
    }
}
