//! The bounded record of one command's output: written by its driver, read by any number of
//! attached callers, each at its own offset.
//!
//! Promises: offsets count both streams together and are gapless; a piece never ends inside a
//! UTF-8 sequence that the next one completes; at most [`CAPACITY`] bytes (and what one drain of a
//! pipe adds) are kept; nothing is lost while somebody reads.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};
use tokio::sync::watch;

use crate::{ExecEvent, Exit, Output, Result};

/// Bytes kept per command.
pub(super) const CAPACITY: u64 = 1 << 20;

/// How long a command is held back for a reader that went away.
const GRACE: Duration = Duration::from_secs(30);

/// Whether the driver may read more output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// Yes.
    Free,
    /// Not before a reader moves on, or this instant has passed.
    Full(Option<Instant>),
}

struct Record {
    offset: u64,
    stream: Output,
    data: Bytes,
}

impl Record {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    end: u64,
    held: [Vec<u8>; 2],
    exit: Option<Exit>,
    ended: Option<Instant>,
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    unread_since: Option<Instant>,
}

impl State {
    fn start(&self) -> u64 {
        self.records.front().map_or(self.end, |record| record.offset)
    }

    fn drop_oldest_above(&mut self, limit: u64) {
        while limit < self.end - self.start() && self.records.pop_front().is_some() {}
    }

    fn push(&mut self, stream: Output, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let offset = self.end;
        self.end += data.len() as u64;
        self.records.push_back(Record { offset, stream, data });
        let oldest_needed = self.readers.values().copied().min();
        while CAPACITY < self.end - self.start()
            && self
                .records
                .front()
                .is_some_and(|record| oldest_needed.is_none_or(|needed| record.end() <= needed))
        {
            self.records.pop_front();
        }
    }
}

/// One command's journal.
pub(super) struct Journal {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves whenever something was written, read or ended.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether more output may be read now.
    pub(super) fn space(&self, now: Instant) -> Space {
        let mut state = self.lock();
        let slowest = state.readers.values().copied().min();
        let grace_ends = state.unread_since.map(|since| since + GRACE);
        match (slowest, grace_ends) {
            (Some(position), _) if state.end - position.min(state.end) < CAPACITY => Space::Free,
            (Some(_), _) => Space::Full(None),
            (None, Some(ends)) if CAPACITY <= state.end - state.start() && now < ends => {
                Space::Full(Some(ends))
            }
            (None, _) => {
                state.drop_oldest_above(CAPACITY);
                Space::Free
            }
        }
    }

    /// Adds what was read from one of the streams.
    pub(super) fn append(&self, stream: Output, data: &[u8]) {
        let mut state = self.lock();
        let mut bytes = std::mem::take(&mut state.held[stream as usize]);
        bytes.extend_from_slice(data);
        let whole = bytes.len() - incomplete_tail(&bytes);
        state.held[stream as usize] = bytes.split_off(whole);
        state.push(stream, bytes.into());
        drop(state);
        self.changed.send_replace(());
    }

    /// Ends the journal.
    pub(super) fn finish(&self, exit: Exit, now: Instant) {
        let mut state = self.lock();
        if state.exit.is_some() {
            return;
        }
        for stream in [Output::Stdout, Output::Stderr] {
            let held = std::mem::take(&mut state.held[stream as usize]);
            state.push(stream, held.into());
        }
        state.exit = Some(exit);
        state.ended = Some(now);
        drop(state);
        self.changed.send_replace(());
    }

    /// When the command ended, and how many bytes are still kept.
    pub(super) fn ended(&self) -> Option<(Instant, u64)> {
        let state = self.lock();
        state.ended.map(|at| (at, state.end - state.start()))
    }

    /// Follows the output from an offset.
    pub(super) fn follow(self: &Arc<Self>, offset: u64) -> BoxStream<'static, Result<ExecEvent>> {
        let mut state = self.lock();
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, offset);
        state.unread_since = None;
        drop(state);
        let reader =
            Reader { journal: Arc::clone(self), id, position: offset, changes: self.changes() };
        stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            let event = reader.next().await;
            let rest = (!matches!(event, ExecEvent::Exit(_))).then_some(reader);
            Some((Ok(event), rest))
        })
        .boxed()
    }
}

struct Reader {
    journal: Arc<Journal>,
    id: u64,
    position: u64,
    changes: watch::Receiver<()>,
}

impl Reader {
    async fn next(&mut self) -> ExecEvent {
        loop {
            self.changes.borrow_and_update();
            if let Some(event) = self.ready() {
                return event;
            }
            if self.changes.changed().await.is_err() {
                return ExecEvent::Exit(Exit::Lost);
            }
        }
    }

    fn ready(&mut self) -> Option<ExecEvent> {
        let mut state = self.journal.lock();
        let start = state.start();
        if self.position < start {
            self.position = start;
            state.readers.insert(self.id, start);
            return Some(ExecEvent::Truncated { resume: start });
        }
        let index = state.records.partition_point(|record| record.end() <= self.position);
        let Some(record) = state.records.get(index) else {
            return state.exit.map(ExecEvent::Exit);
        };
        let skip = usize::try_from(self.position - record.offset).unwrap_or(usize::MAX);
        let (stream, data) = (record.stream, record.data.slice(skip.min(record.data.len())..));
        let offset = self.position;
        self.position = record.end();
        let position = self.position;
        state.readers.insert(self.id, position);
        drop(state);
        self.journal.changed.send_replace(());
        Some(ExecEvent::Output { offset, stream, data })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.journal.lock();
        state.readers.remove(&self.id);
        if state.readers.is_empty() {
            state.unread_since = Some(Instant::now());
        }
        drop(state);
        self.journal.changed.send_replace(());
    }
}

/// How many bytes at the end begin a UTF-8 sequence that more bytes could complete.
fn incomplete_tail(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let wants = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => 0,
        };
        return if back < wants { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_tail_is_what_more_bytes_could_complete() {
        let euro = "€".as_bytes();
        for (bytes, tail) in [
            (&b"abc"[..], 0),
            (&euro[..1], 1),
            (&euro[..2], 2),
            (euro, 0),
            (&[0xFF, 0xFE], 0),
            (&[0x80, 0x80, 0x80], 0),
            (&"𝄞".as_bytes()[..3], 3),
        ] {
            assert_eq!(incomplete_tail(bytes), tail, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_reader_behind_the_kept_bytes_is_told_where_output_goes_on() {
        let journal = Arc::new(Journal::new());
        for _ in 0..3 {
            journal.append(Output::Stdout, &vec![b'x'; 1 << 19]);
        }
        journal.finish(Exit::Code(0), Instant::now());
        let events: Vec<_> = journal.follow(0).map(Result::unwrap).collect().await;
        assert_eq!(events[0], ExecEvent::Truncated { resume: 1 << 19 });
        assert_eq!(events.last(), Some(&ExecEvent::Exit(Exit::Code(0))));
    }

    #[test]
    fn a_slow_reader_holds_the_command_back_and_a_vanished_one_for_a_while() {
        let journal = Arc::new(Journal::new());
        let reader = journal.follow(0);
        journal.append(Output::Stdout, &vec![b'x'; 1 << 20]);
        assert_eq!(journal.space(Instant::now()), Space::Full(None));
        drop(reader);
        assert!(matches!(journal.space(Instant::now()), Space::Full(Some(_))));
        assert_eq!(journal.space(Instant::now() + GRACE * 2), Space::Free);
    }
}
