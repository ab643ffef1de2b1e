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

fn stood_still(limit: Duration) -> Error {
    let message = format!("the sandbox did not move any data for {} s", limit.as_secs());
    Error::unknown(ErrorKind::Timeout, message)
}

/// A body from the sandbox: a piece that takes longer than `limit` ends it with an error.
pub fn outgoing(body: ByteStream, limit: Duration) -> ByteStream {
    let pieces = stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match timeout(limit, body.next()).await {
            Ok(piece) => Some((piece?, Some(body))),
            Err(_) => Some((Err(stood_still(limit)), None)),
        }
    });
    pieces.boxed()
}

/// What a body on its way into the sandbox is waiting for.
#[derive(Clone, Default)]
pub struct Movement(Arc<Moved>);

#[derive(Default)]
struct Moved {
    pieces: AtomicU64,
    waits_for_caller: AtomicBool,
}

impl Movement {
    /// The same body, watched.
    pub fn watch(&self, mut body: ByteStream) -> ByteStream {
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

    /// Waits for `work`, as long as it moves within each `limit` or waits for the caller's next
    /// piece.
    pub async fn bound<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let standstill = async {
            let mut before = self.0.pieces.load(Ordering::Relaxed);
            loop {
                sleep(limit).await;
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
            () = standstill => Err(stood_still(limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const STILL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_body_out_of_the_sandbox_never_stands_still() {
        let stuck: ByteStream =
            stream::iter([Ok(Bytes::from_static(b"a"))]).chain(stream::pending()).boxed();
        let pieces: Vec<_> = outgoing(stuck, STILL).collect().await;
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
        let read = movement.bound(STILL, async { body.next().await.unwrap() }).await;
        assert_eq!(read.unwrap(), "late");
        let silent = movement.bound(STILL, std::future::pending::<Result<()>>()).await;
        assert_eq!(silent.unwrap_err().kind, ErrorKind::Timeout);
    }
}
