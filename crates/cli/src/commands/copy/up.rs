//! From here into a sandbox.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use futures_util::TryStreamExt;
use stacyvm_api_types::{Code, ExecRequest};
use stacyvm_client::Upload;
use stacyvm_types::SandboxId;

use super::{Tally, join, last_name, local_failed, usage};
use crate::{Context, ExitStatus, Failure, commands::files, produce};

pub(super) async fn standard_input(
    context: &Context,
    id: &SandboxId,
    path: &str,
) -> Result<(), Failure> {
    let content = Upload::stream(produce::read(io::stdin()));
    context.client.write_file(id, path, None, content).await?;
    Ok(())
}

/// Streams one file from one sandbox to another.
pub(super) async fn between(
    context: &Context,
    from: (&SandboxId, &str),
    to: (&SandboxId, &str),
) -> Result<(), Failure> {
    let info = context.client.stat_file(from.0, from.1).await?;
    if info.is_dir {
        return Err(usage("between sandboxes only single files can be copied"));
    }
    let target = inside(context, to.0, to.1, last_name(from.1)).await?;
    let body = context.client.read_file(from.0, from.1).await?.body;
    let content = Upload::stream(body.map_err(io::Error::other));
    context.client.write_file(to.0, &target, Some(&info.mode), content).await?;
    Ok(())
}

pub(super) async fn copy(
    context: &Context,
    from: &Path,
    id: &SandboxId,
    path: &str,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let whole = fs::canonicalize(from).map_err(local_failed(from))?;
    let name = whole.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let target = inside(context, id, path, name).await?;
    if fs::metadata(from).map_err(local_failed(from))?.is_dir() {
        tree(context, &whole, id, &target, tally).await
    } else {
        file(context, from, id, &target).await?;
        tally.files += 1;
        Ok(())
    }
}

/// The target itself, or a place of that name in it where it is a directory.
async fn inside(
    context: &Context,
    id: &SandboxId,
    path: &str,
    name: &str,
) -> Result<String, Failure> {
    if name.is_empty() {
        return Ok(path.to_owned());
    }
    let is_directory = match context.client.stat_file(id, path).await {
        Ok(info) => info.is_dir,
        Err(error) if error.code() == Some(Code::NotFound) => path.ends_with('/'),
        Err(error) => return Err(error.into()),
    };
    Ok(if is_directory { join(path, name) } else { path.to_owned() })
}

async fn file(context: &Context, from: &Path, id: &SandboxId, target: &str) -> Result<(), Failure> {
    let (content, size) = files::open(from)?;
    let mode = content.metadata().map_err(local_failed(from))?.permissions().mode() & 0o777;
    // A pipe's own bits say nothing about the file that is made of it.
    let mode = size.map(|_| format!("{mode:04o}"));
    let content = Upload::stream(files::counted(context, content, size, target));
    context.client.write_file(id, target, mode.as_deref(), content).await?;
    Ok(())
}

async fn tree(
    context: &Context,
    from: &Path,
    id: &SandboxId,
    target: &str,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut waiting = vec![(from.to_owned(), target.to_owned())];
    while let Some((directory, target)) = waiting.pop() {
        let mut names: Vec<_> = fs::read_dir(&directory)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
            .map_err(local_failed(&directory))?;
        names.sort();
        if names.is_empty() {
            make_directory(context, id, &target).await?;
        }
        for name in names {
            let path = directory.join(&name);
            let Some(name) = name.to_str() else {
                tally.leave_out(&path.to_string_lossy(), "its name is not UTF-8");
                continue;
            };
            let target = join(&target, name);
            // What a link points to may lie anywhere on this machine, and was not asked for.
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => {
                    tally.leave_out(&path.to_string_lossy(), "it is a symbolic link");
                }
                Ok(found) if found.is_dir() => waiting.push((path, target)),
                Ok(found) if found.is_file() => match file(context, &path, id, &target).await {
                    Ok(()) => tally.files += 1,
                    Err(failure) if failure.status == ExitStatus::UNREACHABLE => {
                        return Err(failure);
                    }
                    Err(failure) => {
                        tally.leave_out(&path.to_string_lossy(), &failure.message);
                    }
                },
                Ok(_) => tally.leave_out(&path.to_string_lossy(), "it is not a file"),
                Err(error) => tally.leave_out(&path.to_string_lossy(), &error.to_string()),
            }
        }
    }
    Ok(())
}

/// The API makes directories only on the way to a file; an empty one is made by a command.
async fn make_directory(context: &Context, id: &SandboxId, path: &str) -> Result<(), Failure> {
    let request = ExecRequest {
        command: "mkdir".to_owned(),
        args: Some(vec!["-p".to_owned(), "--".to_owned(), path.to_owned()]),
        mode: Some("argv".to_owned()),
        workdir: Some("/".to_owned()),
        timeout: Some("30s".to_owned()),
        ..ExecRequest::default()
    };
    let reply = context.client.exec(id, &request).await?;
    if reply.exit_code != 0 {
        let why = crate::escape::escape(reply.stderr.trim_end());
        return Err(Failure::new(ExitStatus::FAILED, format!("mkdir in the sandbox: {why}")));
    }
    Ok(())
}
