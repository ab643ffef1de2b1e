//! What a control plane and a worker say to each other: `docs/rpc.md`.
//!
//! Both ends may be of different versions. Fields that are not known are ignored, fields that are
//! missing have a meaning, and a method that is not known is answered with
//! [`ErrorKind::Unsupported`]. Everything read from the other end is bounded before it is parsed.
//!
//! [`ErrorKind::Unsupported`]: stacyvm_provider::ErrorKind::Unsupported

mod envelope;
mod exec;
mod fault;
mod few;
mod heartbeat;
mod lines;
mod params;
mod patience;
mod results;

use http::HeaderName;

pub use envelope::{Lease, Malformed, Reply, Request, from_header, to_header};
pub use exec::{EventLine, ExecParams, InputLine, Terminal};
pub use fault::{Fault, Refusal, status_of};
pub use heartbeat::{Capacity, Heartbeat, HeartbeatReply, OfferEntry};
pub use lines::{LineTooLong, Lines};
pub use params::{
    AttachParams, DeadlineParams, DialParams, ExpectParams, FileParams, ImageParams, LogsParams,
    SpawnParams, Target, mode_of, mode_text,
};
pub use patience::{patience, time_to_answer};
pub use results::{
    FileEntry, FileList, FileResult, Health, ImageEntry, ImageList, LogLines, Matches, Opened,
    ProviderEntry, ProviderList, RuntimeEntry, RuntimeList, StatsResult, Status,
};

/// The methods of this version.
pub mod method {
    /// Starts a runtime.
    pub const SPAWN: &str = "worker.spawn";
    /// Says that a spawn will probably follow.
    pub const EXPECT: &str = "worker.expect";
    /// Ends a runtime.
    pub const DESTROY: &str = "worker.destroy";
    /// One runtime.
    pub const STATUS: &str = "worker.status";
    /// Every runtime.
    pub const RUNTIMES: &str = "worker.runtimes";
    /// The state of every provider.
    pub const PROVIDERS: &str = "worker.providers";
    /// The imported images of a provider.
    pub const IMAGES: &str = "worker.image_list";
    /// Imports an image.
    pub const IMAGE_IMPORT: &str = "worker.image_import";
    /// Removes an image.
    pub const IMAGE_REMOVE: &str = "worker.image_remove";
    /// Moves a deadline away.
    pub const SET_DEADLINE: &str = "worker.set_deadline";
    /// A command, answered when it has ended.
    pub const EXEC: &str = "worker.exec";
    /// A command, answered while it runs.
    pub const EXEC_STREAM: &str = "worker.exec_stream";
    /// A command that was started before.
    pub const EXEC_ATTACH: &str = "worker.exec_attach";
    /// Writes a file.
    pub const FILE_WRITE: &str = "worker.file_write";
    /// Reads a file.
    pub const FILE_READ: &str = "worker.file_read";
    /// The entries of a directory.
    pub const FILE_LIST: &str = "worker.file_list";
    /// Removes files.
    pub const FILE_DELETE: &str = "worker.file_delete";
    /// Renames a file.
    pub const FILE_MOVE: &str = "worker.file_move";
    /// Sets permission bits.
    pub const FILE_CHMOD: &str = "worker.file_chmod";
    /// Describes a file.
    pub const FILE_STAT: &str = "worker.file_stat";
    /// Finds files.
    pub const FILE_GLOB: &str = "worker.file_glob";
    /// The last lines that commands wrote.
    pub const LOGS: &str = "worker.logs";
    /// What a sandbox uses.
    pub const STATS: &str = "worker.stats";
    /// Connects to a port inside.
    pub const DIAL: &str = "worker.dial";
    /// Takes no spawns from now on.
    pub const SHUTDOWN: &str = "worker.shutdown";
    /// Takes spawns again.
    pub const UNDRAIN: &str = "worker.undrain";
}

/// The path of every call.
pub const PATH: &str = "/rpc";
/// The path that says whether a worker lives.
pub const HEALTH: &str = "/health";
/// `ndjson` or `raw`: how the caller wants a long answer.
pub const STREAM: HeaderName = HeaderName::from_static("x-worker-stream");
/// An envelope beside a raw body, as base64url without padding.
pub const ENVELOPE: HeaderName = HeaderName::from_static("x-worker-envelope");
/// After a raw body that broke off inside the sandbox: the reply that says why.
pub const TRAILER: HeaderName = HeaderName::from_static("x-worker-trailer");
/// The media type of lines of JSON.
pub const NDJSON: &str = "application/x-ndjson";
/// The protocol that a dialled port speaks after the upgrade: bytes.
pub const UPGRADE: &str = "stacyvm-bytes";

/// The largest envelope with its parameters, in bytes. A command of the agent protocol is at most
/// 1 MiB, which JSON may write six times as long.
pub const MAX_ENVELOPE: usize = 8 << 20;
/// The largest envelope in a header, in bytes of base64url.
pub const MAX_HEADER: usize = 64 << 10;
/// The longest line of an answer, in bytes.
pub const MAX_LINE: usize = 1 << 20;
/// The largest answer that is not a stream, in bytes: 100,000 entries of a directory with names of
/// a usual length several times over.
pub const MAX_REPLY: usize = 64 << 20;
/// Bytes of a command's output in one line. JSON may write them six times as long.
pub const MAX_PIECE: usize = 128 << 10;
/// Bytes of a command's input in one line, as base64. What is sent as one input is told as one up
/// to this: what follows it may overtake one that is not read, and no more than one.
pub const MAX_INPUT: usize = 1 << 20;
/// The longest line of a request after its envelope, in bytes.
pub const MAX_INPUT_LINE: usize = 2 << 20;
