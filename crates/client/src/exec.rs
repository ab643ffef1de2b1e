//! Commands that are waited for, and commands that are followed.

use std::pin::Pin;

use futures_util::{
    Stream,
    stream::{self, BoxStream, StreamExt},
};
use http::{HeaderValue, Method, header};
use stacyvm_api_types::{ExecReply, ExecRequest, StreamFrame};
use stacyvm_types::{ExecId, SandboxId};

use crate::{
    Answer, Client, Error, Frame, Result,
    frames::{Position, Step},
    lines::Lines,
    server::Target,
    transport::{Call, flowing},
};

/// A running command's output as a stream of frames. It ends after [`Frame::Exit`].
///
/// A broken connection is taken up again at the offset that was reached, for `reconnect_timeout` without any
/// progress. Dropping it leaves the command running: follow it again with [`Client::attach`].
pub struct ExecStream {
    id: ExecId,
    frames: BoxStream<'static, Result<Frame>>,
}

impl ExecStream {
    /// The command's id.
    pub const fn id(&self) -> &ExecId {
        &self.id
    }
}

impl Stream for ExecStream {
    type Item = Result<Frame>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.frames.poll_next_unpin(context)
    }
}

impl Client {
    /// Runs a command and waits for its end. Its output is cut at 8 MiB per stream by the server;
    /// a deadline is an error with the code `TIMEOUT`. There is no other limit on the wait.
    pub async fn exec(&self, id: &SandboxId, request: &ExecRequest) -> Result<Answer<ExecReply>> {
        let request = ExecRequest { stream: Some(false), ..with_id(request) };
        let target = Target::new("/sandboxes").segment(id.as_str()).segment("exec");
        self.ask(Call::new(Method::POST, target).json(&request)?.repeatable().endless()).await
    }

    /// Starts a command and follows its output.
    pub async fn exec_stream(&self, id: &SandboxId, request: &ExecRequest) -> Result<ExecStream> {
        let request = ExecRequest { stream: Some(true), ..with_id(request) };
        let exec = exec_id(&request)?;
        let target = Target::new("/sandboxes").segment(id.as_str()).segment("exec");
        let call = Call::new(Method::POST, target).json(&request)?.repeatable();
        let call = call.header(header::ACCEPT, HeaderValue::from_static("application/x-ndjson"));
        let answer = self.send(call).await?;
        let lines = Lines::new(flowing(answer.into_body()));
        Ok(self.follow(id, exec, Some(lines), Position::at(0, self.settings.reconnect_timeout)))
    }

    /// Follows a command that was started before, from a byte offset.
    pub async fn attach(&self, id: &SandboxId, exec: &ExecId, offset: u64) -> Result<ExecStream> {
        let lines = self.open(id, exec, offset).await?;
        let position = Position::at(offset, self.settings.reconnect_timeout);
        Ok(self.follow(id, exec.clone(), Some(lines), position))
    }

    async fn open(&self, id: &SandboxId, exec: &ExecId, offset: u64) -> Result<Lines> {
        let target = Target::new("/sandboxes").segment(id.as_str()).segment("exec");
        let target = target.segment(exec.as_str()).query("offset", &offset.to_string());
        let answer = self.send(Call::get(target)).await?;
        Ok(Lines::new(flowing(answer.into_body())))
    }

    fn follow(
        &self,
        id: &SandboxId,
        exec: ExecId,
        lines: Option<Lines>,
        position: Position,
    ) -> ExecStream {
        let state = Following {
            client: self.clone(),
            sandbox: id.clone(),
            exec: exec.clone(),
            lines,
            position,
            ended: false,
        };
        let frames = stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|frame| (frame, state)))
        });
        ExecStream { id: exec, frames: frames.boxed() }
    }
}

struct Following {
    client: Client,
    sandbox: SandboxId,
    exec: ExecId,
    lines: Option<Lines>,
    position: Position,
    ended: bool,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Frame>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let trouble = match &mut self.lines {
                Some(lines) => match lines.next().await {
                    Ok(Some(line)) if line.is_empty() => continue,
                    Ok(Some(line)) => match self.position.take(parse(&line)?)? {
                        Step::Give(frame) => {
                            self.ended = matches!(frame, Frame::Exit { .. });
                            return Ok(Some(frame));
                        }
                        Step::Skip => continue,
                        Step::Resume(why) => Error::Broken(why.into()),
                    },
                    Ok(None) => Error::Broken("the stream ended without an exit frame".into()),
                    Err(error) => error,
                },
                None => {
                    let offset = self.position.offset;
                    match self.client.open(&self.sandbox, &self.exec, offset).await {
                        Ok(lines) => {
                            self.lines = Some(lines);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
            };
            self.lines = None;
            self.position.after(trouble).await?;
        }
    }
}

/// The frame on a line. A line that was cut by a break is not complete JSON: that is a break.
fn parse(line: &[u8]) -> Result<StreamFrame> {
    serde_json::from_slice(line).map_err(|error| match error.is_eof() {
        true => Error::Broken("the stream was cut inside a frame".into()),
        false => Error::Unexpected(format!("a frame cannot be read: {error}")),
    })
}

/// The request with an id, so that sending it again starts nothing a second time.
pub(crate) fn with_id(request: &ExecRequest) -> ExecRequest {
    let mut request = request.clone();
    if request.exec_id.is_none() {
        request.exec_id = Some(ExecId::from_entropy(rand::random()).to_string());
    }
    request
}

pub(crate) fn exec_id(request: &ExecRequest) -> Result<ExecId> {
    let text = request.exec_id.as_deref().unwrap_or_default();
    ExecId::parse(text).map_err(|e| Error::Invalid(e.to_string()))
}
