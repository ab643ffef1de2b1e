//! Out of a sandbox.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use futures_util::StreamExt;
use stacyvm_api_types::{FileInfo, FileKind};
use stacyvm_types::SandboxId;

use super::{Tally, is_directory, join, last_name, local_failed};
use crate::{Context, ExitStatus, Failure, progress::Progress};

pub(super) async fn copy(
    context: &Context,
    id: &SandboxId,
    path: &str,
    to: &Path,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let info = context.client.stat_file(id, path).await?;
    let name = last_name(path);
    let target = match is_directory(to) && is_plain(name) {
        true => to.join(name),
        false => to.to_owned(),
    };
    if info.is_dir {
        return tree(context, id, path, &target, tally).await;
    }
    file(context, id, path, &info, &target).await?;
    tally.files += 1;
    Ok(())
}

/// A name that can only name something directly in its directory.
fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

async fn tree(
    context: &Context,
    id: &SandboxId,
    path: &str,
    to: &Path,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut waiting = vec![(path.to_owned(), to.to_owned())];
    while let Some((path, to)) = waiting.pop() {
        make_directory(&to)?;
        let entries = context.client.list_files(id, &path).await?.into_inner();
        for entry in entries {
            let inside = join(&path, &entry.name);
            if !is_plain(&entry.name) {
                tally.leave_out(&inside, "its name is not that of a file");
                continue;
            }
            let target = to.join(&entry.name);
            match entry.kind {
                FileKind::Directory => waiting.push((inside, target)),
                FileKind::File => match file(context, id, &inside, &entry, &target).await {
                    Ok(()) => tally.files += 1,
                    Err(failure) if failure.status == ExitStatus::UNREACHABLE => {
                        return Err(failure);
                    }
                    Err(failure) => tally.leave_out(&inside, &failure.message),
                },
                FileKind::Symlink => tally.leave_out(&inside, "it is a link"),
                FileKind::Other => tally.leave_out(&inside, "it is not a file"),
            }
        }
    }
    Ok(())
}

/// A directory of our own making, or one that is there; never one behind a link.
fn make_directory(path: &Path) -> Result<(), Failure> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path).map_err(local_failed(path))?;
            if found.is_dir() { Ok(()) } else { Err(local_failed(path)(error)) }
        }
        made => made.map_err(local_failed(path)),
    }
}

async fn file(
    context: &Context,
    id: &SandboxId,
    path: &str,
    info: &FileInfo,
    to: &Path,
) -> Result<(), Failure> {
    let download = context.client.read_file(id, path).await?;
    let progress = Progress::new(context.out, path, download.size);
    let mut body = std::pin::pin!(progress.count(download.body));
    let mut partial = Partial::create(to)?;
    while let Some(piece) = body.next().await {
        partial.file.write_all(&piece?).map_err(local_failed(to))?;
    }
    let mode = u32::from_str_radix(&info.mode, 8).unwrap_or(0o644) & 0o777;
    partial.finish(to, mode)
}

/// A file that is being written beside its target. Dropped before its end, it leaves nothing.
struct Partial {
    file: File,
    path: Option<PathBuf>,
}

impl Partial {
    fn create(to: &Path) -> Result<Self, Failure> {
        // Devices and pipes, such as /dev/null, are written as they are.
        if fs::metadata(to).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            let file = OpenOptions::new().write(true).open(to).map_err(local_failed(to))?;
            return Ok(Self { file, path: None });
        }
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let name = name.chars().take(100).collect::<String>();
        let path = to.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(local_failed(&path))?;
        Ok(Self { file, path: Some(path) })
    }

    fn finish(mut self, to: &Path, mode: u32) -> Result<(), Failure> {
        let Some(path) = &self.path else { return Ok(()) };
        let permissions = fs::Permissions::from_mode(mode);
        self.file
            .set_permissions(permissions)
            .and_then(|()| fs::rename(path, to))
            .map_err(local_failed(to))?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_leave_a_sandbox() {
        for bad in ["", ".", "..", "a/b", "../x", "/etc", "a\0b"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        assert!(is_plain("..a") && is_plain("a\nb"));
    }

    #[test]
    fn a_directory_behind_a_link_is_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        assert!(make_directory(&dir.path().join("real")).is_ok());
        assert!(make_directory(&dir.path().join("link")).is_err());
    }

    #[test]
    fn a_broken_download_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("x");
        drop(Partial::create(&to).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        Partial::create(&to).unwrap().finish(&to, 0o640).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
