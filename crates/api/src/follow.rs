//! A running command as a sequence of steps, for both kinds of stream.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use stacyvm_api_types::{Code, StreamFrame, StreamKind};
use stacyvm_provider::{Exec, ExecEvent, ExecInput, Exit, Output};
use stacyvm_types::SandboxId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::text::Text;

/// The most output that one frame carries.
const MAX_CHUNK: usize = 32 << 10;

/// What happened next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Output, with the offset after it.
    Output(StreamKind, Bytes, u64),
    /// A frame that carries no output of the command.
    Notice(StreamFrame),
    /// The last frame.
    End(StreamFrame),
    /// Nothing, for as long as was asked.
    Quiet,
}

/// Follows a command to its end, or to the server's.
pub(crate) struct Follow {
    sandbox: SandboxId,
    exec: Exec,
    seq: u64,
    ready: VecDeque<Step>,
    stopping: CancellationToken,
}

impl Follow {
    pub(crate) const fn new(
        sandbox: SandboxId,
        exec: Exec,
        seq: u64,
        stopping: CancellationToken,
    ) -> Self {
        Self { sandbox, exec, seq, ready: VecDeque::new(), stopping }
    }

    /// The command's id.
    pub(crate) fn id(&self) -> String {
        self.exec.id.to_string()
    }

    /// What it is told.
    pub(crate) fn input(&self) -> mpsc::Sender<ExecInput> {
        self.exec.input.clone()
    }

    /// Where it stands.
    pub(crate) const fn seq(&self) -> u64 {
        self.seq
    }

    /// The next step. Nothing is lost when the call is dropped.
    pub(crate) async fn next(&mut self, quiet: Duration) -> Step {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return step;
            }
            let event = tokio::select! {
                biased;
                () = self.stopping.cancelled() => {
                    return self.interrupted("the server is stopping; the command goes on");
                }
                event = self.exec.events.next() => event,
                () = tokio::time::sleep(quiet) => return Step::Quiet,
            };
            match event {
                Some(Ok(event)) => self.take(event),
                Some(Err(error)) => {
                    tracing::warn!(exec.id = %self.exec.id, ?error, "a command's channel broke");
                    return self.interrupted("the connection to the command broke");
                }
                None => return self.interrupted("the connection to the command broke"),
            }
        }
    }

    fn take(&mut self, event: ExecEvent) {
        match event {
            ExecEvent::Output { offset, stream, mut data } => {
                let kind = match stream {
                    Output::Stdout => StreamKind::Stdout,
                    Output::Stderr => StreamKind::Stderr,
                };
                self.seq = offset;
                while !data.is_empty() {
                    let chunk = data.split_to(cut(&data));
                    self.seq += chunk.len() as u64;
                    self.ready.push_back(Step::Output(kind, chunk, self.seq));
                }
            }
            ExecEvent::Truncated { resume } => {
                self.seq = resume;
                let frame = StreamFrame::new(StreamKind::Truncated, String::new(), resume);
                self.ready.push_back(Step::Notice(frame));
            }
            ExecEvent::Exit(exit) => {
                if exit == Exit::Timeout {
                    let text = format!("exec timeout: {}", self.sandbox);
                    let frame = StreamFrame::new(StreamKind::Stderr, text, self.seq);
                    self.ready.push_back(Step::Notice(frame));
                }
                let frame = StreamFrame {
                    exit_code: Some(exit.code()),
                    reason: Some(exit.reason().to_owned()),
                    signal: match exit {
                        Exit::Signal(signal) => Some(signal),
                        Exit::Code(_) | Exit::Timeout | Exit::Lost => None,
                    },
                    ..self.last_frame()
                };
                self.ready.push_back(Step::End(frame));
            }
        }
    }

    fn interrupted(&self, why: &str) -> Step {
        Step::End(StreamFrame {
            reason: Some("interrupted".to_owned()),
            code: Some(Code::Unavailable),
            message: Some(format!("{why}; resume at offset {}", self.seq)),
            ..self.last_frame()
        })
    }

    fn last_frame(&self) -> StreamFrame {
        StreamFrame {
            exec_id: Some(self.id()),
            ..StreamFrame::new(StreamKind::Exit, String::new(), self.seq)
        }
    }
}

/// A frame of output.
pub(crate) fn frame(kind: StreamKind, data: &Bytes, seq: u64) -> StreamFrame {
    let Text { text, base64 } = Text::of(data);
    StreamFrame { base64, ..StreamFrame::new(kind, text, seq) }
}

/// How much of `data` fits into a frame without cutting a UTF-8 sequence.
fn cut(data: &[u8]) -> usize {
    if data.len() <= MAX_CHUNK {
        return data.len();
    }
    let continues = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    let longest_tail = 3;
    let end = (MAX_CHUNK - longest_tail..=MAX_CHUNK).rev().find(|end| !continues(data[*end]));
    end.unwrap_or(MAX_CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_never_ends_inside_a_character() {
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"😀".repeat(20_000);
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(cut(rest));
                assert!(std::str::from_utf8(chunk).is_ok() && chunk.len() <= MAX_CHUNK);
                rest = after;
            }
        }
        assert_eq!(cut(&[0x80; 100_000]), MAX_CHUNK, "bytes that are no text are cut anywhere");
    }
}
