//! Waiting for descriptors.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

pub(crate) use rustix::event::epoll::EventFlags as Interest;
use rustix::event::{Timespec, epoll};
use stacyvm_agent_proto::StreamId;

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Listener,
    Children,
    Connection(u32),
    /// Standard output (`false`) or error (`true`) of a command.
    Output(u64, bool),
    Stdin(u64),
    Dial(u32, StreamId),
    Leftover(u64),
}

/// A descriptor that is waited for. It is in the kernel's list only while its interest is not
/// empty: a paused one must not report that its other end is gone, again and again.
pub(crate) struct Watched {
    fd: OwnedFd,
    token: u64,
    interest: Interest,
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Descriptors and what they belong to.
pub(crate) struct Poll {
    epoll: OwnedFd,
    next_token: u64,
    sources: BTreeMap<u64, Source>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, next_token: 0, sources: BTreeMap::new() })
    }

    /// Takes over a descriptor, not waited for yet.
    pub(crate) fn adopt(&mut self, fd: OwnedFd, source: Source) -> Watched {
        self.next_token += 1;
        self.sources.insert(self.next_token, source);
        Watched { fd, token: self.next_token, interest: Interest::empty() }
    }

    /// Changes what is waited for.
    pub(crate) fn set(&self, watched: &mut Watched, interest: Interest) {
        if watched.interest == interest {
            return;
        }
        let data = epoll::EventData::new_u64(watched.token);
        let done = if interest.is_empty() {
            epoll::delete(&self.epoll, &watched.fd)
        } else if watched.interest.is_empty() {
            epoll::add(&self.epoll, &watched.fd, data, interest)
        } else {
            epoll::modify(&self.epoll, &watched.fd, data, interest)
        };
        if done.is_ok() {
            watched.interest = interest;
        }
    }

    /// Gives a descriptor up; events for it that were already fetched are ignored. It is taken out
    /// of the kernel's list by hand, since a child between fork and exec holds a copy.
    pub(crate) fn release(&mut self, mut watched: Watched) -> OwnedFd {
        self.set(&mut watched, Interest::empty());
        self.sources.remove(&watched.token);
        watched.fd
    }

    /// Gives a descriptor to another owner.
    pub(crate) fn reassign(&mut self, watched: &Watched, source: Source) {
        self.sources.insert(watched.token, source);
    }

    /// Waits and puts what is ready into `ready`.
    pub(crate) fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<(u64, Interest)>) {
        ready.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events =
            [epoll::Event { flags: Interest::empty(), data: epoll::EventData::new_u64(0) }; 32];
        let count = epoll::wait(&self.epoll, &mut events, timeout.as_ref()).unwrap_or(0);
        ready.extend(events[..count].iter().map(|event| (event.data.u64(), event.flags)));
    }

    /// What a token from [`Poll::wait`] belongs to now.
    pub(crate) fn source(&self, token: u64) -> Option<Source> {
        self.sources.get(&token).copied()
    }
}
