//! The kinds of ends, each the thinnest cover over its descriptors.
//!
//! An end moves bytes without ever blocking, says which descriptors matter now, and keeps its
//! connection's state. It buffers nothing: queues, logs and keys are [`Chardev`](crate::Chardev)'s.

mod file;
mod listener;
mod pipe;
mod pty;
mod ringbuf;
mod socket;
mod stdio;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

pub use listener::Listener;

pub(crate) use file::{FileEnd, open_for_output};
pub(crate) use pipe::PipeEnd;
pub(crate) use pty::PtyEnd;
pub(crate) use ringbuf::RingbufEnd;
pub(crate) use socket::{BUSY, SocketEnd, SocketOptions};
pub(crate) use stdio::StdioEnd;

/// What the device wants to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    /// Input has somewhere to go.
    pub(crate) read: bool,
    /// Output waits.
    pub(crate) write: bool,
}

/// A number for one open descriptor that no other descriptor of this process ever gets, which the
/// descriptor's own number cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) u64);

impl Token {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A descriptor and what to watch on it. `None` means not to watch it at all, for a descriptor in a
/// state (hung up) that would be reported again and again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) token: Token,
    pub(crate) flags: Option<EventFlags>,
}

impl<'a> Watch<'a> {
    /// Watches `fd` for input and output as wanted, not at all if neither is.
    pub(crate) fn wanted(fd: BorrowedFd<'a>, token: Token, read: bool, write: bool) -> Self {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, read);
        flags.set(EventFlags::OUT, write);
        Self {
            fd,
            token,
            flags: (!flags.is_empty()).then_some(flags),
        }
    }
}

/// The watches of one end: at most three descriptors.
pub(crate) type Watches<'a> = [Option<Watch<'a>>; 3];

/// One kind of end.
pub(crate) trait Endpoint: Send {
    /// Where it leads, in the words of QEMU's `query-chardev`.
    fn filename(&self) -> String;

    /// Whether somebody is there to see output. Ends without a notion of this are always connected.
    fn connected(&self) -> bool {
        true
    }

    /// Reads what is there; 0 if nothing is, or nothing ever will be.
    fn read(&mut self, buf: &mut [u8]) -> usize;

    /// Writes what goes; 0 if the peer is slow or gone.
    fn write(&mut self, data: &[u8]) -> usize;

    /// The descriptors that matter now. Every open descriptor of the end that was ever watched is in
    /// the list; one that is not in it has been closed.
    fn watches(&self, want: Want) -> Watches<'_>;

    /// The descriptor of `token` reported `flags`. Data is not moved here.
    fn ready(&mut self, token: Token, flags: EventFlags) {
        let _ = (token, flags);
    }

    /// The guest printed something while nobody was there: a chance to look for somebody.
    fn nudge(&mut self) {}

    /// How many peers there were, the one that is there included.
    fn peers(&self) -> u64 {
        0
    }

    /// Descriptors that came with the bytes that were read.
    fn take_fds(&mut self) -> Vec<OwnedFd> {
        Vec::new()
    }

    /// The memory of a ring buffer, for the monitor's `ringbuf-read`.
    fn ringbuf(&mut self) -> Option<&mut RingbufEnd> {
        None
    }
}

/// The end that swallows everything and says nothing.
#[derive(Debug)]
pub(crate) struct NullEnd;

impl Endpoint for NullEnd {
    fn filename(&self) -> String {
        "null".to_owned()
    }

    fn read(&mut self, _buf: &mut [u8]) -> usize {
        0
    }

    fn write(&mut self, data: &[u8]) -> usize {
        data.len()
    }

    fn watches(&self, _want: Want) -> Watches<'_> {
        [None; 3]
    }
}

/// Repeats a system call that a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What `fd` reports at this moment.
pub(crate) fn poll_now(fd: impl AsFd, flags: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), flags)];
    match retry(|| {
        rustix::event::poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
    }) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

/// Whether epoll can watch `fd`; it cannot watch regular files and devices that are always ready.
pub(crate) fn pollable(fd: impl AsFd) -> io::Result<bool> {
    let probe = epoll::create(CreateFlags::CLOEXEC)?;
    match epoll::add(&probe, fd, EventData::new_u64(0), EventFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A descriptor that is always readable, in place of one that epoll cannot watch.
pub(crate) fn always_ready() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(
        1,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?)
}
