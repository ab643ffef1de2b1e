//! What a command wrote, kept by byte offset so that readers may come late or again.

use std::collections::VecDeque;

use crate::{limits::JOURNAL, text::incomplete_tail};

/// A run of bytes of one stream.
#[derive(Debug, Clone, Copy)]
struct Record {
    offset: u64,
    stderr: bool,
}

/// A piece for a reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) stderr: bool,
    pub(crate) data: Vec<u8>,
}

/// The output of one command: both streams in one sequence of offsets. Holds no memory before the
/// first byte.
#[derive(Default)]
pub(crate) struct Journal {
    start: u64,
    records: VecDeque<Record>,
    bytes: VecDeque<u8>,
}

impl Journal {
    /// The offset of the oldest byte that is kept.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// The offset after the newest byte.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// How many bytes are kept.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Adds bytes, and drops the oldest above the limit as long as they are before `needed`.
    pub(crate) fn append(&mut self, stderr: bool, data: &[u8], needed: u64) {
        if data.is_empty() {
            return;
        }
        if self.records.back().is_none_or(|last| last.stderr != stderr) {
            self.records.push_back(Record { offset: self.end(), stderr });
        }
        self.bytes.extend(data);
        let excess = self.len().saturating_sub(JOURNAL);
        self.drop_before((self.start + excess).min(needed));
    }

    fn drop_before(&mut self, offset: u64) {
        let offset = offset.min(self.end());
        let Some(count) = offset.checked_sub(self.start).filter(|count| 0 < *count) else { return };
        self.bytes.drain(..usize::try_from(count).unwrap_or(usize::MAX));
        self.start = offset;
        while self.records.get(1).is_some_and(|second| second.offset <= offset) {
            self.records.pop_front();
        }
        if self.bytes.is_empty() {
            self.records.clear();
        }
    }

    /// The piece at an offset that is kept: bytes of one stream, at most `most`, not cut within a
    /// UTF-8 sequence that the next piece would complete. `None` at the end.
    pub(crate) fn piece(&self, offset: u64, most: usize) -> Option<Piece> {
        if offset < self.start || self.end() <= offset {
            return None;
        }
        let index = self.records.partition_point(|record| record.offset <= offset).max(1) - 1;
        let stop = self.records.get(index + 1).map_or_else(|| self.end(), |next| next.offset);
        let from = usize::try_from(offset - self.start).ok()?;
        let length = usize::try_from(stop - offset).unwrap_or(usize::MAX).min(most);
        let mut data = self.copy(from, length);
        let is_cut = offset + (length as u64) < stop;
        if is_cut {
            let held = incomplete_tail(&data);
            if held < data.len() {
                data.truncate(data.len() - held);
            }
        }
        Some(Piece { stderr: self.records[index].stderr, data })
    }

    fn copy(&self, from: usize, length: usize) -> Vec<u8> {
        let (front, back) = self.bytes.as_slices();
        let mut data = Vec::with_capacity(length);
        let first = front.get(from..).unwrap_or_default();
        data.extend_from_slice(&first[..first.len().min(length)]);
        let skip = from.saturating_sub(front.len());
        let missing = length - data.len();
        data.extend_from_slice(&back[skip..skip + missing]);
        data
    }

    /// Gives back spare storage of a command that writes no more.
    pub(crate) fn settle(&mut self) {
        self.bytes.shrink_to_fit();
        self.records.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reader_gets_the_streams_in_the_order_they_came() {
        let mut journal = Journal::default();
        journal.append(false, b"out", 0);
        journal.append(false, b"put", 0);
        journal.append(true, b"err", 0);
        let piece = |at| journal.piece(at, 100).map(|p| (p.stderr, p.data));
        assert_eq!(piece(0), Some((false, b"output".to_vec())));
        assert_eq!(piece(4), Some((false, b"ut".to_vec())));
        assert_eq!(piece(6), Some((true, b"err".to_vec())));
        assert_eq!(piece(9), None);
    }

    #[test]
    fn a_piece_is_not_cut_within_a_character() {
        let mut journal = Journal::default();
        journal.append(false, "aé€".as_bytes(), 0);
        assert_eq!(journal.piece(0, 2).unwrap().data, b"a");
        assert_eq!(journal.piece(3, 2).unwrap().data, "€".as_bytes()[..2]);
    }

    #[test]
    fn bytes_that_a_reader_needs_are_never_dropped() {
        let mut journal = Journal::default();
        let big = vec![b'x'; 700 * 1024];
        journal.append(false, &big, 0);
        journal.append(true, &big, 0);
        assert_eq!(journal.start(), 0);
        journal.append(false, b"y", u64::MAX);
        assert_eq!((journal.len(), journal.end()), (JOURNAL, 1_433_601));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_list_of_bytes(
            writes in prop::collection::vec((any::<bool>(), 0_usize..300_000), 1..12),
        ) {
            let mut journal = Journal::default();
            let mut model: Vec<(bool, u8)> = Vec::new();
            for (stderr, length) in writes {
                let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 100).unwrap()).collect();
                model.extend(data.iter().map(|byte| (stderr, *byte)));
                journal.append(stderr, &data, u64::MAX);
            }
            prop_assert_eq!(journal.end(), model.len() as u64);
            let mut at = journal.start();
            while let Some(piece) = journal.piece(at, 70_000) {
                for byte in piece.data {
                    prop_assert_eq!((piece.stderr, byte), model[usize::try_from(at).unwrap()]);
                    at += 1;
                }
            }
            prop_assert_eq!(at, journal.end());
        }
    }
}
