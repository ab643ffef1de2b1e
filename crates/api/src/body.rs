//! Request bodies: bounded in size, and bounded in how long they may stand still.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use stacyvm_api_types::Code;
use stacyvm_provider::{self as provider, ByteStream};
use tokio::{sync::Mutex, time::Sleep};

use crate::problem::{Problem, Result};

/// A body that fails when it makes no progress for a while. Only the time in which somebody waits
/// for it counts, so a slow disk on our side is not held against the sender.
pub(crate) struct Patient {
    inner: Body,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(crate) const fn new(inner: Body, patience: Duration) -> Self {
        Self { inner, patience, timer: None }
    }
}

/// The sender stood still for too long.
#[derive(Debug)]
struct Stalled(Duration);

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request body made no progress for {:?}", self.0)
    }
}

impl StdError for Stalled {}

impl http_body::Body for Patient {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.timer = None;
            return Poll::Ready(frame);
        }
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(axum::Error::new(Stalled(patience)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

fn broken(error: &axum::Error) -> Problem {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(stalled) = error.downcast_ref::<Stalled>() {
            return Problem::new(Code::Timeout, stalled.to_string());
        }
        source = error.source();
    }
    Problem::bad_request("the request body broke off")
}

fn too_large(limit: u64) -> Problem {
    let message = format!("the request body is larger than {limit} bytes");
    Problem::new(Code::PayloadTooLarge, message)
}

/// Compressed bodies could be bombs, and nobody needs them here.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<()> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let message = "compressed request bodies are not taken; send it as it is";
            Err(Problem::new(Code::UnsupportedMediaType, message))
        }
        _ => Ok(()),
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body.
pub(crate) async fn read(headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Bytes> {
    check_encoding(headers)?;
    let limit_bytes = limit as u64;
    let mut whole = BytesMut::new();
    if announced(headers).is_some_and(|length| limit_bytes < length) {
        discard(body).await;
        return Err(too_large(limit_bytes));
    }
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        if limit < whole.len() + data.len() {
            discard(body).await;
            return Err(too_large(limit_bytes));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads on for a while, so that a client that is still sending gets to see the answer instead of
/// a reset connection.
async fn discard(body: Body) {
    discard_rest(&mut body.into_data_stream()).await;
}

async fn discard_rest(body: &mut BodyDataStream) {
    const MOST: usize = 8 << 20;
    const LONGEST: Duration = Duration::from_secs(2);
    let mut left = MOST;
    let drain = async {
        while let Some(Ok(data)) = body.next().await {
            left = left.saturating_sub(data.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whether it was drained in time changes nothing.
    let _ = tokio::time::timeout(LONGEST, drain).await;
}

/// A body that flows to a provider. Its own failures are remembered here, because on their way
/// through the provider they lose what HTTP needs to know.
pub(crate) struct Upload {
    failure: Arc<OnceLock<Problem>>,
    /// Outlives whoever gives it up.
    body: Arc<Mutex<BodyDataStream>>,
}

impl Upload {
    /// Takes the body of an upload apart.
    pub(crate) async fn new(
        headers: &HeaderMap,
        body: Body,
        limit: u64,
    ) -> Result<(Self, ByteStream)> {
        check_encoding(headers)?;
        if announced(headers).is_some_and(|length| limit < length) {
            discard(body).await;
            return Err(too_large(limit));
        }
        let failure = Arc::new(OnceLock::new());
        let seen = Arc::clone(&failure);
        let mut total: u64 = 0;
        let body = Arc::new(Mutex::new(body.into_data_stream()));
        let pieces = stream::unfold(Arc::clone(&body), |body| async move {
            let piece = body.lock().await.next().await?;
            Some((piece, body))
        });
        let stream = pieces.map(move |piece| {
            let piece = piece.map_err(|error| broken(&error)).and_then(|data| {
                total = total.saturating_add(data.len() as u64);
                if limit < total { Err(too_large(limit)) } else { Ok(data) }
            });
            piece.map_err(|problem| {
                let error = provider::Error::new(provider::ErrorKind::Invalid, &problem.message);
                // Only the first failure counts.
                let _ = seen.set(problem);
                error
            })
        });
        Ok((Self { failure, body }, stream.boxed()))
    }

    /// The result of the upload: the body's own failure wins over what it led to. A refusal that
    /// comes before the end of the body waits for the sender, who would not see it otherwise.
    pub(crate) async fn settle<T>(self, result: stacyvm_control::Result<T>) -> Result<T> {
        if result.is_err()
            && let Ok(mut body) = self.body.try_lock()
        {
            discard_rest(&mut body).await;
        }
        result.map_err(|error| match self.failure.get() {
            Some(problem) => Problem::new(problem.code, problem.message.clone()),
            None => error.into(),
        })
    }
}
