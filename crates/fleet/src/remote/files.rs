//! Bodies of files, as raw bytes beside their envelope, and bytes of ports.

use std::{
    io,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use stacyvm_provider::{ByteStream, Duplex, Error, ErrorKind, FileInfo, FileRead, Result};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::{
    call::{Call, CallId, json},
    link::{Answer, Broken, Lent, Link, Outgoing, Turn},
};
use crate::{
    idle::Movement,
    wire::{self, Fault, FileResult, Lines, Opened, Reply},
};

/// How long a transfer may stand still. A worker gives up before that and says why.
const STILL: Duration = Duration::from_secs(45);
/// How long the end of an answer may take after its last line.
const REST: Duration = Duration::from_secs(2);

/// Opens a file and hands its bytes on as they arrive.
pub(crate) async fn read(link: &Arc<Link>, call: Call) -> Result<FileRead> {
    let mut headers = json();
    headers.push((wire::STREAM, HeaderValue::from_static("raw")));
    headers.push((header::TE, HeaderValue::from_static("trailers")));
    let outgoing =
        Outgoing { method: call.method, turn: Turn::Stream, headers, body: call.body()? };
    let limit = wire::patience(call.method);
    let sent = timeout(limit, link.send(outgoing)).await;
    let Answer { response, lent } = sent.unwrap_or_else(|_| Err(link.silent(limit)))?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(link.failure(&call, head.status, body).await);
    }
    let envelope = head.headers.get(wire::ENVELOPE).ok_or_else(|| link.nonsense())?;
    let reply: Reply =
        wire::from_header(envelope).map_err(|error| link.nonsense().because(error))?;
    let opened: Opened = link.result(&call.id, head.status, reply)?;
    if opened.end < opened.start {
        return Err(link.nonsense());
    }
    let (range, info) = (opened.start..opened.end, opened.file.info()?);
    let body = Pieces { call: call.id, left: range.end - range.start, body: Some((body, lent)) };
    let body = stream::unfold(body, |mut body| async move {
        let piece = body.next().await?;
        Some((piece, body))
    });
    Ok(FileRead { info, range, body: body.boxed() })
}

struct Pieces {
    call: CallId,
    /// What may still come.
    left: u64,
    body: Option<(Incoming, Lent)>,
}

impl Pieces {
    /// The next bytes; an error is the last item.
    async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            let (mut body, lent) = self.body.take()?;
            let link = Arc::clone(lent.link());
            let frame = match timeout(STILL, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Some(Err(link.broke_off().because(error))),
                Ok(None) => {
                    lent.give_back();
                    return None;
                }
                Err(_) => return Some(Err(link.silent(STILL))),
            };
            if let Some(reply) = frame.trailers_ref().and_then(|t| t.get(wire::TRAILER)) {
                return Some(Err(self.told(&link, reply)));
            }
            self.body = Some((body, lent));
            let Ok(data) = frame.into_data() else { continue };
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                self.body = None;
                return Some(Err(link.nonsense()));
            };
            self.left = left;
            return Some(Ok(data));
        }
    }

    fn told(&self, link: &Link, reply: &HeaderValue) -> Error {
        let told =
            wire::from_header::<Reply>(reply).map_err(|error| link.nonsense().because(error));
        let read = told.and_then(|reply| {
            let failed = Fault::error(&reply, StatusCode::INTERNAL_SERVER_ERROR);
            link.result::<()>(&self.call, StatusCode::OK, reply)?;
            failed.map_or(Ok(()), Err)
        });
        read.err().unwrap_or_else(|| link.nonsense())
    }
}

/// Sends a file.
pub(crate) async fn write(link: &Arc<Link>, call: Call, body: ByteStream) -> Result<FileInfo> {
    let written: FileResult = send(link, call, body).await?;
    written.file.info()
}

/// Sends a body; the result of the call. A body that ends early cuts the connection, so that the
/// worker never takes a part for the whole.
pub(crate) async fn send<R: DeserializeOwned>(
    link: &Arc<Link>,
    call: Call,
    body: ByteStream,
) -> Result<R> {
    let movement = Movement::default();
    let own = Arc::new(Mutex::new(None));
    let frames = movement.watch(body).map({
        let own = Arc::clone(&own);
        move |piece| match piece {
            Ok(data) => Ok(Frame::data(data)),
            Err(error) => {
                *own.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(Broken)
            }
        }
    });
    let (name, envelope) = call.header()?;
    let octets = HeaderValue::from_static("application/octet-stream");
    let outgoing = Outgoing {
        method: call.method,
        turn: Turn::Stream,
        headers: vec![(header::CONTENT_TYPE, octets), (name, envelope)],
        body: StreamBody::new(frames).boxed_unsync(),
    };
    let before = link.failed_at();
    let written = movement.bound(STILL, answered(link, &call.id, outgoing)).await;
    // The caller's own failure is what it has to hear.
    let failed = own.lock().unwrap_or_else(PoisonError::into_inner).take();
    match failed {
        Some(error) => {
            link.not_its_failure(before);
            Err(error)
        }
        None => written,
    }
}

/// The first line of an answer that may come while the request is still being sent.
async fn answered<R: DeserializeOwned>(
    link: &Arc<Link>,
    id: &CallId,
    outgoing: Outgoing,
) -> Result<R> {
    let Answer { response, lent } = link.send(outgoing).await?;
    let (head, mut body) = response.into_parts();
    let mut lines = Lines::new(wire::MAX_LINE);
    loop {
        match lines.take_line() {
            Ok(Some(line)) => {
                let result = link.read(id, head.status, &line);
                // A worker that refuses reads on until it sees that nobody sends any more.
                if result.is_ok() {
                    link.afterwards(async move {
                        let end = timeout(REST, body.frame()).await;
                        if matches!(end, Ok(None)) {
                            lent.give_back();
                        }
                    });
                }
                return result;
            }
            Ok(None) => {}
            Err(error) => return Err(link.nonsense().because(error)),
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    lines.push(data);
                }
            }
            Some(Err(error)) => return Err(link.broke_off().because(error)),
            // An answer without the end of its line is one too.
            None if !head.status.is_success() => return link.read(id, head.status, b""),
            None => return Err(link.broke_off()),
        }
    }
}

/// Connects to a port inside.
pub(crate) async fn dial(link: &Arc<Link>, call: Call) -> Result<Box<dyn Duplex>> {
    let (name, envelope) = call.header()?;
    let headers = vec![
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(wire::UPGRADE)),
        (name, envelope),
    ];
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let outgoing = Outgoing { method: call.method, turn: Turn::Stream, headers, body };
    let upgraded = async {
        let Answer { response, lent } = link.send(outgoing).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, body) = response.into_parts();
            return Err(link.failure(&call, head.status, body).await);
        }
        let upgraded = hyper::upgrade::on(response).await;
        let io = TokioIo::new(upgraded.map_err(|error| link.broke_off().because(error))?);
        Ok(Box::new(Dialled { io, _lent: lent }) as Box<dyn Duplex>)
    };
    let limit = wire::patience(call.method);
    timeout(limit, upgraded).await.unwrap_or_else(|_| Err(link.silent(limit)))
}

/// What a range asks for on the wire.
pub(crate) fn bounds(range: Option<Range<u64>>) -> Result<(Option<u64>, Option<u64>)> {
    match range {
        Some(range) if range.end < range.start => {
            Err(Error::new(ErrorKind::Invalid, "the range ends before it starts"))
        }
        Some(range) => Ok((Some(range.start), Some(range.end))),
        None => Ok((None, None)),
    }
}

/// A dialled port; its connection and its turn end with it.
struct Dialled {
    io: TokioIo<Upgraded>,
    _lent: Lent,
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
