//! The lower tree of the image `host`: what of this machine a sandbox may see.
//!
//! `/usr` itself is bound by the launch; here are the directories and links around it, and an
//! `/etc` made of an allow-list of the host's public files and of files of our own. Built once
//! under `<data_dir>/host-image/<version>`, where the version is a fingerprint of everything that
//! went into it: when the host changes, the next start builds another one beside it.
//!
//! Promises:
//! - Of the host's `/etc` only what [`allow`] names is there, and of that only what every user
//!   of the host may read, and no private key. The host's users, their passwords, its name, its
//!   shell profiles and its resolver are not.
//! - Nothing of `/root`, `/home`, `/opt`, `/srv`, `/var`, `/mnt` or `/run` is there: they are empty
//!   directories.
//! - A version that is in place is complete: it is renamed there after it was written.

mod allow;
mod copy;
#[cfg(test)]
mod tests;

use std::{
    collections::hash_map::DefaultHasher,
    ffi::OsStr,
    fs,
    hash::{Hash, Hasher},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
};

use crate::tree;

/// Raised when what is built changes.
const FORMAT: u32 = 1;

/// Where a host keeps its programs, besides `/usr`.
const PROGRAM_DIRS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Empty directories and their modes.
const DIRS: [(&str, u32); 22] = [
    ("usr", 0o755),
    ("dev", 0o755),
    ("proc", 0o755),
    ("sys", 0o755),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
    ("root", 0o700),
    ("home", 0o755),
    ("home/sandbox", 0o755),
    ("workspace", 0o777),
    ("opt", 0o755),
    ("mnt", 0o755),
    ("srv", 0o755),
    ("media", 0o755),
    ("etc", 0o755),
    ("etc/skel", 0o755),
];

const SANDBOX_ID: u32 = 1000;

/// Files of our own in `/etc`.
const FILES: [(&str, &str); 10] = [
    (
        "passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         bin:x:2:2:bin:/bin:/usr/sbin/nologin\n\
         sys:x:3:3:sys:/dev:/usr/sbin/nologin\n\
         mail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n\
         www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
         sandbox:x:1000:1000:sandbox:/home/sandbox:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    (
        "group",
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\n\
         www-data:x:33:\nstaff:x:50:\nusers:x:100:\nsandbox:x:1000:\nnogroup:x:65534:\n",
    ),
    ("hostname", "sandbox\n"),
    ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("resolv.conf", ""),
    (
        "nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
         protocols: files\nservices: files\nethers: files\nrpc: files\n",
    ),
    ("shells", "/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n"),
    (
        "profile",
        "# Login shells of a sandbox.\n\
         export PATH=\"${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}\"\n\
         [ -n \"${BASH_VERSION:-}\" ] && [ -r /etc/bash.bashrc ] && . /etc/bash.bashrc\n\
         umask 022\n",
    ),
    (
        "bash.bashrc",
        "# Interactive shells of a sandbox.\n[ -n \"${PS1:-}\" ] && PS1='\\u@\\h:\\w\\$ '\n",
    ),
    ("fstab", "# A sandbox mounts nothing.\n"),
];

/// Why the host's tree could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SkeletonError {
    /// The host keeps its programs where a sandbox could not find them.
    #[error(
        "/{name} of this host points to {target}, outside /usr: the image host cannot be made; \
         import an image instead"
    )]
    Layout {
        /// A name of [`PROGRAM_DIRS`].
        name: &'static str,
        /// Where it points.
        target: String,
    },
    /// The allow-list of `/etc` matched far more than an `/etc` holds.
    #[error("the public part of the host's /etc is too large to copy")]
    TooLarge,
    /// The host's answer.
    #[error("the host's tree could not be made: {0}")]
    Io(&'static str, #[source] io::Error),
}

/// The tree of the image `host`, in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skeleton {
    /// The lower directory. Never written to again.
    pub(crate) lower: PathBuf,
    /// Directories of the host, relative to its root, that the launch binds read-only over the
    /// directories of the same names in `lower`: `usr`, and on hosts without a merged `/usr` also
    /// `bin`, `lib` and so on.
    pub(crate) binds: Vec<&'static str>,
}

/// Makes the tree of the image `host`, or finds the one that was made before. `host` is the
/// host's root directory. Blocking: a few milliseconds when it is there, tens when it is not.
pub(crate) fn prepare(host: &Path, data_dir: &Path) -> Result<Skeleton, SkeletonError> {
    let io = |what| move |error: io::Error| SkeletonError::Io(what, error);
    let programs = programs(host)?;
    let etc = match tree::open_dir(&host.join("etc")) {
        Ok(etc) => copy::survey(etc.as_fd())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(SkeletonError::Io("reading /etc", error)),
    };
    let version = fingerprint(&programs, &etc);
    let home = data_dir.join("host-image");
    let dir = tree::private_dir(&home).map_err(io("making its directory"))?;
    let mut binds = vec!["usr"];
    binds.extend(programs.iter().filter(|p| p.target.is_none()).map(|p| p.name));
    let skeleton = Skeleton { lower: home.join(&version), binds };
    if skeleton.lower.is_dir() {
        return Ok(skeleton);
    }
    let building = format!(".build-{:016x}", rand::random::<u64>());
    let built = build(host, &home.join(&building), &programs, &etc)
        .and_then(|()| publish(&dir, &building, &version).map_err(io("putting it in place")));
    if built.is_err()
        && let Err(error) = tree::remove_tree(dir.as_fd(), OsStr::new(&building))
    {
        tracing::warn!(%error, "a half-made host tree could not be removed");
    }
    built.map(|()| skeleton)
}

/// Whether the image `host` can be made of this host, by its look. Changes nothing.
pub(crate) fn check(host: &Path) -> Result<(), SkeletonError> {
    programs(host).map(drop)
}

/// Removes the versions that are neither `current` nor in use, and half-made ones. `in_use` gets a
/// lower directory. To be called once, after [`prepare`]; returns how many went.
pub(crate) fn collect(current: &Skeleton, in_use: impl Fn(&Path) -> bool) -> io::Result<usize> {
    let Some(home) = current.lower.parent() else { return Ok(0) };
    let dir = tree::open_dir(home)?;
    let mut removed = 0;
    for name in tree::names(dir.as_fd())? {
        let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name.as_slice());
        let path = home.join(name);
        let half_made = name.as_encoded_bytes().starts_with(b".build-");
        if path != current.lower && (half_made || !in_use(&path)) {
            tree::remove_tree(dir.as_fd(), name)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// One of [`PROGRAM_DIRS`] that the host has.
#[derive(Debug, Hash)]
struct Programs {
    name: &'static str,
    /// What it links to, or `None` when it is a directory of its own.
    target: Option<PathBuf>,
}

fn programs(host: &Path) -> Result<Vec<Programs>, SkeletonError> {
    let mut found = Vec::new();
    for name in PROGRAM_DIRS {
        let path = host.join(name);
        let Ok(stat) = fs::symlink_metadata(&path) else { continue };
        if stat.is_dir() {
            found.push(Programs { name, target: None });
        } else if stat.is_symlink() {
            let target =
                fs::read_link(&path).map_err(|e| SkeletonError::Io("reading a link", e))?;
            let from_root = target.strip_prefix("/").unwrap_or(&target);
            let first = from_root.components().next().map(|part| part.as_os_str().to_owned());
            let known = first.is_some_and(|first| {
                first == "usr" || PROGRAM_DIRS.iter().any(|program| first == *program)
            });
            let climbs = target.components().any(|part| part == std::path::Component::ParentDir);
            if !known || climbs {
                let target = target.display().to_string();
                return Err(SkeletonError::Layout { name, target });
            }
            found.push(Programs { name, target: Some(target) });
        }
    }
    Ok(found)
}

/// Only compared with what this very program wrote, so the standard hash will do.
fn fingerprint(programs: &[Programs], etc: &[copy::Piece]) -> String {
    let mut hasher = DefaultHasher::new();
    (FORMAT, FILES, DIRS, programs, etc).hash(&mut hasher);
    rustix::process::geteuid().as_raw().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn build(
    host: &Path,
    to: &Path,
    programs: &[Programs],
    etc: &[copy::Piece],
) -> Result<(), SkeletonError> {
    let io = |what| move |error: io::Error| SkeletonError::Io(what, error);
    make_dir(to, 0o755).map_err(io("making a directory"))?;
    for (name, mode) in DIRS {
        make_dir(&to.join(name), mode).map_err(io("making a directory"))?;
    }
    for program in programs {
        let path = to.join(program.name);
        match &program.target {
            Some(target) => symlink(target, path).map_err(io("making a link"))?,
            None => make_dir(&path, 0o755).map_err(io("making a directory"))?,
        }
    }
    symlink("/run", to.join("var/run")).map_err(io("making a link"))?;
    symlink("/run/lock", to.join("var/lock")).map_err(io("making a link"))?;
    if !etc.is_empty() {
        let from = tree::open_dir(&host.join("etc")).map_err(io("reading /etc"))?;
        copy::copy(from.as_fd(), &to.join("etc"), etc).map_err(io("copying /etc"))?;
    }
    for (name, content) in FILES {
        write(&to.join("etc").join(name), content).map_err(io("writing a file"))?;
    }
    symlink("/proc/self/mounts", to.join("etc/mtab")).map_err(io("making a link"))?;
    if rustix::process::geteuid().is_root() {
        chown(to.join("home/sandbox"), Some(SANDBOX_ID), Some(SANDBOX_ID))
            .map_err(io("giving a directory away"))?;
    }
    Ok(())
}

fn publish(home: &OwnedFd, building: &str, version: &str) -> io::Result<()> {
    rustix::fs::syncfs(home)?;
    match rustix::fs::renameat(home, building, home, version) {
        Ok(()) => Ok(rustix::fs::fsync(home)?),
        // Another start was quicker: its tree is as good, having the same version.
        Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => {
            tree::remove_tree(home.as_fd(), OsStr::new(building))
        }
        Err(error) => Err(error.into()),
    }
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}
