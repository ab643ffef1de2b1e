//! Landlock: a rule set that this process and its children can never loosen.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

/// Rights over files and directories, as the kernel numbers them.
pub mod access {
    /// Make character devices.
    pub const MAKE_CHAR: u64 = 1 << 6;
    /// Make block devices.
    pub const MAKE_BLOCK: u64 = 1 << 11;
}

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The version that this kernel offers; `None` where it is missing or switched off.
pub fn version() -> Option<u32> {
    // SAFETY: with this flag the call takes no attribute and returns a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(answer).ok().filter(|version| *version > 0)
}

/// All rights over files that `version` can handle.
const fn all_rights(version: u32) -> u64 {
    let rights = match version {
        0 | 1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << rights) - 1
}

/// Restricts this process to all rights below `/`, and below the roots of mounts that are attached
/// nowhere, but `denied`; and, where the kernel can, keeps signals and abstract sockets within it
/// and its children. Needs `no_new_privs`.
pub fn restrict_all_but(version: u32, denied: u64, detached: &[BorrowedFd<'_>]) -> io::Result<()> {
    let handled = all_rights(version);
    let scoped = if version < 6 { 0 } else { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL };
    let attr = RulesetAttr { handled_access_fs: handled, handled_access_net: 0, scoped };
    // Older kernels know a shorter structure.
    let size = match version {
        ..4 => 8,
        4 | 5 => 16,
        _ => size_of::<RulesetAttr>(),
    };
    // SAFETY: `attr` is at least `size` bytes long and outlives the call.
    let ruleset = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0u32)
    })?;
    let ruleset = i32::try_from(ruleset).expect("a descriptor fits an i32");
    // SAFETY: a new descriptor that nobody else owns.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    for parent in detached.iter().copied().chain([root.as_fd()]) {
        let rule =
            PathBeneathAttr { allowed_access: handled & !denied, parent_fd: parent.as_raw_fd() };
        // SAFETY: both descriptors are open and `rule` outlives the call.
        check(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0u32,
            )
        })?;
    }
    // SAFETY: takes an open rule set and changes this process only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_adds_rights_and_never_takes_any() {
        assert_eq!(all_rights(1), 0x1fff);
        assert_eq!(all_rights(2), 0x3fff);
        assert_eq!(all_rights(3), 0x7fff);
        assert_eq!(all_rights(4), 0x7fff);
        assert_eq!(all_rights(7), 0xffff);
    }
}
