//! What an agent says, checked and in the words of the guest contract.

use stacyvm_agent_proto::{Entry, EntryKind, FailKind, Failure, message::End};
use stacyvm_provider::{Error, ErrorKind, Exit, FileInfo, FileKind, Result};
use stacyvm_types::Timestamp;

use crate::stream::nonsense;

/// The longest text of an agent that is shown to a client, in characters.
const MESSAGE: usize = 512;

/// The longest path, when each byte of it was replaced.
const PATH: usize = 3 * 4096;

/// A failure that the agent told: it did not do what it was asked.
pub(crate) fn error(failure: &Failure<'_>) -> Error {
    let kind = match failure.kind {
        FailKind::NotFound => ErrorKind::NotFound,
        FailKind::Invalid => ErrorKind::Invalid,
        FailKind::Conflict => ErrorKind::Conflict,
        FailKind::Denied => ErrorKind::Denied,
        FailKind::NotExecutable => ErrorKind::NotExecutable,
        FailKind::Unsupported => ErrorKind::Unsupported,
        FailKind::Exhausted => ErrorKind::Exhausted,
        FailKind::DiskFull => ErrorKind::DiskFull,
        FailKind::TooLarge => ErrorKind::TooLarge,
        FailKind::Unavailable => ErrorKind::Unavailable,
        FailKind::Internal => ErrorKind::Internal,
    };
    let message = failure.message.chars().take(MESSAGE);
    let message: String = message.map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::new(kind, message)
}

/// A file.
pub(crate) fn info(entry: Entry<'_>) -> Result<FileInfo> {
    if PATH < entry.path.len() || 0o7777 < entry.mode {
        return Err(nonsense());
    }
    Ok(FileInfo {
        path: entry.path.into_owned(),
        size: entry.size,
        mode: entry.mode,
        kind: match entry.kind {
            EntryKind::File => FileKind::File,
            EntryKind::Directory => FileKind::Directory,
            EntryKind::Symlink => FileKind::Symlink,
            EntryKind::Other => FileKind::Other,
        },
        modified: Timestamp::from_micros(entry.modified_us),
    })
}

/// A path.
pub(crate) fn path(path: std::borrow::Cow<'_, str>) -> Result<String> {
    if PATH < path.len() { Err(nonsense()) } else { Ok(path.into_owned()) }
}

/// The end of a command.
pub(crate) fn exit(end: End) -> Result<Exit> {
    match end {
        End::Code(code @ 0..=255) => Ok(Exit::Code(code)),
        End::Signal(signal @ 1..=64) => Ok(Exit::Signal(signal)),
        End::Code(_) | End::Signal(_) => Err(nonsense()),
        End::Timeout => Ok(Exit::Timeout),
        End::Lost => Ok(Exit::Lost),
    }
}
