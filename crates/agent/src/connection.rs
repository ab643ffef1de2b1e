//! One connection of a host: its socket, its multiplexer and its streams.

use std::{collections::BTreeMap, os::fd::AsFd};

use rustix::io::Errno;
use stacyvm_agent_proto::{Role, Session, StreamId, mux::OUTPUT_LIMIT};

use crate::{
    limits::MAX_STREAMS,
    poll::{Interest, Poll, Watched},
    stream::Stream,
};

/// A connection.
pub(crate) struct Connection {
    pub(crate) socket: Watched,
    pub(crate) mux: Session,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    /// The stream that was served first last time.
    turn: StreamId,
}

/// The other side is gone or broke the rules.
pub(crate) struct Broken;

impl Connection {
    pub(crate) fn new(socket: Watched) -> Self {
        let mux = Session::new(Role::Server, MAX_STREAMS);
        Self { socket, mux, streams: BTreeMap::new(), turn: 0 }
    }

    /// The streams, a different one first each time.
    pub(crate) fn in_turn(&mut self) -> Vec<StreamId> {
        let after = self.streams.range(self.turn + 1..).map(|(id, _)| *id);
        let before = self.streams.range(..=self.turn).map(|(id, _)| *id);
        let order: Vec<StreamId> = after.chain(before).collect();
        self.turn = order.first().copied().unwrap_or(0);
        order
    }

    /// Reads once; `None` when nothing is there.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Broken> {
        match rustix::io::read(self.socket.as_fd(), buffer) {
            Ok(0) => Err(Broken),
            Ok(length) => Ok(Some(length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(_) => Err(Broken),
        }
    }

    /// Writes what the other side takes now.
    pub(crate) fn write(&mut self) -> Result<(), Broken> {
        while !self.mux.output().is_empty() {
            match rustix::io::write(self.socket.as_fd(), self.mux.output()) {
                Ok(written) => self.mux.written(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Broken),
            }
        }
        Ok(())
    }

    /// Waits for what can be used: a peer that reads nothing is not listened to.
    pub(crate) fn watch(&mut self, poll: &Poll) {
        let waiting = self.mux.output().len();
        let mut interest = Interest::empty();
        interest.set(Interest::IN, waiting < OUTPUT_LIMIT);
        interest.set(Interest::OUT, 0 < waiting);
        poll.set(&mut self.socket, interest);
    }
}
