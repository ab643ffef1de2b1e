//! Every number that bounds the agent, in one place.

use std::time::Duration;

/// Connections at a time; further ones are closed at once.
pub const MAX_CONNECTIONS: usize = 16;

/// Streams at a time on one connection; further ones are refused.
pub const MAX_STREAMS: usize = 256;

/// Commands that run at a time.
pub const MAX_RUNNING: usize = 192;

/// A command's id in bytes.
pub const MAX_EXEC_ID: usize = 64;

/// Output of one command that is kept for readers that attach or lag, standard output and error
/// together. While someone reads, the command waits when the slowest reader is this far behind.
pub const JOURNAL: u64 = 1 << 20;

/// How long a command still waits for a reader after the last one vanished. After that its oldest
/// output is dropped, which later readers see as truncated.
pub const READER_GRACE: Duration = Duration::from_secs(30);

/// Ended commands that can still be attached to.
pub const MAX_ENDED: usize = 32;

/// How long an ended command can be attached to.
pub const ENDED_FOR: Duration = Duration::from_secs(300);

/// Journals of all ended commands together; the oldest go first.
pub const ENDED_BYTES: u64 = 4 << 20;

/// Commands that are not started again under their ids, however long ago they ended.
pub const REMEMBERED_IDS: usize = 8192;

/// What is read from one stream of a command after its process exited. More than this can be in a
/// pipe only when something it left behind goes on writing.
pub const LAST_OUTPUT: usize = 1 << 20;

/// Standard input that waits for a command before its sender must wait.
pub const STDIN_QUEUE: usize = 64 * 1024;

/// Pipes of ended commands that are held open for what they left behind; what comes out of them is
/// only seen in the console.
pub const MAX_LEFTOVERS: usize = 64;

/// The console: the last output of all commands together.
pub const CONSOLE: usize = 64 * 1024;

/// What is read from a descriptor in one go.
pub const READ_SIZE: usize = 32 * 1024;

/// Reads from one connection before the others get their turn.
pub const READS_PER_TURN: usize = 8;

/// A path in bytes.
pub const MAX_PATH: usize = 4095;

/// Symbolic links at the end of a path that is written.
pub const MAX_LINKS: usize = 40;

/// How often a resolution is repeated that the kernel could not finish for a concurrent rename.
pub const RESOLVE_RETRIES: usize = 64;

/// Entries of a list and matches of a pattern.
pub const MAX_ENTRIES: u64 = 100_000;

/// Names that a pattern is compared with.
pub const MAX_VISITED: u64 = 2_000_000;

/// Entries that a list, pattern or removal works on before the loop looks at everything else.
pub const ENTRIES_PER_SLICE: usize = 256;

/// Directory levels that a removal holds open; deeper ones are moved up first.
pub const REMOVE_DEPTH: usize = 64;

/// `/etc/passwd` and `/etc/group`: what is read of each.
pub const ACCOUNTS: usize = 1 << 20;

/// Supplementary groups of a user.
pub const MAX_GROUPS: usize = 256;

/// Looks at the process table within one step of killing a tree.
pub const KILL_PASSES: usize = 16;

/// Steps of killing a tree before its first process is killed whatever else is left.
pub const KILL_STEPS: u32 = 500;

/// Between two steps of killing a tree.
pub const KILL_PAUSE: Duration = Duration::from_millis(2);

/// How long a command runs before its output is looked at and its reader hears that it runs, unless
/// it ends before.
pub const GREETING: Duration = Duration::from_millis(1);

/// Added to the chance that the kernel picks a command when memory is short.
pub const OOM_SCORE: &[u8] = b"500";
