//! An attached terminal: bytes both ways until the user detaches or the domain closes the console.
//!
//! The keyboard is read even while the domain takes no input, so that detaching always works; what
//! was typed meanwhile waits in memory, up to a bound.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::ClientError;
use crate::endpoint::{BUSY, retry};
use crate::tty::{Mode, RawTerminal};

/// Typed bytes that wait for the domain, before the keyboard is left alone.
const TYPED_BOUND: usize = 64 << 10;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The user pressed the key, or the terminal went away.
    Detached,
    /// The domain's side is gone.
    Closed,
    /// Nobody reads standard output any more.
    OutputClosed,
}

struct Session<'a> {
    console: &'a OwnedFd,
    path: &'a Path,
    escape: u8,
    on_terminal: bool,
    stdin_open: bool,
    typed: VecDeque<u8>,
    /// The first bytes of the console, to know a refusal when it is one.
    first: Vec<u8>,
}

/// Runs a session on `console`; the terminal is back as it was on return.
pub(super) fn run(console: &OwnedFd, path: &Path, escape: u8) -> Result<Ending, ClientError> {
    let terminal =
        RawTerminal::enter(Mode::Raw).map_err(|source| ClientError::Terminal { source })?;
    let mut session = Session {
        console,
        path,
        escape,
        on_terminal: terminal.is_some(),
        stdin_open: true,
        typed: VecDeque::new(),
        first: Vec::new(),
    };
    loop {
        if let Some(ending) = session.turn()? {
            drop(terminal);
            if session.first == BUSY {
                return Err(ClientError::InUse {
                    path: path.to_owned(),
                });
            }
            return Ok(ending);
        }
    }
}

impl Session<'_> {
    /// Waits for something and handles it.
    fn turn(&mut self) -> Result<Option<Ending>, ClientError> {
        let read_keys = self.stdin_open && self.typed.len() < TYPED_BOUND;
        let mut console_wants = PollFlags::IN;
        console_wants.set(PollFlags::OUT, !self.typed.is_empty());
        let mut fds = [
            PollFd::new(self.console, console_wants),
            PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN),
        ];
        let watched = if read_keys { 2 } else { 1 };
        retry(|| rustix::event::poll(&mut fds[..watched], None)).map_err(|e| self.lost(e))?;
        let (console, keys) = (fds[0].revents(), fds[1].revents());
        if read_keys && !keys.is_empty() && self.read_keys() {
            return Ok(Some(Ending::Detached));
        }
        if console.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            && let Some(ending) = self.copy_output()?
        {
            return Ok(Some(ending));
        }
        if console.contains(PollFlags::OUT) {
            self.send_typed()?;
        }
        Ok(None)
    }

    /// Reads the keyboard. True if the session is to end.
    fn read_keys(&mut self) -> bool {
        let mut buf = [0; 4096];
        let got = match retry(|| rustix::io::read(rustix::stdio::stdin(), &mut buf)) {
            Ok(got) => got,
            Err(Errno::AGAIN) => return false,
            Err(_) => 0,
        };
        if got == 0 {
            self.stdin_open = false;
            // A terminal in raw mode ends only by going away; a file just ends.
            return self.on_terminal;
        }
        let keys = &buf[..got];
        let detach = keys
            .iter()
            .position(|&key| self.on_terminal && key == self.escape);
        self.typed.extend(&keys[..detach.unwrap_or(got)]);
        if detach.is_some() {
            // What was typed before goes if it can; there is no waiting for it.
            let _ = self.send_typed();
        }
        detach.is_some()
    }

    fn copy_output(&mut self) -> Result<Option<Ending>, ClientError> {
        let mut buf = [0; 16 << 10];
        let got = match retry(|| rustix::io::read(self.console, &mut buf)) {
            Err(Errno::AGAIN) => return Ok(None),
            // A pty says EIO when its master is closed; a peer that dies with bytes unread, RESET.
            Ok(0) | Err(Errno::IO | Errno::CONNRESET) => return Ok(Some(Ending::Closed)),
            Err(errno) => return Err(self.lost(errno)),
            Ok(got) => got,
        };
        let spare = (BUSY.len() + 1).saturating_sub(self.first.len());
        self.first.extend(&buf[..got.min(spare)]);
        match write_out(&buf[..got]) {
            Ok(()) => Ok(None),
            Err(Errno::PIPE | Errno::IO) => Ok(Some(Ending::OutputClosed)),
            Err(errno) => Err(ClientError::Output {
                source: errno.into(),
            }),
        }
    }

    fn send_typed(&mut self) -> Result<(), ClientError> {
        while !self.typed.is_empty() {
            let (front, _) = self.typed.as_slices();
            match retry(|| rustix::io::write(self.console, front)) {
                Ok(taken) => drop(self.typed.drain(..taken)),
                Err(Errno::AGAIN) => break,
                // The end of the connection shows on its reading side, after its last output.
                Err(Errno::PIPE | Errno::IO | Errno::CONNRESET) => self.typed.clear(),
                Err(errno) => return Err(self.lost(errno)),
            }
        }
        Ok(())
    }

    fn lost(&self, errno: Errno) -> ClientError {
        ClientError::Lost {
            path: self.path.to_owned(),
            source: io::Error::from(errno),
        }
    }
}

/// Writes all of `data` to standard output, which may be non-blocking by another program's doing.
fn write_out(mut data: &[u8]) -> rustix::io::Result<()> {
    let stdout = rustix::stdio::stdout();
    while !data.is_empty() {
        match rustix::io::write(stdout, data) {
            Ok(taken) => data = &data[taken..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::OUT)];
                retry(|| rustix::event::poll(&mut fds, None))?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
