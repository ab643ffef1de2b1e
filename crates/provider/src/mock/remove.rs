//! Removing whole trees.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

/// Removes a directory and all below it with two descriptors and no recursion: what is not empty
/// is first moved up, so that depth costs nothing.
pub(super) fn remove_tree(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |at: &OwnedFd, name: &[u8]| {
        rustix::fs::openat(at, name, flags, Mode::empty()).or_else(|errno| {
            if errno != Errno::ACCESS {
                return Err(errno);
            }
            let all = Mode::from_raw_mode(0o700);
            rustix::fs::chmodat(at, name, all, AtFlags::empty())?;
            rustix::fs::openat(at, name, flags, Mode::empty())
        })
    };
    let parent = parent.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    let top = open(&parent, name)?;
    let mut moved = 0_u64;
    loop {
        let entries = names(&top)?;
        if entries.is_empty() {
            return rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
        }
        for entry in entries {
            match rustix::fs::unlinkat(&top, &*entry, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                done => {
                    done?;
                    continue;
                }
            }
            let below = open(&top, &entry)?;
            for child in names(&below)? {
                match rustix::fs::unlinkat(&below, &*child, AtFlags::empty()) {
                    Err(Errno::ISDIR) => {}
                    done => {
                        done?;
                        continue;
                    }
                }
                moved += 1;
                let target = format!(".stacyvm-removed-{moved}-{}", super::entropy());
                rustix::fs::renameat(&below, &*child, &top, target)?;
            }
            rustix::fs::unlinkat(&top, &*entry, AtFlags::REMOVEDIR)?;
        }
    }
}

/// The names in a directory.
pub(super) fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}
