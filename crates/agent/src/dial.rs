//! A connection to a port on the sandbox's loopback, carried by a stream.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt},
};
use stacyvm_agent_proto::{FailKind, MAX_CHUNK, Reply, StreamId, encode};

use crate::{
    fail::{Fail, Result},
    poll::{Interest, Poll, Source, Watched},
};

/// A connection that is being made or carried.
pub(crate) struct Dial {
    socket: Watched,
    /// Addresses that are left to try while it is not connected; `None` once it is.
    untried: Option<Vec<SocketAddr>>,
    port: u16,
    to_socket: VecDeque<u8>,
    input_ended: bool,
    output_ended: bool,
}

/// What happened to a dial on an event.
pub(crate) enum Dialed {
    /// Nothing to tell.
    Going,
    /// It was carried, and broke.
    Broken,
    /// It cannot be reached.
    Refused(Fail),
}

impl Dial {
    /// Begins to connect.
    pub(crate) fn begin(port: u16, key: (u32, StreamId), poll: &mut Poll) -> Result<Self> {
        if port == 0 {
            return Err(Fail::invalid("port must be 1 to 65535"));
        }
        let mut untried = vec![
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        ];
        let socket = connect_next(&mut untried).ok_or_else(|| refused(port))?;
        let mut socket = poll.adopt(socket, Source::Dial(key.0, key.1));
        poll.set(&mut socket, Interest::OUT);
        Ok(Self {
            socket,
            untried: Some(untried),
            port,
            to_socket: VecDeque::new(),
            input_ended: false,
            output_ended: false,
        })
    }

    /// Gives the socket up.
    pub(crate) fn close(self, poll: &mut Poll) {
        drop(poll.release(self.socket));
    }

    /// How many bytes wait for the socket.
    pub(crate) fn waiting(&self) -> usize {
        self.to_socket.len()
    }

    /// Whether both directions are over.
    pub(crate) fn is_over(&self) -> bool {
        self.input_ended && self.output_ended && self.to_socket.is_empty()
    }

    /// Bytes from the host.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.to_socket.extend(bytes);
    }

    /// The host sends no more.
    pub(crate) fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// The socket is ready. While connecting, this settles the attempt.
    pub(crate) fn on_ready(
        &mut self,
        key: (u32, StreamId),
        poll: &mut Poll,
        out: &mut Vec<u8>,
    ) -> Dialed {
        let Some(mut untried) = self.untried.take() else { return self.flush() };
        if matches!(sockopt::socket_error(self.socket.as_fd()), Ok(Ok(()))) {
            encode(&Reply::Done, out);
            return self.flush();
        }
        let Some(socket) = connect_next(&mut untried) else {
            return Dialed::Refused(refused(self.port));
        };
        let next = poll.adopt(socket, Source::Dial(key.0, key.1));
        drop(poll.release(std::mem::replace(&mut self.socket, next)));
        poll.set(&mut self.socket, Interest::OUT);
        self.untried = Some(untried);
        Dialed::Going
    }

    /// Writes what the socket takes now.
    pub(crate) fn flush(&mut self) -> Dialed {
        if self.untried.is_some() {
            return Dialed::Going;
        }
        while !self.to_socket.is_empty() {
            let (front, _) = self.to_socket.as_slices();
            match rustix::io::write(self.socket.as_fd(), front) {
                Ok(written) => drop(self.to_socket.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Dialed::Going,
                Err(_) => return Dialed::Broken,
            }
        }
        if self.input_ended {
            // Repeating it, or doing it after the other side closed, changes nothing.
            let _ = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Write);
        }
        Dialed::Going
    }

    /// Reads what the socket has, up to `room` bytes.
    pub(crate) fn read(&mut self, room: usize, out: &mut Vec<u8>) {
        if self.untried.is_some() || self.output_ended || room == 0 {
            return;
        }
        let start = out.len();
        out.resize(start + room.min(MAX_CHUNK), 0);
        let read = rustix::io::read(self.socket.as_fd(), &mut out[start..]);
        out.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(length) if 0 < length => {}
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => self.output_ended = true,
        }
    }

    /// Whether the socket will say no more.
    pub(crate) const fn output_ended(&self) -> bool {
        self.output_ended
    }

    /// Waits for what can be used: reading only when the host takes more.
    pub(crate) fn watch(&mut self, poll: &Poll, room: bool) {
        let mut interest = Interest::empty();
        if self.untried.is_some() {
            interest = Interest::OUT;
        } else {
            interest.set(Interest::IN, room && !self.output_ended);
            interest.set(Interest::OUT, !self.to_socket.is_empty());
        }
        poll.set(&mut self.socket, interest);
    }
}

fn refused(port: u16) -> Fail {
    Fail::new(FailKind::Unavailable, format!("nothing listens on port {port} in the sandbox"))
}

/// Starts a connection to the last address that can be tried at all.
fn connect_next(untried: &mut Vec<SocketAddr>) -> Option<OwnedFd> {
    while let Some(address) = untried.pop() {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let Ok(socket) = rustix::net::socket_with(family, SocketType::STREAM, flags, None) else {
            continue;
        };
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => return Some(socket),
            Err(_) => {}
        }
    }
    None
}
