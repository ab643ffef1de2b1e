//! `files …`: one file or directory of a sandbox at a time.

use std::{fs::File, io};

use futures_util::StreamExt;
use stacyvm_api_types::{FileInfo, FileKind};
use stacyvm_client::Upload;
use stacyvm_types::SandboxId;

use crate::{
    Context, ExitStatus, Failure,
    args::FilesCommand,
    output::{Rows, short_time},
    produce,
    progress::Progress,
};

pub(super) async fn run(context: &Context, command: FilesCommand) -> Result<(), Failure> {
    let client = &context.client;
    match command {
        FilesCommand::Ls { id, path } => {
            let files = client.list_files(&id, &path).await?;
            let mut rows = Rows::new(&["MODE", "SIZE", "CHANGED", "NAME"]);
            for file in &*files {
                push(&mut rows, file, &file.name);
            }
            context.out.rows(files.json(), &rows, "The directory is empty")
        }
        FilesCommand::Stat { id, path } => {
            let file = client.stat_file(&id, &path).await?;
            let mut rows = Rows::new(&["MODE", "SIZE", "CHANGED", "PATH"]);
            push(&mut rows, &file, &file.path);
            context.out.rows(file.json(), &rows, "")
        }
        FilesCommand::Cat { id, path } => to_stdout(context, &id, &path).await,
        FilesCommand::Put { id, path, from, mode } => {
            let (source, size, what) = match from {
                Some(from) if from.as_os_str() != "-" => {
                    let (file, size) = open(&from)?;
                    (Upload::stream(counted(context, file, size, &path)), size, from)
                }
                _ => (Upload::stream(produce::read(io::stdin())), None, "-".into()),
            };
            let reply = client.write_file(&id, &path, mode.as_deref(), source).await?;
            let size = reply.file.as_ref().map(|file| file.size).or(size).unwrap_or(0);
            let words = format!("{} written to {path} ({size} bytes)", what.display());
            context.out.done(reply.json(), &words)
        }
        FilesCommand::Rm { id, path, recursive } => {
            let reply = match recursive {
                true => client.remove_tree(&id, &path).await?,
                false => client.remove_file(&id, &path).await?,
            };
            context.out.done(reply.json(), &format!("{path} removed"))
        }
        FilesCommand::Mv { id, from, to } => {
            let reply = client.move_file(&id, &from, &to).await?;
            context.out.done(reply.json(), &format!("{from} is now {to}"))
        }
        FilesCommand::Glob { id, pattern } => {
            let paths = client.glob_files(&id, &pattern).await?;
            let mut rows = Rows::new(&[]);
            for path in &*paths {
                rows.push([path]);
            }
            context.out.rows(paths.json(), &rows, "Nothing matches")
        }
        FilesCommand::Chmod { id, mode, path } => {
            let reply = client.chmod_file(&id, &path, &mode).await?;
            context.out.done(reply.json(), &format!("{path} has mode {mode}"))
        }
    }
}

fn push(rows: &mut Rows, file: &FileInfo, name: &str) {
    let kind = match file.kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Other => '?',
    };
    let mode = format!("{kind} {}", file.mode);
    rows.push([&mode, &file.size.to_string(), &short_time(&file.mod_time), name]);
}

/// Writes a file of a sandbox to standard output, byte for byte.
pub(super) async fn to_stdout(
    context: &Context,
    id: &SandboxId,
    path: &str,
) -> Result<(), Failure> {
    let mut body = context.client.read_file(id, path).await?.body;
    while let Some(piece) = body.next().await {
        context.out.raw(&piece?)?;
    }
    Ok(())
}

/// Opens a local file for reading; its size when it is a regular file.
pub(super) fn open(path: &std::path::Path) -> Result<(File, Option<u64>), Failure> {
    let failed = |e: io::Error| {
        let path = crate::escape::escape(&path.to_string_lossy());
        Failure::new(ExitStatus::FAILED, format!("{path}: {e}"))
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    Ok((file, metadata.is_file().then_some(metadata.len())))
}

/// The bytes of a file, with progress shown.
pub(super) fn counted(
    context: &Context,
    file: File,
    size: Option<u64>,
    what: &str,
) -> impl futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send + 'static {
    let progress = Progress::new(context.out, what, size);
    let counted = progress.count(produce::read(file));
    // The bar is cleared when the stream that owns it ends.
    counted.map(move |piece| {
        let _ = &progress;
        piece
    })
}
