//! Signals of the calling process: which are blocked, how they are read, what they do by default.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

/// The highest signal number of Linux.
pub const MAX_SIGNAL: i32 = 64;

fn only(signal: i32) -> libc::sigset_t {
    // SAFETY: a zeroed sigset_t is valid memory for sigemptyset, which fills it; sigaddset only
    // writes into it and refuses numbers that are not signals.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        set
    }
}

/// Blocks `SIGCHLD` in the calling thread and returns a non-blocking descriptor that becomes
/// readable when a child changed. Threads made later inherit the block.
pub fn child_events() -> io::Result<OwnedFd> {
    let set = only(libc::SIGCHLD);
    // SAFETY: `set` is initialised and outlives both calls; no old set is asked for.
    unsafe {
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Empties a descriptor made by [`child_events`]. What it held does not matter: the children are
/// asked one by one.
pub fn drain(fd: impl AsFd) {
    let fd = fd.as_fd();
    let mut buffer = [0_u8; 4 * size_of::<libc::signalfd_siginfo>()];
    loop {
        // SAFETY: the buffer is valid for writes of its length, and the descriptor is borrowed for
        // the call.
        let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if n <= 0 {
            return;
        }
    }
}

/// Makes writes to a broken pipe fail with `EPIPE` instead of ending the process.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid disposition and SIGPIPE a valid signal; no handler code runs.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Restores the default disposition of every signal: a process that commands are forked from does
/// it once, so that each of them need not.
pub fn reset() {
    // SAFETY: a zeroed sigaction is SIG_DFL with no flags and an empty mask. Numbers that cannot be
    // changed are refused by the kernel, which is fine here.
    unsafe {
        let action: libc::sigaction = mem::zeroed();
        for signal in 1..=MAX_SIGNAL {
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

/// Undoes [`ignore_broken_pipes`] and [`child_events`] for a command. Makes system calls only, so
/// it may run between `fork` and `exec`.
pub fn restore() {
    // SAFETY: SIG_DFL is a valid disposition of SIGPIPE; the set is initialised before its use.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Sends a signal by number to a process.
pub fn send(pid: rustix::process::Pid, signal: i32) -> io::Result<()> {
    raw_kill(pid.as_raw_nonzero().get(), signal)
}

/// Sends a signal by number to a process group.
pub fn send_group(group: rustix::process::Pid, signal: i32) -> io::Result<()> {
    raw_kill(-group.as_raw_nonzero().get(), signal)
}

fn raw_kill(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers and touches no memory of ours.
    if unsafe { libc::kill(target, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_does_not_exist_is_refused() {
        let me = rustix::process::getpid();
        assert_eq!(send(me, 0).map_err(|e| e.raw_os_error()), Ok(()));
        assert_eq!(send(me, 65).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
