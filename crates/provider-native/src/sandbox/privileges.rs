//! Who the first process is, and what it may still do.

use std::io;

use rustix::{
    process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit},
    thread,
};
use stacyvm_hostkit::caps;

/// The capabilities that commands have inside, over the sandbox's own users and files only.
///
/// What package managers, archivers and servers need to behave as usual: owners, permission bits,
/// users, signals, low ports, `chroot`. Nothing that mounts, traces, makes devices, changes the
/// network, or loads anything into the kernel.
pub(crate) const KEPT: u64 = caps::mask(&[
    caps::CHOWN,
    caps::DAC_OVERRIDE,
    caps::FOWNER,
    caps::FSETID,
    caps::KILL,
    caps::SETGID,
    caps::SETUID,
    caps::NET_BIND_SERVICE,
    caps::SYS_CHROOT,
]);

/// Open files of one process: the hard limit, and what it starts with.
const OPEN_FILES: u64 = 65_536;
/// Locked memory of one user inside.
const LOCKED_BYTES: u64 = 8 * 1024 * 1024;

/// Becomes the sandbox's root, whose numbers must be mapped by now.
pub(crate) fn become_root() -> io::Result<()> {
    // Refused where only one group is mapped; then there is none to drop to either.
    match thread::set_thread_groups(&[]) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}

/// Sets the resource limits that everything inside inherits.
pub(crate) fn limit(max_processes: Option<u64>) -> io::Result<()> {
    let lower = |resource, most: u64| {
        // Raising a hard limit needs a privilege that is not ours, so the host's may be less.
        let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    lower(Resource::Nofile, OPEN_FILES)?;
    lower(Resource::Core, 0)?;
    lower(Resource::Memlock, LOCKED_BYTES)?;
    if let Some(most) = max_processes {
        lower(Resource::Nproc, most)?;
    }
    Ok(())
}
