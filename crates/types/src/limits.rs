//! What a sandbox may use.

/// Hard limits of one sandbox. Zero is not a value: every field is set before a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in MiB, files in the sandbox's writable layer included where that layer is memory.
    pub memory_mb: u32,
    /// Whole virtual CPUs.
    pub vcpus: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Writable space in MiB, over all of the sandbox's file system.
    pub disk_mb: u32,
}

impl Limits {
    /// What a sandbox gets when its request names nothing.
    pub const DEFAULT: Self = Self { memory_mb: 1024, vcpus: 1, pids: 512, disk_mb: 1024 };
}
