//! What a command says on its way to a client, and how a broken way is taken up again.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use stacyvm_api_types::{StreamFrame, StreamKind};
use tokio::time::Instant;

use crate::{Error, Result};

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it came from.
    pub stream: OutputStream,
    /// The bytes.
    pub data: Bytes,
    /// The command's output offset after this piece.
    pub seq: u64,
}

/// What a command says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Output.
    Output(Chunk),
    /// Output before this offset was lost while nobody was reading.
    Truncated {
        /// Where output goes on.
        seq: u64,
    },
    /// The end; nothing follows.
    Exit {
        /// The exit code as a shell shows it.
        code: i32,
        /// `exit`, `signal`, `timeout` or `lost`.
        reason: String,
        /// The signal, if one ended it.
        signal: Option<i32>,
    },
}

/// What a wire frame asks its reader to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Give(Frame),
    /// The way to the command broke; the command goes on.
    Resume(String),
    /// A frame of a kind that is newer than this client.
    Skip,
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where a reader of a command's output stands, over as many connections as it takes.
#[derive(Debug)]
pub(crate) struct Position {
    pub(crate) offset: u64,
    trouble_since: Option<Instant>,
    pause: Duration,
    patience: Duration,
}

impl Position {
    /// At an offset; a broken way is tried again for as long as `patience` before it is lost.
    pub(crate) const fn at(offset: u64, patience: Duration) -> Self {
        Self { offset, trouble_since: None, pause: FIRST_PAUSE, patience }
    }

    /// Takes a frame and moves on.
    pub(crate) fn take(&mut self, wire: StreamFrame) -> Result<Step> {
        let seq = wire.seq;
        let stream = match wire.stream {
            StreamKind::Stdout => OutputStream::Stdout,
            StreamKind::Stderr => OutputStream::Stderr,
            StreamKind::Truncated => {
                self.progress(seq);
                return Ok(Step::Give(Frame::Truncated { seq }));
            }
            StreamKind::Exit => return exit(wire),
            StreamKind::Unknown => return Ok(Step::Skip),
        };
        let data = match wire.base64 {
            None => wire.data.into(),
            Some(text) => STANDARD.decode(text).map(Bytes::from).map_err(|error| {
                Error::Unexpected(format!("a frame whose base64 cannot be read: {error}"))
            })?,
        };
        self.progress(seq);
        Ok(Step::Give(Frame::Output(Chunk { stream, data, seq })))
    }

    /// Takes raw output of a terminal.
    pub(crate) fn take_bytes(&mut self, data: Bytes) -> Step {
        let seq = self.offset + data.len() as u64;
        self.progress(seq);
        Step::Give(Frame::Output(Chunk { stream: OutputStream::Stdout, data, seq }))
    }

    fn progress(&mut self, seq: u64) {
        self.offset = self.offset.max(seq);
        self.trouble_since = None;
        self.pause = FIRST_PAUSE;
    }

    /// Waits before the next try, or gives the trouble back when there was too much of it.
    pub(crate) async fn after(&mut self, trouble: Error) -> Result<()> {
        let since = *self.trouble_since.get_or_insert_with(Instant::now);
        if !trouble.is_retryable() || self.patience < since.elapsed() {
            return Err(trouble);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
        Ok(())
    }
}

fn exit(wire: StreamFrame) -> Result<Step> {
    let reason = wire.reason.unwrap_or_else(|| "exit".to_owned());
    match wire.exit_code {
        Some(code) => Ok(Step::Give(Frame::Exit { code, reason, signal: wire.signal })),
        None if reason == "interrupted" => {
            let why = wire.message.unwrap_or_else(|| "the stream was interrupted".to_owned());
            Ok(Step::Resume(why))
        }
        None => Err(Error::Unexpected(format!("an exit frame without a code, reason {reason:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(text: &str) -> StreamFrame {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_offset_to_resume_at_is_that_of_the_last_frame() {
        let mut at = Position::at(0, PATIENCE);
        for (text, offset) in [
            (r#"{"stream":"stdout","data":"abc","seq":3}"#, 3),
            (r#"{"stream":"truncated","data":"","seq":90}"#, 90),
            (r#"{"stream":"stderr","data":"exec timeout: sb","seq":90}"#, 90),
        ] {
            assert!(matches!(at.take(wire(text)).unwrap(), Step::Give(_)));
            assert_eq!(at.offset, offset);
        }
    }

    #[test]
    fn output_that_is_no_text_arrives_byte_by_byte() {
        let mut at = Position::at(0, PATIENCE);
        let frame = r#"{"stream":"stdout","data":"a\ufffd","base64":"Yf8=","seq":2}"#;
        let Step::Give(Frame::Output(chunk)) = at.take(wire(frame)).unwrap() else { panic!() };
        assert_eq!(&chunk.data[..], b"a\xff");
        let broken = r#"{"stream":"stdout","data":"a","base64":"!","seq":3}"#;
        assert!(at.take(wire(broken)).is_err());
        assert_eq!(at.offset, 2, "a frame that cannot be read does not count");
    }

    #[test]
    fn an_interrupted_stream_is_resumed_and_an_unknown_frame_is_skipped() {
        let mut at = Position::at(0, PATIENCE);
        let text = r#"{"stream":"exit","data":"","seq":0,"reason":"interrupted","message":"m"}"#;
        assert_eq!(at.take(wire(text)).unwrap(), Step::Resume("m".to_owned()));
        assert_eq!(at.take(wire(r#"{"stream":"new","data":"x"}"#)).unwrap(), Step::Skip);
        assert!(at.take(wire(r#"{"stream":"exit","reason":"exit"}"#)).is_err());
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn trouble_without_progress_ends_after_half_a_minute() {
        let mut at = Position::at(0, PATIENCE);
        let start = Instant::now();
        while at.after(Error::Broken("cut".into())).await.is_ok() {}
        let waited = start.elapsed();
        assert!(PATIENCE < waited && waited < PATIENCE + 2 * LONGEST_PAUSE, "{waited:?}");
        assert!(at.after(Error::Invalid("no".to_owned())).await.is_err());
    }
}
