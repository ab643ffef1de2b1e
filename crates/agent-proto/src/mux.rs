//! Many streams over one byte channel: yamux framing, without I/O.
//!
//! Bytes that arrived are given to [`Session::receive`], which answers with one [`Event`] at a time
//! and borrows data from its input, so nothing that was received is ever copied or kept here. Bytes
//! to send gather in [`Session::output`] up to a limit. Every stream has its own window: the peer
//! may send only what [`Session::consumed`] gave back.
//!
//! Promises: a peer that breaks a rule ends the session with a [`Violation`]; no sequence of bytes
//! makes it panic, hang, or keep more than the limits say.

use std::collections::BTreeMap;

/// Identifies a stream within its session.
pub type StreamId = u32;

/// What each side may send on a stream before it is given more.
pub const INITIAL_WINDOW: u32 = 256 * 1024;

/// How much data waits for the channel before [`Session::send`] takes no more.
pub const OUTPUT_LIMIT: usize = 128 * 1024;

/// How much the answers to pings, refusals and window updates may add to that.
const CONTROL_LIMIT: usize = 64 * 1024;

/// The largest frame that we send, so that streams share the channel evenly.
const MAX_SENT_FRAME: usize = 64 * 1024;

/// Output storage above this is given back when it is empty.
const KEPT_OUTPUT: usize = 4 * 1024;

const HEADER: usize = 12;
const VERSION: u8 = 0;

const DATA: u8 = 0;
const WINDOW: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;

const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// Which side of the channel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams with odd ids.
    Client,
    /// Opens streams with even ids; ours never opens any.
    Server,
}

/// A rule that the peer broke. The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Another version of the framing.
    #[error("unknown framing version {0}")]
    Version(u8),
    /// A frame of a type that does not exist.
    #[error("unknown frame type {0}")]
    Type(u8),
    /// Flags that do not exist or do not go together.
    #[error("impossible frame flags {0:#x}")]
    Flags(u16),
    /// A stream id that this frame cannot have.
    #[error("impossible stream id {0}")]
    Stream(StreamId),
    /// More data than the window allows, or a window that overflows.
    #[error("window of stream {0} violated")]
    Window(StreamId),
    /// Data after the end of a stream.
    #[error("data after the end of stream {0}")]
    AfterEnd(StreamId),
    /// More questions than the peer takes answers.
    #[error("too many unanswered control frames")]
    Flood,
}

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The peer opened a stream.
    Opened(StreamId),
    /// Data on a stream; give it back with [`Session::consumed`].
    Data(StreamId, &'a [u8]),
    /// The peer will send no more on this stream.
    Ended(StreamId),
    /// The peer dropped this stream; it is gone.
    Reset(StreamId),
    /// More may be sent on this stream.
    Writable(StreamId),
    /// The peer wants no new streams.
    GoAway(u32),
}

/// The stream is not there: never opened, reset, or its sending side was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is closed")]
pub struct Closed;

#[derive(Debug)]
struct Stream {
    send_window: u32,
    receive_window: u32,
    consumed: u32,
    /// Flags that the next frame of this stream must carry.
    greeting: u16,
    local_ended: bool,
    remote_ended: bool,
}

impl Stream {
    const fn new(greeting: u16) -> Self {
        Self {
            send_window: INITIAL_WINDOW,
            receive_window: INITIAL_WINDOW,
            consumed: 0,
            greeting,
            local_ended: false,
            remote_ended: false,
        }
    }
}

/// The frame whose body or consequences are being worked off.
#[derive(Debug, Clone, Copy)]
struct Frame {
    stream: StreamId,
    left: u32,
    flags: u16,
    window: bool,
}

/// One side of a multiplexed channel.
#[derive(Debug)]
pub struct Session {
    role: Role,
    max_inbound: usize,
    streams: BTreeMap<StreamId, Stream>,
    inbound: usize,
    last_inbound: StreamId,
    next_outbound: Option<StreamId>,
    header: [u8; HEADER],
    header_filled: usize,
    frame: Option<Frame>,
    output: Vec<u8>,
    sent: usize,
    going_away: bool,
}

impl Session {
    /// A fresh session. `max_inbound` is how many streams of the peer may be open; with zero, one
    /// that it opens is a violation, otherwise one too many is refused.
    pub fn new(role: Role, max_inbound: usize) -> Self {
        Self {
            role,
            max_inbound,
            streams: BTreeMap::new(),
            inbound: 0,
            last_inbound: 0,
            next_outbound: Some(if role == Role::Client { 1 } else { 2 }),
            header: [0; HEADER],
            header_filled: 0,
            frame: None,
            output: Vec::new(),
            sent: 0,
            going_away: false,
        }
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Opens a stream, queues its first data and says how much of it was taken. The peer learns of
    /// streams in the order of their ids, so each is told of at once. `None` when the peer wants no
    /// more or the ids are used up: a new session is needed.
    pub fn open(&mut self, first: &[u8]) -> Option<(StreamId, usize)> {
        if self.going_away {
            return None;
        }
        let id = self.next_outbound?;
        self.next_outbound = id.checked_add(2);
        self.streams.insert(id, Stream::new(SYN));
        let taken = self.send(id, first).unwrap_or(0);
        if let Some(stream) = self.streams.get_mut(&id) {
            let flags = std::mem::take(&mut stream.greeting);
            if flags != 0 {
                push_header(&mut self.output, WINDOW, flags, id, 0);
            }
        }
        Some((id, taken))
    }

    /// How many bytes [`Session::send`] would take now; zero for a closed stream.
    pub fn capacity(&self, id: StreamId) -> usize {
        let room = OUTPUT_LIMIT.saturating_sub(self.output().len());
        match self.streams.get(&id) {
            Some(stream) if !stream.local_ended => room.min(stream.send_window as usize),
            Some(_) | None => 0,
        }
    }

    /// Queues data on a stream and says how much of it was taken.
    pub fn send(&mut self, id: StreamId, data: &[u8]) -> Result<usize, Closed> {
        let room = OUTPUT_LIMIT.saturating_sub(self.output.len() - self.sent);
        let stream = self.streams.get_mut(&id).filter(|s| !s.local_ended).ok_or(Closed)?;
        let taken = data.len().min(room).min(stream.send_window as usize);
        for piece in data[..taken].chunks(MAX_SENT_FRAME) {
            let length = u32::try_from(piece.len()).expect("a piece is at most 64 KiB");
            stream.send_window -= length;
            let flags = std::mem::take(&mut stream.greeting);
            push_header(&mut self.output, DATA, flags, id, length);
            self.output.extend_from_slice(piece);
        }
        Ok(taken)
    }

    /// Says that no more will be sent on a stream. Repeating it does nothing.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.local_ended {
            return;
        }
        stream.local_ended = true;
        let flags = std::mem::take(&mut stream.greeting) | FIN;
        let gone = stream.remote_ended;
        push_header(&mut self.output, WINDOW, flags, id, 0);
        if gone {
            self.forget(id);
        }
    }

    /// Drops a stream in both directions. Unknown streams are ignored.
    pub fn reset(&mut self, id: StreamId) {
        if self.forget(id).is_some() {
            push_header(&mut self.output, WINDOW, RST, id, 0);
        }
    }

    /// Gives back what the receiver of a stream has taken, so that the peer may send more.
    pub fn consumed(&mut self, id: StreamId, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| !s.remote_ended) else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let most = INITIAL_WINDOW - stream.receive_window;
        stream.consumed = stream.consumed.saturating_add(bytes).min(most);
        if INITIAL_WINDOW / 2 <= stream.consumed {
            let delta = std::mem::take(&mut stream.consumed);
            stream.receive_window += delta;
            let flags = std::mem::take(&mut stream.greeting);
            push_header(&mut self.output, WINDOW, flags, id, delta);
        }
    }

    /// The bytes to put on the channel.
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Says that the first `bytes` of [`Session::output`] are on the channel.
    pub fn written(&mut self, bytes: usize) {
        self.sent = self.output.len().min(self.sent + bytes);
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
            self.output.shrink_to(KEPT_OUTPUT);
        } else if OUTPUT_LIMIT <= self.sent {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Takes bytes off the front of `input` until something happened or the input is empty. Call it
    /// again until it answers `None`, also with an empty input.
    pub fn receive<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        loop {
            let Some(frame) = self.frame.as_mut() else {
                let missing = HEADER - self.header_filled;
                let part = split(input, missing);
                self.header[self.header_filled..][..part.len()].copy_from_slice(part);
                self.header_filled += part.len();
                if self.header_filled < HEADER {
                    return Ok(None);
                }
                self.header_filled = 0;
                if let Some(event) = self.begin_frame()? {
                    return Ok(Some(event));
                }
                continue;
            };
            let id = frame.stream;
            if std::mem::take(&mut frame.window) && self.streams.contains_key(&id) {
                return Ok(Some(Event::Writable(id)));
            }
            if 0 < frame.left {
                if input.is_empty() {
                    return Ok(None);
                }
                let data = split(input, frame.left as usize);
                frame.left -= u32::try_from(data.len()).expect("no longer than `left`");
                if self.streams.contains_key(&id) {
                    return Ok(Some(Event::Data(id, data)));
                }
                continue;
            }
            let flags = frame.flags;
            self.frame = None;
            if let Some(event) = self.end_frame(id, flags) {
                return Ok(Some(event));
            }
        }
    }

    fn begin_frame(&mut self) -> Result<Option<Event<'static>>, Violation> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = self.header;
        let flags = u16::from_be_bytes([f0, f1]);
        let id = u32::from_be_bytes([s0, s1, s2, s3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if version != VERSION {
            return Err(Violation::Version(version));
        }
        match kind {
            DATA | WINDOW => self.begin_stream_frame(kind, flags, id, length),
            PING if id != 0 => Err(Violation::Stream(id)),
            PING if flags == SYN => {
                self.control(PING, ACK, 0, length)?;
                Ok(None)
            }
            PING if flags == ACK => Ok(None),
            PING => Err(Violation::Flags(flags)),
            GO_AWAY if id != 0 => Err(Violation::Stream(id)),
            GO_AWAY => {
                self.going_away = true;
                Ok(Some(Event::GoAway(length)))
            }
            other => Err(Violation::Type(other)),
        }
    }

    fn begin_stream_frame(
        &mut self,
        kind: u8,
        flags: u16,
        id: StreamId,
        length: u32,
    ) -> Result<Option<Event<'static>>, Violation> {
        if flags & !(SYN | ACK | FIN | RST) != 0 || flags & (SYN | ACK) == SYN | ACK {
            return Err(Violation::Flags(flags));
        }
        if id == 0 {
            return Err(Violation::Stream(id));
        }
        let opened = if flags & SYN == 0 { None } else { self.accept(id)? };
        if !self.was_opened(id) {
            return Err(Violation::Stream(id));
        }
        let left = if kind == DATA { length } else { 0 };
        if INITIAL_WINDOW < left {
            return Err(Violation::Window(id));
        }
        let mut window = false;
        if let Some(stream) = self.streams.get_mut(&id) {
            if kind == DATA {
                if stream.remote_ended && 0 < left {
                    return Err(Violation::AfterEnd(id));
                }
                stream.receive_window =
                    stream.receive_window.checked_sub(left).ok_or(Violation::Window(id))?;
            } else if 0 < length {
                stream.send_window =
                    stream.send_window.checked_add(length).ok_or(Violation::Window(id))?;
                window = true;
            }
        }
        self.frame = Some(Frame { stream: id, left, flags, window });
        Ok(opened)
    }

    /// A new stream of the peer's, or `None` where it is refused.
    fn accept(&mut self, id: StreamId) -> Result<Option<Event<'static>>, Violation> {
        if self.is_ours(id) || id <= self.last_inbound || self.max_inbound == 0 {
            return Err(Violation::Stream(id));
        }
        self.last_inbound = id;
        if self.max_inbound <= self.inbound {
            self.control(WINDOW, RST, id, 0)?;
            return Ok(None);
        }
        self.inbound += 1;
        self.streams.insert(id, Stream::new(ACK));
        Ok(Some(Event::Opened(id)))
    }

    fn end_frame(&mut self, id: StreamId, flags: u16) -> Option<Event<'static>> {
        if flags & RST != 0 {
            return self.forget(id).map(|_| Event::Reset(id));
        }
        if flags & FIN == 0 {
            return None;
        }
        let stream = self.streams.get_mut(&id).filter(|stream| !stream.remote_ended)?;
        stream.remote_ended = true;
        if stream.local_ended {
            self.forget(id);
        }
        Some(Event::Ended(id))
    }

    const fn is_ours(&self, id: StreamId) -> bool {
        (id % 2 == 1) == matches!(self.role, Role::Client)
    }

    /// Whether a stream with this id exists or existed: frames for one that is gone may still be
    /// on their way.
    fn was_opened(&self, id: StreamId) -> bool {
        if self.is_ours(id) {
            self.next_outbound.is_none_or(|next| id < next)
        } else {
            id <= self.last_inbound
        }
    }

    fn forget(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        if !self.is_ours(id) {
            self.inbound -= 1;
        }
        Some(stream)
    }

    /// An answer that the peer caused; it must read answers to be given more.
    fn control(&mut self, kind: u8, flags: u16, id: StreamId, value: u32) -> Result<(), Violation> {
        if OUTPUT_LIMIT + CONTROL_LIMIT < self.output().len() {
            return Err(Violation::Flood);
        }
        push_header(&mut self.output, kind, flags, id, value);
        Ok(())
    }
}

fn push_header(output: &mut Vec<u8>, kind: u8, flags: u16, id: StreamId, length: u32) {
    output.extend_from_slice(&[VERSION, kind]);
    output.extend_from_slice(&flags.to_be_bytes());
    output.extend_from_slice(&id.to_be_bytes());
    output.extend_from_slice(&length.to_be_bytes());
}

fn split<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (front, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    front
}
