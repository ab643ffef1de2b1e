//! Cuts a body into lines, with a limit on how long one may be.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::BoxStream};

use crate::{Error, Result};

/// A line of a stream never holds more than one output chunk or event; what is longer than this
/// is not our protocol.
const MAX_LINE: usize = 16 << 20;

/// The lines of a body, without their line feeds.
pub(crate) struct Lines {
    body: BoxStream<'static, Result<Bytes>>,
    buffer: BytesMut,
    scanned: usize,
    ended: bool,
}

impl Lines {
    pub(crate) fn new(body: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self { body: body.boxed(), buffer: BytesMut::new(), scanned: 0, ended: false }
    }

    /// The next line. `None` is the body's end; an unfinished last line is given before it.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(self.scanned + at + 1);
                self.scanned = 0;
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Ok(Some(line.freeze()));
            }
            self.scanned = self.buffer.len();
            if MAX_LINE < self.buffer.len() {
                return Err(Error::Unexpected("a line of the stream is too long".to_owned()));
            }
            if self.ended {
                let rest = self.buffer.split().freeze();
                self.scanned = 0;
                return Ok((!rest.is_empty()).then_some(rest));
            }
            match self.body.next().await {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None => self.ended = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn cut(chunks: &[&'static str]) -> Vec<String> {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok(Bytes::from_static(c.as_bytes()))).collect();
        let mut lines = Lines::new(futures_util::stream::iter(chunks));
        let mut out = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            out.push(String::from_utf8(line.to_vec()).unwrap());
        }
        out
    }

    #[tokio::test]
    async fn lines_are_found_wherever_the_network_cut_them() {
        assert_eq!(cut(&["a\nb", "c\r\n", "\n", "d"]).await, ["a", "bc", "", "d"]);
        assert_eq!(cut(&[]).await, Vec::<String>::new());
        assert_eq!(cut(&["\n"]).await, [""]);
    }
}
