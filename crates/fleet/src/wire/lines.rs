//! Lines out of pieces, in bounded memory.

use bytes::{Bytes, BytesMut};

/// A line is longer than what is taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line is longer than {0} bytes")]
pub struct LineTooLong(pub usize);

/// Puts lines together. Holds at most one line of the longest size and one piece.
#[derive(Debug)]
pub struct Lines {
    longest: usize,
    /// Bytes that are known to hold no end of a line.
    searched: usize,
    held: BytesMut,
}

impl Lines {
    /// Lines of at most so many bytes, without their ends.
    pub fn new(longest: usize) -> Self {
        Self { longest, searched: 0, held: BytesMut::new() }
    }

    /// Another longest line, for those that follow.
    pub fn set_longest(&mut self, longest: usize) {
        self.longest = longest;
    }

    /// Takes a piece. All lines that are held must have been taken out before.
    pub fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// The next whole line that is not blank.
    pub fn take_line(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        loop {
            let rest = self.held.get(self.searched..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.held.len();
                return match self.longest < self.held.len() {
                    true => Err(LineTooLong(self.longest)),
                    false => Ok(None),
                };
            };
            let end = self.searched + end;
            if self.longest < end {
                return Err(LineTooLong(self.longest));
            }
            let line = self.held.split_to(end + 1).split_to(end);
            self.searched = 0;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line.freeze()));
            }
        }
    }

    /// What is held after the last end of a line, when nothing more comes.
    pub fn last(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        self.push(b"\n");
        self.take_line()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blank_lines_are_no_lines_and_a_long_one_is_an_error() {
        let mut lines = Lines::new(4);
        lines.push(b"\n \r\nab\ncd");
        assert_eq!(lines.take_line(), Ok(Some(Bytes::from_static(b"ab"))));
        assert_eq!(lines.take_line(), Ok(None));
        lines.push(b"ef");
        assert_eq!(lines.take_line(), Ok(None));
        lines.push(b"g");
        assert_eq!(lines.take_line(), Err(LineTooLong(4)));
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(1usize..20, 1..50),
        ) {
            let mut expected: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
            expected.pop();
            expected.retain(|line| !line.iter().all(u8::is_ascii_whitespace));
            let (mut lines, mut found, mut rest) = (Lines::new(200), Vec::new(), &text[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                lines.push(piece);
                while let Some(line) = lines.take_line().unwrap() {
                    found.push(line);
                }
                rest = left;
            }
            prop_assert_eq!(found, expected);
        }
    }
}
