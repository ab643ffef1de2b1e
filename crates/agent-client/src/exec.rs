//! Commands: the stream of what they say, and the task that tells them what they are told.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use stacyvm_agent_proto::{Input, MAX_CHUNK, Reply, encode};
use stacyvm_provider::{Exec, ExecEvent, ExecInput, Output, Result};
use stacyvm_types::ExecId;
use tokio::sync::mpsc;

use crate::{
    reply,
    stream::{Line, Messages, broken, nonsense},
};

/// Inputs that wait for the agent before their sender does.
const INPUTS: usize = 8;

/// A started command on its stream.
pub(crate) fn follow(id: ExecId, messages: Messages, offset: u64) -> Exec {
    let (input, inputs) = mpsc::channel(INPUTS);
    // The task does not own the stream, which ends with the events whatever the inputs do.
    let line = messages.stream.line().clone();
    messages.stream.session().spawn(tell(inputs, line));
    Exec { id, events: events(messages, offset), input }
}

/// Passes inputs on until the events or the inputs are dropped.
async fn tell(mut inputs: mpsc::Receiver<ExecInput>, line: Line) {
    while let Some(input) = inputs.recv().await {
        let mut bytes = Vec::new();
        match input {
            ExecInput::Data(data) => {
                for piece in data.chunks(MAX_CHUNK) {
                    let data = stacyvm_agent_proto::Bytes(piece);
                    encode(&Input::Data(data), &mut bytes);
                }
            }
            ExecInput::Eof => encode(&Input::Eof, &mut bytes),
            ExecInput::Signal(signal) => encode(&Input::Signal(signal), &mut bytes),
            ExecInput::Resize(size) => {
                encode(&Input::Resize { rows: size.rows, cols: size.cols }, &mut bytes);
            }
        }
        if line.send_all(&bytes).await.is_err() {
            return;
        }
    }
}

struct Following {
    messages: Messages,
    next: u64,
    over: bool,
}

fn events(messages: Messages, offset: u64) -> BoxStream<'static, Result<ExecEvent>> {
    let following = Following { messages, next: offset, over: false };
    stream::unfold(following, async |mut following| {
        if following.over {
            return None;
        }
        let event = following.next_event().await;
        following.over = matches!(event, Ok(ExecEvent::Exit(_)) | Err(_));
        Some((event, following))
    })
    .boxed()
}

impl Following {
    async fn next_event(&mut self) -> Result<ExecEvent> {
        let expected = self.next;
        let event = self.messages.next_with(|reply| event(reply, expected)).await?;
        let event = event.ok_or_else(broken)?;
        match &event {
            ExecEvent::Output { data, .. } => self.next += data.len() as u64,
            ExecEvent::Truncated { resume } => self.next = *resume,
            ExecEvent::Exit(_) => {}
        }
        Ok(event)
    }
}

/// One event, which must go on where the last one stopped.
fn event(reply: Reply<'_>, expected: u64) -> Result<ExecEvent> {
    match reply {
        Reply::Output { offset, stderr, data } => {
            let length = data.0.len() as u64;
            if offset != expected || length == 0 || offset.checked_add(length).is_none() {
                return Err(nonsense());
            }
            let stream = if stderr { Output::Stderr } else { Output::Stdout };
            Ok(ExecEvent::Output { offset, stream, data: Bytes::copy_from_slice(data.0) })
        }
        Reply::Truncated { resume } if expected < resume => Ok(ExecEvent::Truncated { resume }),
        Reply::Exit(end) => reply::exit(end).map(ExecEvent::Exit),
        _ => Err(nonsense()),
    }
}
