//! Bodies that may take long as a whole but never stand still for long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use stacyvm_provider::{ByteStream, Error, ErrorKind, Result};
use tokio::time::{sleep, timeout};

/// How long a transfer may stand still on the sandbox's side.
pub(crate) const STILL: Duration = Duration::from_secs(30);

pub(crate) fn stood_still() -> Error {
    Error::unknown(ErrorKind::Timeout, "the sandbox did not move any data for 30 s")
}

/// A body from the sandbox: a piece that takes too long ends it with an error.
pub(crate) fn outgoing(body: ByteStream) -> ByteStream {
    let pieces = stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match timeout(STILL, body.next()).await {
            Ok(piece) => Some((piece?, Some(body))),
            Err(_) => Some((Err(stood_still()), None)),
        }
    });
    pieces.boxed()
}

/// What a body on its way into the sandbox is waiting for.
#[derive(Clone, Default)]
pub(crate) struct Movement(Arc<Moved>);

#[derive(Default)]
struct Moved {
    pieces: AtomicU64,
    waits_for_caller: AtomicBool,
}

impl Movement {
    /// The same body, watched.
    pub(crate) fn watch(&self, mut body: ByteStream) -> ByteStream {
        let moved = self.0.clone();
        stream::poll_fn(move |context| {
            let polled = body.poll_next_unpin(context);
            moved.waits_for_caller.store(polled.is_pending(), Ordering::Relaxed);
            if polled.is_ready() {
                moved.pieces.fetch_add(1, Ordering::Relaxed);
            }
            polled
        })
        .boxed()
    }

    /// Waits for `work`, as long as it moves or waits for the caller's next piece.
    pub(crate) async fn bound<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let standstill = async {
            let mut before = self.0.pieces.load(Ordering::Relaxed);
            loop {
                sleep(STILL).await;
                let now = self.0.pieces.load(Ordering::Relaxed);
                if now == before && !self.0.waits_for_caller.load(Ordering::Relaxed) {
                    return;
                }
                before = now;
            }
        };
        tokio::select! {
            biased;
            result = work => result,
            () = standstill => Err(stood_still()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test(start_paused = true)]
    async fn a_body_out_of_the_sandbox_never_stands_still() {
        let stuck: ByteStream =
            stream::iter([Ok(Bytes::from_static(b"a"))]).chain(stream::pending()).boxed();
        let pieces: Vec<_> = outgoing(stuck).collect().await;
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[1].as_ref().unwrap_err().kind, ErrorKind::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_is_waited_for_and_a_silent_sandbox_is_not() {
        let movement = Movement::default();
        let slow = stream::once(async {
            sleep(STILL * 10).await;
            Ok(Bytes::from_static(b"late"))
        });
        let mut body = movement.watch(slow.boxed());
        let read = movement.bound(async { body.next().await.unwrap() }).await;
        assert_eq!(read.unwrap(), "late");
        let silent = movement.bound(std::future::pending::<Result<()>>()).await;
        assert_eq!(silent.unwrap_err().kind, ErrorKind::Timeout);
    }
}
