//! Why a request did not work, in the words of the protocol.

use rustix::io::Errno;
use stacyvm_agent_proto::{FailKind, Failure, Reply, encode};

/// A request that failed. The message is for a client and names nothing outside the sandbox.
#[derive(Debug)]
pub(crate) struct Fail {
    pub(crate) kind: FailKind,
    pub(crate) message: String,
}

pub(crate) type Result<T, E = Fail> = std::result::Result<T, E>;

impl Fail {
    pub(crate) fn new(kind: FailKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailKind::Invalid, message)
    }

    /// What the kernel said about `subject`.
    pub(crate) fn os(errno: Errno, subject: &str) -> Self {
        let (kind, what) = match errno {
            Errno::NOENT => (FailKind::NotFound, "does not exist"),
            Errno::NOTDIR => (FailKind::Conflict, "is not a directory, or leads through a file"),
            Errno::ISDIR => (FailKind::Conflict, "is a directory"),
            Errno::EXIST => (FailKind::Conflict, "exists"),
            Errno::NOTEMPTY => (FailKind::Conflict, "is not empty"),
            Errno::BUSY | Errno::TXTBSY => (FailKind::Conflict, "is in use"),
            Errno::XDEV => (FailKind::Conflict, "is on another file system"),
            Errno::LOOP => (FailKind::Invalid, "leads through too many or forbidden links"),
            Errno::NAMETOOLONG => (FailKind::Invalid, "is too long"),
            Errno::INVAL => (FailKind::Invalid, "is not possible"),
            Errno::ACCESS | Errno::PERM => (FailKind::Denied, "is not permitted"),
            Errno::ROFS => (FailKind::Denied, "is read-only"),
            Errno::NOSPC | Errno::DQUOT => (FailKind::DiskFull, "does not fit: no space is left"),
            Errno::FBIG => (FailKind::TooLarge, "is too large"),
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
                (FailKind::Exhausted, "needs more than the sandbox has left")
            }
            Errno::AGAIN => (FailKind::Unavailable, "is changing too fast, try again"),
            other => {
                let message = format!("{subject}: error {}", other.raw_os_error());
                return Self::new(FailKind::Internal, message);
            }
        };
        Self::new(kind, format!("{subject} {what}"))
    }

    /// Appends this failure as a message.
    pub(crate) fn write(&self, output: &mut Vec<u8>) {
        let message = self.message.as_str().into();
        encode(&Reply::Failed(Failure { kind: self.kind, message }), output);
    }
}
