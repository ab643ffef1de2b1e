//! What the server and its spawner say to each other: one message per packet, each with a number
//! that its answer repeats.

use serde::{Deserialize, Serialize};

/// The longest message.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024;

/// Asks for a sandbox's first process.
///
/// Descriptors: the bound socket, the status channel, then the v2 cgroup's directory where
/// `into_cgroup`, then the `tasks` files to attach through.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Repeated in the answer.
    pub(crate) call: u64,
    /// What to start.
    pub(crate) order: Order,
}

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The users of the sandbox, as the host sees them.
    pub(crate) ids: Ids,
    /// The directory that is the lower layer of the root.
    pub(crate) lower: String,
    /// Directories of the host, relative to its root, that are shown read-only in the same place.
    pub(crate) binds: Vec<String>,
    /// Writable bytes.
    pub(crate) disk_bytes: u64,
    /// Writable files and directories.
    pub(crate) disk_inodes: u64,
    /// Whether a v2 cgroup's directory is among the descriptors.
    pub(crate) into_cgroup: bool,
    /// Processes per user where no cgroup counts them.
    pub(crate) max_processes: Option<u64>,
}

/// How users inside are users outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ids {
    /// All 65,536 are a range of the sandbox's own; lower layers are shown id-mapped.
    Range {
        /// The host's id of the sandbox's root.
        base: u32,
    },
    /// Only root, who is the server's own unprivileged user.
    Single {
        /// That user.
        uid: u32,
        /// That user's group.
        gid: u32,
    },
    /// Root is the server's own user, the others are its subordinate ids.
    Subordinate {
        /// That user.
        uid: u32,
        /// That user's group.
        gid: u32,
        /// The first subordinate user.
        first_uid: u32,
        /// The first subordinate group.
        first_gid: u32,
        /// How many of each.
        count: u32,
    },
}

/// Answers a [`Request`]; a started process's pidfd comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// The request's number.
    pub(crate) call: u64,
    /// The process's number, or why there is none.
    pub(crate) started: Result<i32, String>,
}

/// The first byte of a status message: the sandbox is ready.
pub(crate) const READY: u8 = b'R';
/// The first byte of a status message: a sentence about what failed follows.
pub(crate) const FAILED: u8 = b'E';
/// What the server sends when the runtime is written down: without it the sandbox ends.
pub(crate) const RECORDED: u8 = b'A';
