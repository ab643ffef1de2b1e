//! Named steps at which a test can kill this process, to show that what follows a crash is right.
//!
//! Without the feature `failpoints` a step is nothing. With it, the step that the environment
//! variable `STACYVM_FAILPOINT` names sends SIGKILL to its own process.

/// The variable that names the step to die at.
pub const VARIABLE: &str = "STACYVM_FAILPOINT";

/// Marks a step by name; see [`crate::failpoint`].
#[macro_export]
macro_rules! failpoint {
    ($name:expr) => {
        $crate::failpoint::reach($name)
    };
}

/// Dies here if this is the step that was asked for.
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    static WANTED: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var_os(VARIABLE));
    if wanted.as_deref().is_some_and(|wanted| wanted == name) {
        let died =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        unreachable!("SIGKILL to the own process returned {died:?}");
    }
}

/// Nothing: the feature is off.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn reach(_name: &str) {}
