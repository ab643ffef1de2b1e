//! A command's streams, as seen from outside of it.

use std::{collections::VecDeque, os::fd::AsFd};

use rustix::io::Errno;

use crate::{
    poll::{Interest, Poll, Watched},
    text::incomplete_tail,
};

const END_OF_TRANSMISSION: u8 = 4;

/// What a command writes to.
pub(crate) struct Output {
    pub(crate) pipe: Watched,
    /// The beginning of a character whose rest has not come yet.
    held: Vec<u8>,
}

impl Output {
    pub(crate) const fn new(pipe: Watched) -> Self {
        Self { pipe, held: Vec::new() }
    }

    /// The bytes to journal after these were read; what they hold of an incomplete character waits.
    pub(crate) fn complete(&mut self, read: &[u8]) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(read);
        let held = incomplete_tail(&bytes);
        self.held = bytes.split_off(bytes.len() - held);
        bytes
    }

    /// What is still held when nothing follows.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// What a command reads.
pub(crate) struct Stdin {
    pub(crate) pipe: Watched,
    queue: VecDeque<u8>,
    ending: bool,
    terminal: bool,
}

impl Stdin {
    pub(crate) const fn new(pipe: Watched, terminal: bool) -> Self {
        Self { pipe, queue: VecDeque::new(), ending: false, terminal }
    }

    /// How many bytes wait for the command.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Adds bytes; after the end there are none.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if !self.ending {
            self.queue.extend(bytes);
        }
    }

    /// Ends the input after what waits. A terminal stays open: its end is a control character.
    pub(crate) fn end(&mut self) {
        if self.terminal {
            self.queue.push_back(END_OF_TRANSMISSION);
        } else {
            self.ending = true;
        }
    }

    /// Writes what the command takes now; `false` when it can be closed.
    pub(crate) fn flush(&mut self, poll: &Poll) -> bool {
        while !self.queue.is_empty() {
            let (front, _) = self.queue.as_slices();
            match rustix::io::write(self.pipe.as_fd(), front) {
                Ok(written) => drop(self.queue.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    poll.set(&mut self.pipe, Interest::OUT);
                    return true;
                }
                // The command closed it or is gone: what waits has no reader.
                Err(_) => return false,
            }
        }
        self.queue.shrink_to(4096);
        poll.set(&mut self.pipe, Interest::empty());
        !self.ending
    }
}
