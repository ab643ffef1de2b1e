//! Messages with descriptors over a sequenced-packet socket.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The most descriptors in one message.
pub const MAX_FDS: usize = 16;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// A connected pair of sequenced-packet sockets, closed on exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message. All of it or nothing.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message into `buffer` and its descriptors; `None` at the end of the stream.
/// A message that does not fit is an error, and what came with it is closed.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) => break message,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message larger than its bounds"));
    }
    match message.bytes {
        0 if fds.is_empty() => Ok(None),
        bytes => Ok(Some((bytes, fds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_travel_with_their_message() {
        let (a, b) = pair().unwrap();
        let (inner, other) = pair().unwrap();
        send(&a, b"take", &[inner.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let (bytes, mut fds) = receive(&b, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..bytes], b"take");
        send(fds.remove(0), b"x", &[]).unwrap();
        assert_eq!(receive(&other, &mut buffer).unwrap().unwrap().0, 1);
    }

    #[test]
    fn a_message_larger_than_the_buffer_is_an_error() {
        let (a, b) = pair().unwrap();
        send(&a, &[7; 64], &[]).unwrap();
        assert!(receive(&b, &mut [0; 16]).is_err());
    }

    #[test]
    fn the_end_of_the_stream_is_none() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert!(receive(&b, &mut [0; 16]).unwrap().is_none());
    }
}
