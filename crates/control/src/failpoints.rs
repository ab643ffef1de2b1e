//! The steps at which a test can kill the server.

/// Every step of the use cases that changes something, in the order of a sandbox's life.
pub const FAILPOINTS: &[&str] = &[
    SPAWN_RESERVING,
    SPAWN_ADMITTED,
    SPAWN_LAUNCHED,
    SPAWN_SET_UP,
    SPAWN_RUNNING,
    SPAWN_FAILED,
    EXEC_RECORDED,
    EXEC_STARTED,
    EXEC_ENDED,
    EXTEND_CHECKED,
    EXTEND_STORED,
    DESTROY_ASKED,
    DESTROY_STOPPING,
    DESTROY_GONE,
    DESTROY_ENDED,
    ONCE_BEGUN,
    ONCE_WORKED,
    ONCE_KEPT,
];

/// Nothing is stored yet.
pub(crate) const SPAWN_RESERVING: &str = "control.spawn.reserving";
/// The row is there, no runtime.
pub(crate) const SPAWN_ADMITTED: &str = "control.spawn.admitted";
/// The runtime is there, the row does not say so.
pub(crate) const SPAWN_LAUNCHED: &str = "control.spawn.launched";
/// The template's lines have run.
pub(crate) const SPAWN_SET_UP: &str = "control.spawn.set_up";
/// The row says so, the client does not know.
pub(crate) const SPAWN_RUNNING: &str = "control.spawn.running";
/// The launch failed, or the disk did, and the row does not say so.
pub(crate) const SPAWN_FAILED: &str = "control.spawn.failed";
/// The start is recorded, the command is not started.
pub(crate) const EXEC_RECORDED: &str = "control.exec.recorded";
/// The command runs, nobody follows it.
pub(crate) const EXEC_STARTED: &str = "control.exec.started";
/// The command ended, the end is not recorded.
pub(crate) const EXEC_ENDED: &str = "control.exec.ended";
/// The new deadline is known and not stored.
pub(crate) const EXTEND_CHECKED: &str = "control.extend.checked";
/// The new deadline is stored, the client does not know.
pub(crate) const EXTEND_STORED: &str = "control.extend.stored";
/// Nothing has happened.
pub(crate) const DESTROY_ASKED: &str = "control.destroy.asked";
/// The end is decided and the runtime is there.
pub(crate) const DESTROY_STOPPING: &str = "control.destroy.stopping";
/// The runtime is gone and the row does not say so.
pub(crate) const DESTROY_GONE: &str = "control.destroy.gone";
/// The row has ended, the client does not know.
pub(crate) const DESTROY_ENDED: &str = "control.destroy.ended";
/// The key is stored, nothing was done for it.
pub(crate) const ONCE_BEGUN: &str = "control.once.begun";
/// What the key stands for was done, its answer is not stored.
pub(crate) const ONCE_WORKED: &str = "control.once.worked";
/// The answer is stored, the client does not know.
pub(crate) const ONCE_KEPT: &str = "control.once.kept";
