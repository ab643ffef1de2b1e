//! Sandboxes from the kernel's own means: namespaces, control groups, seccomp and Landlock, in our
//! own processes, without a daemon, an image or a helper binary.
//!
//! - [`spawner`]: the single-threaded process that starts sandboxes, and [`Spawner`], the server's
//!   side of it. The first line of every `main` is [`spawner::run_if_requested`].
//! - `sandbox`: the first process of a sandbox, from its birth to the agent's loop: root file
//!   system, privileges, system call filter.
//! - [`NativeProvider`]: runtimes, their directories, the ready pool, adoption after a restart.
//!
//! As root every sandbox has its own range of host users, far above those of people, and its lower
//! layers are shown id-mapped. As another user the same code runs with what the host allows: one
//! user inside (or a lent range), no control groups, a watchdog for memory.

mod cgroup;
mod early;
mod failpoints;
pub mod images;
mod make;
mod pool;
mod probe;
mod provider;
mod record;
mod rundir;
mod runtime;
mod sandbox;
mod skeleton;
mod slots;
pub mod spawner;
mod start;
mod subordinate;
mod tree;
mod watchdog;

pub use failpoints::FAILPOINTS;
pub use probe::doctor;
pub use provider::NativeProvider;
pub use spawner::Spawner;
pub use start::{NativeSettings, UID_BASE, images_of};

/// The image that is the host's own programs, read-only.
pub const HOST_IMAGE: &str = "host";
