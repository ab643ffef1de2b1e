//! What one stream of a connection is doing.

use stacyvm_agent_proto::{Decoder, Reply, encode};

use crate::{
    dial::Dial,
    fail::{Fail, Result},
    files::{Reading, Upload, Walk},
};

/// The work behind a stream.
pub(crate) enum Work {
    /// The request has not arrived yet.
    Waiting,
    /// It follows the command with this serial.
    Follow(u64),
    /// It sends a file.
    Read(Reading),
    /// It receives a file.
    Write(Box<Upload>),
    /// It walks through directories.
    Walk(Box<dyn Walk>),
    /// It carries a connection.
    Dial(Box<Dial>),
    /// All is said.
    Over,
}

/// A stream: what came in, what goes out, and what it is for.
pub(crate) struct Stream {
    pub(crate) inbox: Decoder,
    pub(crate) out: Vec<u8>,
    /// How much of `out` is sent.
    pub(crate) sent: usize,
    /// Bytes that were taken and are not given back to the sender yet.
    pub(crate) owed: usize,
    pub(crate) peer_ended: bool,
    /// Whether the stream ends after `out`.
    pub(crate) last: bool,
    pub(crate) work: Work,
}

/// What a walk did in one slice.
pub(crate) enum Slice {
    /// There is more to do.
    More,
    /// It is done.
    Done,
}

impl Stream {
    pub(crate) fn new() -> Self {
        Self {
            inbox: Decoder::default(),
            out: Vec::new(),
            sent: 0,
            owed: 0,
            peer_ended: false,
            last: false,
            work: Work::Waiting,
        }
    }

    /// Says something.
    pub(crate) fn say(&mut self, reply: &Reply<'_>) {
        encode(reply, &mut self.out);
    }

    /// Says the last thing.
    pub(crate) fn conclude(&mut self, result: &Result<Reply<'_>>) {
        match result {
            Ok(reply) => self.say(reply),
            Err(fail) => self.fail(fail),
        }
        self.last = true;
    }

    /// Says why it did not work, which is the last thing.
    pub(crate) fn fail(&mut self, fail: &Fail) {
        fail.write(&mut self.out);
        self.last = true;
    }
}
