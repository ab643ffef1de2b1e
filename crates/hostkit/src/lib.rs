//! The kernel seams: the only crate that may use `unsafe`.
//!
//! Thin, typed wrappers over system calls that `rustix` does not offer or whose order and arguments
//! matter to isolation. No policy lives here: what to mount or to deny is decided by callers.

pub mod caps;
pub mod clone;
pub mod fdpass;
pub mod landlock;
pub mod mount;
pub mod net;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod signals;
pub mod title;
