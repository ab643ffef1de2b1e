//! The directory that everything durable lives in.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use stacyvm_cli::Failure;

use crate::failed;

/// Where the data lives unless it is said: `/var/lib/stacyvm` for root, otherwise below the user's
/// own data directory.
pub(crate) fn default() -> Result<PathBuf, Failure> {
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/stacyvm"));
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("stacyvm"))
        .ok_or_else(|| failed("there is no home directory; say where data goes with --data-dir"))
}

/// Makes the directory for this user alone, or checks that it is so. The path is absolute then.
pub(crate) fn prepare(path: &Path) -> Result<PathBuf, Failure> {
    let refused = |why: String| failed(format!("the data directory {}: {why}", path.display()));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| refused(e.to_string()))?;
    let path = path.canonicalize().map_err(|e| refused(e.to_string()))?;
    let metadata = fs::metadata(&path).map_err(|e| refused(e.to_string()))?;
    let owner = metadata.uid();
    if owner != geteuid().as_raw() {
        return Err(refused(format!("it belongs to user {owner}; give another with --data-dir")));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(|e| refused(e.to_string()))?;
    }
    Ok(path)
}

/// Holds the directory for one server; given back when dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Takes the directory for this process.
pub(crate) fn lock(path: &Path) -> Result<Lock, Failure> {
    try_lock(path)?.ok_or_else(|| {
        failed(format!(
            "another server uses the data directory {}; stop it, or give this one its own with \
             --data-dir",
            path.display()
        ))
    })
}

/// The same; nothing when another process has it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<Lock>, Failure> {
    let refused = |e: io::Error| failed(format!("the data directory {}: {e}", path.display()));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_for_its_owner_alone() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        let path = prepare(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        prepare(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn one_server_holds_a_data_directory() {
        let base = tempfile::tempdir().unwrap();
        let held = lock(base.path()).unwrap();
        let refused = lock(base.path()).unwrap_err();
        assert!(refused.message.contains("--data-dir"), "{refused}");
        assert!(try_lock(base.path()).unwrap().is_none());
        drop(held);
        lock(base.path()).unwrap();
    }
}
