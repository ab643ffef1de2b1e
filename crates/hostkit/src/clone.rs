//! Starting a process in fresh namespaces without an exec.
//!
//! The child is a copy of its parent that goes on in a function of ours: it pays for no loader and
//! no libc start-up, and shares every page that neither side writes. That is sound only when the
//! parent has a single thread, because a lock held by another thread would stay locked for ever in
//! the child; [`SingleThread`] is the proof.

use std::{
    convert::Infallible,
    fs, io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// A user namespace of its own.
pub const NEW_USER: u64 = 0x1000_0000;
/// A mount namespace of its own.
pub const NEW_MOUNT: u64 = 0x0002_0000;
/// A pid namespace of its own.
pub const NEW_PID: u64 = 0x2000_0000;
/// A network namespace of its own.
pub const NEW_NET: u64 = 0x4000_0000;
/// A System V and POSIX queue namespace of its own.
pub const NEW_IPC: u64 = 0x0800_0000;
/// A host name of its own.
pub const NEW_UTS: u64 = 0x0400_0000;
/// A cgroup namespace of its own.
pub const NEW_CGROUP: u64 = 0x0200_0000;

/// No handlers of the parent's; what the parent ignores stays ignored.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Proof that this process had one thread when it was made. It cannot leave its thread, and a
/// program that holds one must not start others.
#[derive(Debug)]
pub struct SingleThread(PhantomData<*const ()>);

impl SingleThread {
    /// Counts the threads of this process.
    pub fn check() -> io::Result<Self> {
        match fs::read_dir("/proc/self/task")?.take(2).count() {
            1 => Ok(Self(PhantomData)),
            _ => Err(io::Error::other("this process has more than one thread")),
        }
    }
}

/// A child that was started.
#[derive(Debug)]
pub struct Started {
    /// Its process number in the caller's pid namespace.
    pub pid: i32,
    /// A descriptor that stays its own even when the number is used again.
    pub pidfd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Ends the child when its function panics: it must never unwind into the parent's code.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        exit_now(70);
    }
}

/// Ends this process at once, without running destructors or flushing anything.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes any status and does not return.
    unsafe { libc::_exit(status) }
}

fn go_on(child: impl FnOnce() -> Infallible) -> ! {
    let _guard = ExitOnUnwind;
    match child() {}
}

/// Starts `child` as the first process of the namespaces in `flags`, in the v2 cgroup `cgroup`
/// where one is given.
pub fn start(
    _proof: &SingleThread,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> Infallible,
) -> io::Result<Started> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` is a `clone_args` of the given size that lives through the call, and `pidfd`
    // outlives it too. No stack is given and memory is not shared, so the child goes on here on a
    // copy of this stack. The caller is single-threaded (`SingleThread`), so no lock of libc or of
    // the allocator is held by a thread that the child does not have.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>())
    };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => go_on(child),
        _ => Ok(Started {
            pid: i32::try_from(pid).expect("a pid fits an i32"),
            // SAFETY: the kernel stored a new descriptor that nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Moves this process into namespaces of its own.
pub fn unshare(flags: u64) -> io::Result<()> {
    let flags = libc::c_int::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes flags only, and changes this process alone.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves this process into a namespace of the kind that is named by one of the `NEW_` flags.
pub fn enter(namespace: BorrowedFd<'_>, kind: u64) -> io::Result<()> {
    let kind = libc::c_int::try_from(kind).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: an open descriptor and a flag; changes this process alone.
    match unsafe { libc::setns(namespace.as_raw_fd(), kind) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor from `first` on. For a child that keeps only what it put below.
pub fn close_from(_proof: &SingleThread, first: u32) -> io::Result<()> {
    // SAFETY: the caller gives up all descriptors from `first` on; owners of such descriptors in
    // the copied parent state are never dropped because a started child does not return.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `to` a copy of `fd` (with close-on-exec unless it is a standard stream) whatever `to` was.
pub fn place(fd: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    let flags = if to > 2 { libc::O_CLOEXEC } else { 0 };
    if fd.as_raw_fd() == to {
        return Ok(());
    }
    // SAFETY: the caller owns the numbering of this process's descriptors; `fd` is open.
    match unsafe { libc::dup3(fd.as_raw_fd(), to, flags) } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets the kernel reap children as they end: no zombie, no status, no signal.
pub fn forget_children(_proof: &SingleThread) {
    // SAFETY: SIG_IGN is a valid disposition and runs no code.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
}

/// Takes ownership of a descriptor by its number: one put there with [`place`], or inherited.
///
/// The caller must be its only owner; an unopened number is an error.
pub fn take(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag, and fails on a number that is not open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the caller says that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_process_with_threads_gets_no_proof() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _ = wait.recv_timeout(Duration::from_secs(30));
        });
        assert!(SingleThread::check().is_err());
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn an_unopened_number_cannot_be_taken() {
        assert!(take(1_000_000).is_err());
    }
}
