//! The archive's bytes on their way from an asynchronous stream to the thread that unpacks them.

use std::{
    io::{self, BufRead, BufReader, Read},
    time::Duration,
};

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use futures_util::StreamExt;
use stacyvm_provider::{ByteStream, Error, ErrorKind, Result};
use tokio::{sync::mpsc, time::timeout};

use super::refusal::{invalid, io_error};

/// Pieces that wait between the two sides.
const QUEUED: usize = 8;

enum Piece {
    Bytes(Bytes),
    Broken(Error),
    End,
}

/// The two ends of a bounded channel for one archive.
pub(super) fn channel() -> (Feeder, Source) {
    let (sender, receiver) = mpsc::channel(QUEUED);
    (Feeder(sender), Source { receiver, piece: Bytes::new(), ended: false })
}

/// The asynchronous end.
pub(super) struct Feeder(mpsc::Sender<Piece>);

impl Feeder {
    /// Hands the stream over until it ends, breaks, stalls, or nobody listens. Dropped half-way,
    /// the other end sees an archive that was broken off.
    pub(super) async fn feed(self, mut stream: ByteStream, stall: Duration) {
        loop {
            let piece = match timeout(stall, stream.next()).await {
                Ok(Some(Ok(bytes))) => Piece::Bytes(bytes),
                Ok(Some(Err(error))) => Piece::Broken(error),
                Ok(None) => Piece::End,
                Err(_) => Piece::Broken(Error::new(
                    ErrorKind::Timeout,
                    format!("no byte of the archive came for {} seconds", stall.as_secs()),
                )),
            };
            let last = !matches!(piece, Piece::Bytes(_));
            if self.0.send(piece).await.is_err() || last {
                return;
            }
        }
    }
}

/// The blocking end.
pub(super) struct Source {
    receiver: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Broken(error)) => return Err(io::Error::other(error)),
                None => {
                    return Err(io::Error::other(Error::new(
                        ErrorKind::Unavailable,
                        "the upload was broken off",
                    )));
                }
            }
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// A plain view of a plain or gzip-compressed archive, of which at most `cap` bytes come out: a
/// compressed bomb is noticed when it is that large, wherever in the stream it hides.
pub(super) fn unpacked<'a>(source: impl Read + 'a, cap: u64) -> Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(128 * 1024, source);
    let start = input.fill_buf().map_err(io_error)?;
    let plain: Box<dyn Read> = match start {
        [0x1f, 0x8b, ..] => {
            Box::new(BufReader::with_capacity(128 * 1024, MultiGzDecoder::new(input)))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(foreign("zstd")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(foreign("xz")),
        [b'B', b'Z', b'h', ..] => return Err(foreign("bzip2")),
        [b'P', b'K', 3, 4, ..] => return Err(foreign("zip")),
        _ => Box::new(input),
    };
    Ok(Box::new(Capped { inner: plain, left: cap, cap }))
}

fn foreign(what: &str) -> Error {
    invalid(&format!("the archive is {what}; a tar archive, plain or gzip-compressed, is wanted"))
}

struct Capped<R> {
    inner: R,
    left: u64,
    cap: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        match self.left.checked_sub(got as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(too_large(self.cap))),
        }
        Ok(got)
    }
}

/// The refusal of an archive that unpacks to more than the cap.
pub(super) fn too_large(cap: u64) -> Error {
    let sentence = format!("the archive unpacks to more than {} MiB", cap / (1024 * 1024));
    Error::new(ErrorKind::TooLarge, sentence)
}
