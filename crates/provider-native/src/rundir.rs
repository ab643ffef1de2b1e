//! The directories of the runtimes.
//!
//! ```text
//! run/lock                          held by the server that owns this data directory
//! run/instance                      a name that stays: that of our control groups
//! run/groups                        every directory that ever held our control groups
//! run/runtimes                      a directory, or a link to one in memory; all below is there
//! run/runtimes/home                 a link back to `run`
//! run/runtimes/pool/<runtime>/      being made, or waiting for an owner
//! run/runtimes/sandboxes/<id>/      a sandbox's: runtime.json, owner.json, agent.sock
//! run/runtimes/gone/<runtime>/      killed, its leftovers not yet removed
//! ```
//!
//! A runtime changes its standing with one rename, so a crash leaves it on one side or the other.

mod runtimes;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::SandboxId;

pub(crate) use runtimes::Memory;
use runtimes::Runtimes;

const INSTANCE: &str = "instance";
const GROUPS: &str = "groups";
/// The socket of a runtime's agent, in its directory.
pub(crate) const SOCKET: &str = "agent.sock";

/// The directories, owned by this process.
#[derive(Debug)]
pub(crate) struct RunDir {
    root: PathBuf,
    instance: String,
    runtimes: Runtimes,
    _lock: OwnedFd,
}

impl RunDir {
    /// Takes the directories of `data_dir`, and makes what is missing.
    pub(crate) fn open(
        data_dir: &Path,
        memory: &Memory,
        fresh: impl Fn() -> String,
    ) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Internal, "the data directory cannot be used").because(error)
        };
        let root = data_dir.join("run");
        make_private(&root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
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
        let (instance, runtimes) = settle(&root, memory, fresh).map_err(failed)?;
        tracing::info!(dir = %runtimes.dir.display(), "runtimes are kept here");
        Ok(Self { root, instance, runtimes, _lock: lock })
    }

    /// The name that stays.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Where the runtimes are.
    pub(crate) fn runtimes(&self) -> &Path {
        &self.runtimes.dir
    }

    /// A runtime that nobody owns.
    pub(crate) fn pooled(&self, name: &str) -> PathBuf {
        self.runtimes.dir.join("pool").join(name)
    }

    /// A sandbox's runtime.
    pub(crate) fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.runtimes.dir.join("sandboxes").join(id.as_str())
    }

    /// A runtime whose processes are gone.
    pub(crate) fn gone(&self, name: &str) -> PathBuf {
        self.runtimes.dir.join("gone").join(name)
    }

    /// The directories of all sandboxes' runtimes.
    pub(crate) fn sandboxes(&self) -> io::Result<Vec<PathBuf>> {
        children(&self.runtimes.dir.join("sandboxes"))
    }

    /// The directories that no server needs any more: a predecessor's pool, half-made runtimes,
    /// and what was being removed.
    pub(crate) fn leftovers(&self) -> io::Result<Vec<PathBuf>> {
        let mut all = children(&self.runtimes.dir.join("pool"))?;
        all.extend(children(&self.runtimes.dir.join("gone"))?);
        Ok(all)
    }

    /// Remembers where our control groups are, and gives all places where they ever were.
    pub(crate) fn remember_groups(&self, bases: &[PathBuf]) -> io::Result<BTreeSet<PathBuf>> {
        let mut all = self.groups()?;
        all.retain(|base| base.is_dir());
        all.extend(bases.iter().cloned());
        let lines: Vec<String> = all.iter().map(|base| base.display().to_string()).collect();
        replace(&self.root.join(GROUPS), lines.join("\n").as_bytes())?;
        Ok(all)
    }

    fn groups(&self) -> io::Result<BTreeSet<PathBuf>> {
        let text = match fs::read_to_string(self.root.join(GROUPS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        Ok(text.lines().map(PathBuf::from).collect())
    }
}

/// A server that leaves no runtime leaves nothing outside of its data directory. What is not empty
/// is in use.
impl Drop for RunDir {
    fn drop(&mut self) {
        for base in self.groups().unwrap_or_default() {
            let _ = fs::remove_dir(base);
        }
        self.runtimes.close();
    }
}

/// The name that stays and the runtimes. A copy of a data directory starts with neither: two
/// servers with one name would kill each other's sandboxes.
fn settle(
    root: &Path,
    memory: &Memory,
    fresh: impl Fn() -> String,
) -> io::Result<(String, Runtimes)> {
    let name = instance(root, &fresh)?;
    if let Some(runtimes) = Runtimes::open(root, &name, memory)? {
        return Ok((name, runtimes));
    }
    tracing::warn!("this data directory is a copy: its sandboxes are those of the original");
    runtimes::disown(root)?;
    gone(fs::remove_file(root.join(GROUPS)))?;
    let name = make_instance(&root.join(INSTANCE), fresh())?;
    let runtimes = Runtimes::open(root, &name, memory)?;
    let runtimes = runtimes.ok_or_else(|| io::Error::other("a fresh name is in use already"))?;
    Ok((name, runtimes))
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

fn instance(root: &Path, fresh: impl Fn() -> String) -> io::Result<String> {
    let path = root.join(INSTANCE);
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

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// A removal after which nothing is there, whoever did it.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
