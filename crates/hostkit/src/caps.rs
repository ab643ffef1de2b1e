//! Giving up privilege for good.

use std::io;

/// One capability, by its number.
pub type Capability = u32;

/// Change owners of files.
pub const CHOWN: Capability = 0;
/// Pass over permission bits.
pub const DAC_OVERRIDE: Capability = 1;
/// Act as the owner of any file.
pub const FOWNER: Capability = 3;
/// Keep set-id bits on change.
pub const FSETID: Capability = 4;
/// Signal any process.
pub const KILL: Capability = 5;
/// Change groups.
pub const SETGID: Capability = 6;
/// Change users.
pub const SETUID: Capability = 7;
/// Listen below port 1024.
pub const NET_BIND_SERVICE: Capability = 10;
/// Use `chroot`.
pub const SYS_CHROOT: Capability = 18;

/// The bits of some capabilities.
pub const fn mask(capabilities: &[Capability]) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    while at < capabilities.len() {
        bits |= 1 << capabilities[at];
        at += 1;
    }
    bits
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: only options that take plain numbers are used here.
    match unsafe {
        libc::prctl(option, argument, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong)
    } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Keeps only these capabilities, in the bounding set too, so that no later exec brings others.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of the mask are what is meant")]
pub fn keep_only(keep: u64) -> io::Result<()> {
    for capability in 0..64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // The first number that this kernel does not know ends the list.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let half = |bits: u32| Half { effective: bits, permitted: bits, inheritable: 0 };
    let sets = [half(keep as u32), half((keep >> 32) as u32)];
    // SAFETY: a version 3 header with its two data elements, which outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// No exec gives new privileges from here on.
pub fn no_new_privs() -> io::Result<()> {
    // SAFETY: takes plain numbers.
    match unsafe {
        libc::prctl(
            libc::PR_SET_NO_NEW_PRIVS,
            1 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Hides this process's memory, descriptors and environment from others with the same user.
pub fn not_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Sends this process `signal` when its parent ends.
pub fn die_with_parent(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_the_bit_of_each_capability() {
        assert_eq!(mask(&[CHOWN, KILL, SYS_CHROOT]), 1 | 1 << 5 | 1 << 18);
    }
}
