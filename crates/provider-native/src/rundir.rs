//! The directories of the runtimes.
//!
//! ```text
//! run/lock                      held by the server that owns this data directory
//! run/instance                  a name that stays: that of our control groups
//! run/groups                    every directory that ever held our control groups
//! run/pool/<runtime>/           being made, or waiting for an owner
//! run/sandboxes/<id>/           a sandbox's: runtime.json, owner.json, agent.sock
//! run/gone/<runtime>/           killed, its leftovers not yet removed
//! ```
//!
//! A runtime changes its standing with one rename, so a crash leaves it on one side or the other.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::SandboxId;

/// The socket of a runtime's agent, in its directory.
pub(crate) const SOCKET: &str = "agent.sock";

/// The directories, owned by this process.
#[derive(Debug)]
pub(crate) struct RunDir {
    root: PathBuf,
    instance: String,
    _lock: OwnedFd,
}

impl RunDir {
    /// Takes the directories of `data_dir`, and makes what is missing.
    pub(crate) fn open(data_dir: &Path, fresh: impl FnOnce() -> String) -> Result<Self> {
        let root = data_dir.join("run");
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Internal, "the data directory cannot be used").because(error)
        };
        for dir in ["", "pool", "sandboxes", "gone"] {
            make_private(&root.join(dir)).map_err(failed)?;
        }
        let lock = rustix::fs::open(
            root.join("lock"),
            OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(|error| failed(error.into()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let sentence = format!(
                "another server is using the data directory {}: stop it, or give this one its own \
                 with --data-dir",
                data_dir.display()
            );
            Error::new(ErrorKind::Conflict, sentence).because(error)
        })?;
        let instance = instance(&root, fresh).map_err(failed)?;
        Ok(Self { root, instance, _lock: lock })
    }

    /// The name that stays.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// A runtime that nobody owns.
    pub(crate) fn pooled(&self, name: &str) -> PathBuf {
        self.root.join("pool").join(name)
    }

    /// A sandbox's runtime.
    pub(crate) fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.root.join("sandboxes").join(id.as_str())
    }

    /// A runtime whose processes are gone.
    pub(crate) fn gone(&self, name: &str) -> PathBuf {
        self.root.join("gone").join(name)
    }

    /// The directories of all sandboxes' runtimes.
    pub(crate) fn sandboxes(&self) -> io::Result<Vec<PathBuf>> {
        children(&self.root.join("sandboxes"))
    }

    /// The directories that no server needs any more: a predecessor's pool, half-made runtimes,
    /// and what was being removed.
    pub(crate) fn leftovers(&self) -> io::Result<Vec<PathBuf>> {
        let mut all = children(&self.root.join("pool"))?;
        all.extend(children(&self.root.join("gone"))?);
        Ok(all)
    }

    /// Remembers where our control groups are, and gives all places where they ever were.
    pub(crate) fn remember_groups(&self, bases: &[PathBuf]) -> io::Result<BTreeSet<PathBuf>> {
        let path = self.root.join("groups");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let mut all: BTreeSet<PathBuf> = text.lines().map(PathBuf::from).collect();
        all.retain(|base| base.is_dir());
        all.extend(bases.iter().cloned());
        let lines: Vec<String> = all.iter().map(|base| base.display().to_string()).collect();
        replace(&path, lines.join("\n").as_bytes())?;
        Ok(all)
    }
}

/// Makes a directory that only this server's user may enter.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes)?;
    fs::rename(draft, path)
}

fn instance(root: &Path, fresh: impl FnOnce() -> String) -> io::Result<String> {
    let path = root.join("instance");
    match fs::read_to_string(&path) {
        Ok(name) if is_name(&name) => Ok(name),
        Ok(_) => make_instance(&path, fresh()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_instance(&path, fresh()),
        Err(error) => Err(error),
    }
}

fn make_instance(path: &Path, name: String) -> io::Result<String> {
    replace(path, name.as_bytes())?;
    Ok(name)
}

fn is_name(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Result<RunDir> {
        RunDir::open(dir, || "0123456789abcdef".to_owned())
    }

    #[test]
    fn two_servers_cannot_use_one_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert!(error.message.contains("another server"), "{error}");
        drop(first);
        open(dir.path()).unwrap();
    }

    #[test]
    fn the_instance_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap().instance().to_owned();
        let again = RunDir::open(dir.path(), || "fedcba9876543210".to_owned()).unwrap();
        assert_eq!(again.instance(), first);
    }
}
