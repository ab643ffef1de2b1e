//! One stream of a session, as bytes and as messages.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use stacyvm_agent_proto::{Decoder, Reply, Request, StreamId, decode, encode};
use stacyvm_provider::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    reply,
    session::{Inbox, Session, Shared},
};

/// How long an agent may take for an answer, or to take what it is sent.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// Streams of one session; more go to another one. Agents refuse the 257th, also while they still
/// have to hear that an older one was dropped.
const MAX_OPEN: usize = 224;

/// A stream; dropping it tells the agent to drop it, too.
pub(crate) struct Stream {
    line: Line,
    session: Arc<Session>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.session.shared.release(self.line.id);
    }
}

/// A way to use a stream without owning it: once the owner is gone, everything fails.
#[derive(Clone)]
pub(crate) struct Line {
    shared: Arc<Shared>,
    id: StreamId,
}

/// The error of a channel that broke while something was under way.
pub(crate) fn broken() -> Error {
    Error::unknown(ErrorKind::Unavailable, "the connection to the sandbox broke")
}

/// The error of an agent that says what no agent may say.
pub(crate) fn nonsense() -> Error {
    Error::unknown(ErrorKind::Unavailable, "the sandbox's agent answered nonsense")
}

/// The error of an agent that takes too long.
pub(crate) fn late() -> Error {
    Error::unknown(ErrorKind::Timeout, "the sandbox's agent did not answer in time")
}

impl Stream {
    /// Opens a stream and sends its first bytes; `None` when the session takes no more streams.
    pub(crate) fn open(session: &Arc<Session>, first: &[u8]) -> Option<(Self, usize)> {
        let mut state = session.shared.lock();
        if state.closed || MAX_OPEN <= state.inboxes.len() {
            return None;
        }
        let (id, sent) = state.mux.open(first)?;
        state.inboxes.insert(id, Inbox::default());
        session.shared.flush(&mut state);
        drop(state);
        let line = Line { shared: Arc::clone(&session.shared), id };
        Some((Self { line, session: Arc::clone(session) }, sent))
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) const fn line(&self) -> &Line {
        &self.line
    }
}

impl Line {
    /// Takes what arrived; an empty answer is the end.
    fn poll_take(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let Some(inbox) = state.inboxes.get_mut(&self.id) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if inbox.bytes.is_empty() {
            if inbox.ended {
                return Poll::Ready(Ok(Vec::new()));
            }
            if inbox.reset || state.closed {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            inbox.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = if inbox.bytes.len() <= most {
            std::mem::take(&mut inbox.bytes)
        } else {
            let rest = inbox.bytes.split_off(most);
            std::mem::replace(&mut inbox.bytes, rest)
        };
        state.mux.consumed(self.id, bytes.len());
        self.shared.flush(state);
        Poll::Ready(Ok(bytes))
    }

    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let reset = state.inboxes.get(&self.id).is_none_or(|inbox| inbox.reset);
        if reset || state.closed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let sent = state.mux.send(self.id, bytes);
        if matches!(sent, Ok(0))
            && !bytes.is_empty()
            && let Some(inbox) = state.inboxes.get_mut(&self.id)
        {
            // Before the flush: the room that it makes is told once, to those who wait by then.
            inbox.writer = Some(cx.waker().clone());
        }
        self.shared.flush(state);
        match sent {
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Ok(0) if !bytes.is_empty() => Poll::Pending,
            Ok(sent) => Poll::Ready(Ok(sent)),
        }
    }

    /// Sends all of `bytes`, however long the agent takes.
    pub(crate) async fn send_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| self.poll_send(cx, bytes)).await.map_err(|_| broken())?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Says that no more will be sent.
    pub(crate) fn finish(&self) {
        let mut state = self.shared.lock();
        state.mux.finish(self.id);
        self.shared.flush(&mut state);
    }
}

/// A stream on which messages are exchanged.
pub(crate) struct Messages {
    pub(crate) stream: Stream,
    decoder: Decoder,
}

impl Messages {
    /// Sends a request as the first message of a new stream. `None` when a new session is needed.
    pub(crate) async fn request(
        session: &Arc<Session>,
        request: &Request<'_>,
    ) -> Option<Result<Self>> {
        let mut bytes = Vec::new();
        encode(request, &mut bytes);
        let (stream, sent) = Stream::open(session, &bytes)?;
        if sent < bytes.len() {
            match tokio::time::timeout(ANSWER, stream.line().send_all(&bytes[sent..])).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Some(Err(error)),
                Err(_) => return Some(Err(late())),
            }
        }
        Some(Ok(Self { stream, decoder: Decoder::default() }))
    }

    /// Waits for the next message, without a limit of its own, and gives it to `read`. A failure
    /// that the agent tells is the error; the end of the stream is `None`.
    pub(crate) async fn next_with<T>(
        &mut self,
        read: impl FnOnce(Reply<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        loop {
            if let Some(raw) = self.decoder.next_raw().map_err(|_| nonsense())? {
                return match decode::<Reply<'_>>(raw).map_err(|_| nonsense())? {
                    Reply::Failed(failure) => Err(reply::error(&failure)),
                    reply => read(reply).map(Some),
                };
            }
            let bytes = poll_fn(|cx| self.stream.line().poll_take(cx, usize::MAX)).await;
            let bytes = bytes.map_err(|_| broken())?;
            if bytes.is_empty() {
                return if self.decoder.is_empty() { Ok(None) } else { Err(broken()) };
            }
            self.decoder.push(&bytes);
        }
    }

    /// Waits for a message that must come, and soon.
    pub(crate) async fn answer<T>(
        &mut self,
        read: impl FnOnce(Reply<'_>) -> Result<T>,
    ) -> Result<T> {
        match tokio::time::timeout(ANSWER, self.next_with(read)).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(broken()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late()),
        }
    }

    /// Goes on with bare bytes.
    pub(crate) fn into_channel(mut self) -> Channel {
        Channel { stream: self.stream, rest: self.decoder.take_rest() }
    }
}

/// A stream of bare bytes both ways.
pub(crate) struct Channel {
    stream: Stream,
    rest: Vec<u8>,
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.rest.is_empty() {
            let length = self.rest.len().min(buffer.remaining());
            buffer.put_slice(&self.rest[..length]);
            self.rest.drain(..length);
            return Poll::Ready(Ok(()));
        }
        match self.stream.line().poll_take(cx, buffer.remaining()) {
            Poll::Ready(Ok(bytes)) => {
                buffer.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.line().poll_send(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was taken is on its way already.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.line().finish();
        Poll::Ready(Ok(()))
    }
}
