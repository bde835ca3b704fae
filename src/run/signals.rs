//! Signals that end the process, as readable descriptors.
// UNSAFETY: signal masks and signalfd have no safe form.
#![expect(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// SIGINT, SIGTERM and SIGHUP, taken from their default actions.
#[derive(Debug)]
pub struct EndSignals {
    file: File,
}

impl EndSignals {
    /// Blocks the signals for this thread and those it starts from now on.
    ///
    /// # Errors
    /// The host refuses.
    pub fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is a place for a signal set, which sigemptyset initialises.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialised by the call above.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: a valid set and signal number.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: a valid set; the old one is not asked for.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }
            != 0
        {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a valid set.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file })
    }

    /// The next signal that arrived.
    pub fn next(&self) -> Option<i32> {
        let mut buf = [0u8; size_of::<libc::signalfd_siginfo>()];
        match (&self.file).read(&mut buf) {
            Ok(n) if n == buf.len() => buf.first_chunk().map(|number| i32::from_ne_bytes(*number)),
            _ => None,
        }
    }
}

impl AsRawFd for EndSignals {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
