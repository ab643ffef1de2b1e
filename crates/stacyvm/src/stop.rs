//! The signals that ask this program to end.

use std::{io, task::Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Takes signals away from their default, which would end the program on the spot.
pub(crate) struct StopSignals(Vec<(i32, Signal)>);

impl StopSignals {
    /// Listens for these.
    pub(crate) fn listen(kinds: &[SignalKind]) -> io::Result<Self> {
        kinds
            .iter()
            .map(|kind| Ok((kind.as_raw_value(), signal(*kind)?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The next one that comes.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}
