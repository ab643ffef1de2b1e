//! Files and archives as raw bodies.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::value::RawValue;
use stacyvm_fleet::wire::{
    self, FileEntry, FileParams, FileResult, ImageEntry, ImageParams, Opened, mode_of,
};
use stacyvm_provider::{ByteStream, Error, ErrorKind, FileRead, Guest, Result, WriteOptions};
use tokio::{sync::Mutex, time::timeout};

use super::{
    Call,
    calls::range,
    raw,
    reply::{ndjson, text},
};

/// How long a body that nobody wants is read, until its sender sees the answer.
const UNWANTED: Duration = Duration::from_secs(30);

/// A body that is read here after the guest has given it up.
type Shared = Arc<Mutex<BodyDataStream>>;

/// Writes a body. One that is cut is an error to the guest, and leaves the old file.
pub(super) async fn write(call: Call, body: BodyDataStream) -> Response {
    let body = Arc::new(Mutex::new(body));
    let written = async {
        let params: FileParams = call.envelope.params()?;
        let mode = params.mode.as_deref().map(mode_of).transpose()?;
        let guest = call.guest().await?;
        let info = guest.write(&params.path, WriteOptions { mode }, bytes(&body)).await?;
        let file = FileEntry::new(&info);
        raw(&FileResult { sandbox_id: params.sandbox_id, file, content: None })
    };
    let result = written.await;
    settled(call, body, result)
}

/// Imports an image from a body. One that is cut leaves nothing.
pub(super) async fn import(call: Call, body: BodyDataStream) -> Response {
    let body = Arc::new(Mutex::new(body));
    let imported = async {
        let params: ImageParams = call.envelope.params()?;
        let images = call.rpc.worker().images(&params.provider)?;
        raw(&ImageEntry::new(&images.import(&params.name, bytes(&body)).await?))
    };
    let result = imported.await;
    settled(call, body, result)
}

/// The answer to a call whose body may not have been read to its end.
fn settled(call: Call, body: Shared, result: Result<Option<Box<RawValue>>>) -> Response {
    match result {
        Ok(result) => {
            let line = text(&call.line(result));
            ndjson(StatusCode::OK, Body::from(line))
        }
        Err(error) => {
            call.log(&error);
            let line = Bytes::from(text(&call.fault(&error)));
            let lines = stream::iter([line]).chain(stream::once(discard(body, call)));
            let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
            ndjson(wire::status_of(error.kind), body)
        }
    }
}

fn bytes(body: &Shared) -> ByteStream {
    let pieces = stream::unfold(Arc::clone(body), |body| async move {
        let piece = body.lock().await.next().await?;
        let piece = piece.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the upload broke off").because(error)
        });
        Some((piece, body))
    });
    pieces.boxed()
}

/// Reads what is still being sent, so that its sender lives to see the answer: a connection that
/// is closed with bytes unread is reset. Holds the call's turn until then.
async fn discard(body: Shared, call: Call) -> Bytes {
    let mut body = body.lock().await;
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    let _ = timeout(UNWANTED, rest).await;
    drop(call);
    Bytes::new()
}

/// Answers with the file's bytes.
pub(super) async fn read(call: Call, takes_trailers: bool) -> Response {
    let opened = async {
        let params: FileParams = call.envelope.params()?;
        let guest = call.guest().await?;
        let read = guest.read(&params.path, range(&params)).await?;
        let (file, range) = (FileEntry::new(&read.info), read.range.clone());
        let reply = call.line(raw(&Opened { file, start: range.start, end: range.end })?);
        let envelope = wire::to_header(&reply).map_err(|error| {
            Error::new(ErrorKind::Internal, "the answer cannot be written").because(error)
        })?;
        Ok::<_, Error>((envelope, read, guest))
    };
    let (envelope, read, guest) = match call.in_time(opened).await {
        Ok(opened) => opened,
        Err(error) => return call.failure(&error),
    };
    let mut response = Response::new(raw_body(call, read, guest, takes_trailers));
    let headers = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    headers.insert(wire::ENVELOPE, envelope);
    headers.insert(header::TRAILER, HeaderValue::from(wire::TRAILER));
    response
}

/// The bytes, and where they break off inside the sandbox a trailer that says why.
fn raw_body(call: Call, read: FileRead, guest: Arc<dyn Guest>, takes_trailers: bool) -> Body {
    let state = (Some(read.body), call, guest);
    let frames = stream::unfold(state, move |(body, call, guest)| async move {
        let mut body = body?;
        let frame: Result<_> = match body.next().await? {
            Ok(data) => return Some((Ok(Frame::data(data)), (Some(body), call, guest))),
            Err(error) => {
                call.log(&error);
                match wire::to_header(&call.fault(&error)) {
                    Ok(reply) if takes_trailers => {
                        let trailers = HeaderMap::from_iter([(wire::TRAILER, reply)]);
                        Ok(Frame::trailers(trailers))
                    }
                    _ => Err(error),
                }
            }
        };
        Some((frame, (None, call, guest)))
    });
    Body::new(StreamBody::new(frames))
}
