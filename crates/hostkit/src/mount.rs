//! Mount calls that `rustix` does not offer: attributes of detached mounts, id-mapped ones above
//! all.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// What to set on a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// No writes through it.
    pub read_only: bool,
    /// No set-user-id programs.
    pub nosuid: bool,
    /// No device nodes.
    pub nodev: bool,
    /// No programs.
    pub noexec: bool,
    /// The mounts below it too.
    pub recursive: bool,
    /// Files appear with the ids that this user namespace maps them to.
    pub idmap: Option<BorrowedFd<'a>>,
}

/// Sets attributes on the mount that `mount` is the root of.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes<'_>) -> io::Result<()> {
    let flags = [
        (attributes.read_only, MOUNT_ATTR_RDONLY),
        (attributes.nosuid, MOUNT_ATTR_NOSUID),
        (attributes.nodev, MOUNT_ATTR_NODEV),
        (attributes.noexec, MOUNT_ATTR_NOEXEC),
        (attributes.idmap.is_some(), MOUNT_ATTR_IDMAP),
    ];
    let attr = MountAttr {
        set: flags.into_iter().filter_map(|(on, flag)| on.then_some(flag)).sum(),
        userns: attributes.idmap.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
        ..MountAttr::default()
    };
    let recursive = if attributes.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is a `mount_attr` of the given size, the path is an empty C string, and both
    // outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
