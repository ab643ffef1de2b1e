//! Bodies that flow to the server, and a watch on whether they still move.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::BoxStream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::Instant;

use crate::transport::Body;

/// Bytes to send. They are read as fast as the server takes them and never held as a whole.
pub struct Upload(BoxStream<'static, io::Result<Bytes>>);

impl Upload {
    /// A body that is already here.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(futures_util::stream::iter((!bytes.is_empty()).then_some(Ok(bytes))).boxed())
    }

    /// A body that comes in pieces.
    pub fn stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self(stream.boxed())
    }

    /// The pieces, for whoever sends them elsewhere.
    pub fn into_stream(self) -> BoxStream<'static, io::Result<Bytes>> {
        self.0
    }

    pub(crate) fn into_body(self, progress: Progress) -> Body {
        let mut source = self.0;
        let frames = futures_util::stream::poll_fn(move |context| {
            progress.asked();
            let item = source.poll_next_unpin(context);
            if let std::task::Poll::Ready(item) = &item {
                progress.moved(item.as_ref());
            }
            item.map_ok(Frame::data)
        });
        StreamBody::new(frames).boxed_unsync()
    }
}

/// When a flowing body last moved, and whether it is its source that everything waits for.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    last: Instant,
    waiting_for_source: bool,
    source_error: Option<io::Error>,
}

impl Progress {
    pub(crate) fn start() -> Self {
        let state = State { last: Instant::now(), waiting_for_source: false, source_error: None };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) {
        self.state().waiting_for_source = true;
    }

    fn moved(&self, item: Option<&io::Result<Bytes>>) {
        let mut state = self.state();
        state.last = Instant::now();
        state.waiting_for_source = false;
        if let Some(Err(error)) = item {
            state.source_error = Some(io::Error::new(error.kind(), error.to_string()));
        }
    }

    /// The last movement; now, while the source is what everything waits for.
    pub(crate) fn last(&self) -> Instant {
        let state = self.state();
        if state.waiting_for_source { Instant::now() } else { state.last }
    }

    pub(crate) fn take_source_error(&self) -> Option<io::Error> {
        self.state().source_error.take()
    }
}
