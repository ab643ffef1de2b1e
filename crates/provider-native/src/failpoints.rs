//! The named steps of this provider at which a test can kill the server.

/// A launch has a name and nothing else.
pub(crate) const LAUNCH_BEFORE_DIRECTORY: &str = "native.launch.before_directory";
/// It has a directory.
pub(crate) const LAUNCH_BEFORE_GROUPS: &str = "native.launch.before_groups";
/// It has control groups and a socket.
pub(crate) const LAUNCH_BEFORE_CLONE: &str = "native.launch.before_clone";
/// Its first process exists and nothing says so.
pub(crate) const LAUNCH_BEFORE_RECORD: &str = "native.launch.before_record";
/// It is written down, and its first process does not know.
pub(crate) const LAUNCH_AFTER_RECORD: &str = "native.launch.after_record";
/// It is ready and nobody's.
pub(crate) const LAUNCH_AFTER_READY: &str = "native.launch.after_ready";
/// Its owner is not written down.
pub(crate) const CLAIM_BEFORE_RECORD: &str = "native.claim.before_record";
/// Its owner is written down, and it lies with the others that wait.
pub(crate) const CLAIM_BEFORE_RENAME: &str = "native.claim.before_rename";
/// It lies with the sandboxes.
pub(crate) const CLAIM_AFTER_RENAME: &str = "native.claim.after_rename";
/// A runtime is to be destroyed and lives.
pub(crate) const DESTROY_BEFORE_KILL: &str = "native.destroy.before_kill";
/// Its processes are gone.
pub(crate) const DESTROY_AFTER_KILL: &str = "native.destroy.after_kill";
/// It lies with those that are gone.
pub(crate) const DESTROY_AFTER_RENAME: &str = "native.destroy.after_rename";
/// Nothing of it is left.
pub(crate) const DESTROY_AFTER_CLEAR: &str = "native.destroy.after_clear";

/// All of them, for a sweep.
pub const FAILPOINTS: &[&str] = &[
    LAUNCH_BEFORE_DIRECTORY,
    LAUNCH_BEFORE_GROUPS,
    LAUNCH_BEFORE_CLONE,
    LAUNCH_BEFORE_RECORD,
    LAUNCH_AFTER_RECORD,
    LAUNCH_AFTER_READY,
    CLAIM_BEFORE_RECORD,
    CLAIM_BEFORE_RENAME,
    CLAIM_AFTER_RENAME,
    DESTROY_BEFORE_KILL,
    DESTROY_AFTER_KILL,
    DESTROY_AFTER_RENAME,
    DESTROY_AFTER_CLEAR,
];
