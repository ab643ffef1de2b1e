//! Shows that something moves, to people only.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{Output, stderr_is_terminal};

/// A bar on standard error; nothing at all when no person watches it.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar for `what`, with a known number of bytes or not.
    pub(crate) fn new(out: Output, what: &str, size: Option<u64>) -> Self {
        if out.is_json() || !stderr_is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let (bar, template) = match size {
            Some(size) => (
                ProgressBar::new(size),
                "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            ),
            None => (ProgressBar::new_spinner(), "{msg} {spinner} {bytes} {bytes_per_sec}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(crate::escape::escape(what));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// The same stream, counted.
    pub(crate) fn count<E: 'static, S: Stream<Item = Result<Bytes, E>> + Send + 'static>(
        &self,
        stream: S,
    ) -> impl Stream<Item = Result<Bytes, E>> + Send + 'static + use<E, S> {
        let bar = self.0.clone();
        stream.inspect(move |piece| {
            if let Ok(piece) = piece {
                bar.inc(piece.len() as u64);
            }
        })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
