//! How one thread of a backend wakes another that polls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// An eventfd: wakes a thread that polls it.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent one.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    /// Makes the descriptor readable.
    pub fn ring(&self) {
        let written = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        // The counter at its end: the descriptor is readable all the same.
        debug_assert!(matches!(written, Ok(_) | Err(Errno::AGAIN)), "{written:?}");
    }

    /// Makes it unreadable until the next ring.
    pub fn silence(&self) {
        let mut count = [0; 8];
        // Fails only when nobody rang.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
