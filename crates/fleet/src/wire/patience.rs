//! How long an answer is waited for.

use std::time::Duration;

use super::method;

/// What a worker leaves of its caller's time for the way.
const WAY: Duration = Duration::from_secs(5);

/// How long a caller waits for the answer of a method, or for its head where it is a stream. One
/// that does not come until then means that the worker itself does not answer.
pub fn patience(method: &str) -> Duration {
    Duration::from_secs(match method {
        method::SPAWN => 80,
        method::DESTROY | method::IMAGE_REMOVE => 50,
        method::FILE_LIST | method::FILE_GLOB | method::FILE_DELETE => 75,
        _ => 20,
    })
}

/// How long a worker may take for that. A provider or a sandbox that hangs is told of before its
/// caller gives up: neither makes the caller take the worker for dead.
pub fn time_to_answer(method: &str) -> Duration {
    patience(method).saturating_sub(WAY)
}
