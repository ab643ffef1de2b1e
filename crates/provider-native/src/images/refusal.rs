//! Why an import fails, in sentences for the person who sent the archive.

use std::io;

use rustix::io::Errno;
use stacyvm_provider::{Error, ErrorKind, Result};

/// An archive that cannot be right.
pub(super) fn invalid(sentence: &str) -> Error {
    Error::new(ErrorKind::Invalid, sentence)
}

/// Refuses one entry, named as safely as possible.
pub(super) fn refuse<T>(kind: ErrorKind, path: &[u8], sentence: &str) -> Result<T> {
    Err(Error::new(kind, format!("the archive's entry {}: {sentence}", show(path))))
}

/// A name out of an archive for a message: quoted, escaped, cut.
pub(super) fn show(path: &[u8]) -> String {
    const SHOWN: usize = 100;
    let text = String::from_utf8_lossy(path);
    let cut: String = text.chars().take(SHOWN).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

/// A failed read of the archive. Errors of ours that travelled through a reader come out again.
pub(super) fn io_error(error: io::Error) -> Error {
    let ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    if ours && let Some(inner) = error.into_inner() {
        return match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => broken(other),
        };
    }
    invalid("the gzip stream is damaged or cut short")
}

fn broken(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Unavailable, "the archive could not be read").because(source)
}

/// The host's answer to a system call.
pub(super) fn host(what: &'static str, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    let full = [Errno::NOSPC, Errno::DQUOT].map(Errno::raw_os_error);
    match error.raw_os_error() {
        Some(code) if full.contains(&code) => {
            Error::new(ErrorKind::DiskFull, "the host's disk for images is full").because(error)
        }
        _ => {
            Error::new(ErrorKind::Internal, format!("the image could not be {what}")).because(error)
        }
    }
}
