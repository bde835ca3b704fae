//! Raw mode of the terminal on standard input, and its way back.
//!
//! One terminal only: the one this process was started on. It is put back on drop, on `exit`, on a
//! panic, when a deadly signal takes the process down, and while the process is suspended. What
//! nothing can repair is SIGKILL; `stty sane` does.

mod signals;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
};

/// How raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Every key is a byte; output passes as it is. For a client whose far end is a guest's tty.
    Raw = 1,
    /// Every key is a byte; a line feed on output also returns the carriage, because this process's
    /// own messages share the terminal (as QEMU's stdio has it).
    Shared = 2,
    /// As [`Mode::Shared`], but Ctrl-C and its kin act on this process (`signal=on`).
    SharedSignals = 3,
}

/// The terminal as it was found. Set once: whatever comes later, this is what the user had.
static FOUND: OnceLock<(OwnedFd, Termios)> = OnceLock::new();

/// The [`Mode`] that the terminal is to have while this process is in the foreground; 0 for none.
static WANTED: AtomicU8 = AtomicU8::new(0);

/// The terminal on standard input in raw mode; dropping it puts the terminal back.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Puts the terminal on standard input into `mode`; `None` if standard input is no terminal.
    ///
    /// A process in the background gets the mode when it is brought to the foreground.
    pub fn enter(mode: Mode) -> io::Result<Option<Self>> {
        let stdin = rustix::stdio::stdin();
        let modes = match rustix::termios::tcgetattr(stdin) {
            Ok(modes) => modes,
            Err(Errno::NOTTY | Errno::INVAL | Errno::BADF | Errno::IO | Errno::NODEV) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let copy = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
        // A second entry finds the terminal as the first one found it.
        let _ = FOUND.set((copy, modes));
        signals::install()?;
        WANTED.store(mode as u8, Ordering::SeqCst);
        let this = Self(());
        apply()?;
        Ok(Some(this))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
        WANTED.store(0, Ordering::SeqCst);
    }
}

/// Puts the terminal back as it was found, if it is in raw mode. Calls nothing that a signal handler
/// may not call.
pub fn restore() {
    if WANTED.load(Ordering::SeqCst) == 0 {
        return;
    }
    if let Some((terminal, found)) = FOUND.get()
        && in_foreground(terminal)
    {
        // A terminal that is gone needs no restoring.
        let _ = rustix::termios::tcsetattr(terminal, OptionalActions::Now, found);
    }
}

/// Gives the terminal the wanted mode, unless this process is in the background.
fn apply() -> rustix::io::Result<()> {
    let (Some((terminal, found)), wanted) = (FOUND.get(), WANTED.load(Ordering::SeqCst)) else {
        return Ok(());
    };
    if wanted == 0 || !in_foreground(terminal) {
        return Ok(());
    }
    let mut modes = found.clone();
    if wanted == Mode::Raw as u8 {
        modes.make_raw();
    } else {
        make_shared(&mut modes, wanted == Mode::SharedSignals as u8);
    }
    rustix::termios::tcsetattr(terminal, OptionalActions::Now, &modes)
}

/// A background process that changes the modes would be stopped, and would disturb the foreground.
fn in_foreground(terminal: &OwnedFd) -> bool {
    match rustix::termios::tcgetpgrp(terminal) {
        Ok(group) => group == rustix::process::getpgrp(),
        // Not this process's controlling terminal: nobody's foreground is disturbed.
        Err(_) => true,
    }
}

/// Raw input beside cooked output (termios(3)).
fn make_shared(modes: &mut Termios, signals: bool) {
    modes.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON;
    modes.output_modes |= OutputModes::OPOST;
    modes.local_modes -=
        LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN;
    if !signals {
        modes.local_modes -= LocalModes::ISIG;
    }
    modes.control_modes -= ControlModes::CSIZE | ControlModes::PARENB;
    modes.control_modes |= ControlModes::CS8;
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
}
