//! `stdio`: this process's standard input and output, a terminal or anything else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::epoll::EventFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Endpoint, Token, Want, Watch, Watches, always_ready, pollable, retry};
use crate::error::ChardevError;
use crate::tty::{Mode, RawTerminal};

/// There is one standard input.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Holds [`TAKEN`].
#[derive(Debug)]
struct Claim;

impl Drop for Claim {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::SeqCst);
    }
}

/// One direction, non-blocking where that means something.
#[derive(Debug)]
struct Side {
    fd: OwnedFd,
    token: Token,
    /// Stands in for a descriptor that epoll cannot watch: it is always ready.
    stand_in: Option<OwnedFd>,
    /// The flags to put back, where the descriptor is shared with other processes.
    shared_flags: Option<OFlags>,
    /// End of file, or nobody at the other end.
    ended: bool,
}

/// Standard input and output.
#[derive(Debug)]
pub(crate) struct StdioEnd {
    input: Side,
    output: Side,
    complained: bool,
    // Dropped after the sides: the terminal is put back last.
    _terminal: Option<RawTerminal>,
    _claim: Claim,
}

impl StdioEnd {
    pub(crate) fn open(id: &str, signal: bool) -> Result<Self, ChardevError> {
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(ChardevError::StdioTaken { id: id.to_owned() });
        }
        let claim = Claim;
        let opened = || -> io::Result<Self> {
            Ok(Self {
                input: Side::open(rustix::stdio::stdin(), true)?,
                output: Side::open(rustix::stdio::stdout(), false)?,
                complained: false,
                _terminal: RawTerminal::enter(if signal {
                    Mode::SharedSignals
                } else {
                    Mode::Shared
                })?,
                _claim: claim,
            })
        };
        opened().map_err(|source| ChardevError::Stdio {
            id: id.to_owned(),
            source,
        })
    }
}

impl Side {
    fn open(standard: BorrowedFd<'_>, input: bool) -> io::Result<Self> {
        let (fd, shared_flags) = open_apart(standard, input)?;
        let stand_in = if input && !pollable(&fd)? {
            Some(always_ready()?)
        } else {
            None
        };
        Ok(Self {
            fd,
            token: Token::new(),
            stand_in,
            shared_flags,
            ended: false,
        })
    }

    fn watch(&self, wanted: bool, flag: EventFlags) -> Watch<'_> {
        let flags = (wanted && !self.ended).then_some(flag);
        let fd = self.stand_in.as_ref().unwrap_or(&self.fd).as_fd();
        Watch {
            fd,
            token: self.token,
            flags,
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(flags) = self.shared_flags {
            // The next program on this terminal expects to block.
            let _ = rustix::fs::fcntl_setfl(&self.fd, flags);
        }
    }
}

/// A descriptor like `standard` that does not block.
///
/// O_NONBLOCK belongs to the open file, which a shell and other processes share; so a terminal or
/// pipe is opened once more. Where that fails the flag is set after all, and the old flags returned.
fn open_apart(standard: BorrowedFd<'_>, input: bool) -> io::Result<(OwnedFd, Option<OFlags>)> {
    let copy = File::from(rustix::io::fcntl_dupfd_cloexec(standard, 3)?);
    let kind = copy.metadata()?.file_type();
    if kind.is_file() {
        return Ok((copy.into(), None));
    }
    if kind.is_fifo() || kind.is_char_device() {
        let number = if input { 0 } else { 1 };
        let again = OpenOptions::new()
            .read(input)
            .write(!input)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{number}"));
        if let Ok(again) = again {
            return Ok((again.into(), None));
        }
    }
    let flags = rustix::fs::fcntl_getfl(&copy)?;
    rustix::fs::fcntl_setfl(&copy, flags | OFlags::NONBLOCK)?;
    Ok((copy.into(), Some(flags)))
}

impl Endpoint for StdioEnd {
    fn filename(&self) -> String {
        "stdio".to_owned()
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        if self.input.ended || buf.is_empty() {
            return 0;
        }
        match retry(|| rustix::io::read(&self.input.fd, &mut *buf)) {
            Err(Errno::AGAIN) => 0,
            Ok(0) | Err(_) => {
                // No more input; the guest goes on, and its output still has a place.
                self.input.ended = true;
                0
            }
            Ok(got) => got,
        }
    }

    fn write(&mut self, data: &[u8]) -> usize {
        if self.output.ended {
            return data.len();
        }
        match retry(|| rustix::io::write(&self.output.fd, data)) {
            Ok(taken) => taken,
            Err(Errno::AGAIN) => 0,
            Err(error) => {
                // A full disk may have room again; a reader that went away does not come back.
                self.output.ended = error != Errno::NOSPC && error != Errno::DQUOT;
                if !std::mem::replace(&mut self.complained, true) {
                    log::warn!(target: "console", "Output to stdio is being lost: {error}");
                }
                data.len()
            }
        }
    }

    fn watches(&self, want: Want) -> Watches<'_> {
        [
            Some(self.input.watch(want.read, EventFlags::IN)),
            Some(self.output.watch(want.write, EventFlags::OUT)),
            None,
        ]
    }
}
