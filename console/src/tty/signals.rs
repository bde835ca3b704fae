//! The ways out of a process that run no destructors, each made to pass by [`restore`].
//!
//! Only signals that nobody handles or ignores are touched: a program that takes SIGTERM through a
//! signalfd or a handler of its own keeps it, and comes here by its destructors.

#![expect(unsafe_code)]
// UNSAFETY: `sigaction` and `atexit` have no safe form that leaves other dispositions alone.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Once;

use libc::c_int;
use rustix::process::{Signal, getpid, kill_process};

use super::{apply, restore};

/// Signals that end a process which does not handle them, and may come from a user or a shell.
const DEADLY: [c_int; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGABRT,
    libc::SIGPIPE,
];

/// Installs everything, the first time it is called.
pub(super) fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = install_once());
    result
}

fn install_once() -> io::Result<()> {
    for signal in DEADLY {
        handle_if_default(signal, on_deadly, libc::SA_RESETHAND)?;
    }
    handle_if_default(libc::SIGTSTP, on_stop, libc::SA_RESTART)?;
    handle_if_default(libc::SIGCONT, on_continue, libc::SA_RESTART)?;
    // SAFETY: `at_exit` is an extern "C" function without arguments that neither panics nor unwinds.
    if unsafe { libc::atexit(at_exit) } != 0 {
        return Err(io::Error::other("no room for an exit handler"));
    }
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        earlier(info);
    }));
    Ok(())
}

/// Sets `handler` for `signal` if its disposition is the default.
fn handle_if_default(signal: c_int, handler: extern "C" fn(c_int), flags: c_int) -> io::Result<()> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `old` is a valid place for the answer.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are a valid `sigaction`, and the call above has filled it in.
    let mut action = unsafe { old.assume_init() };
    if action.sa_sigaction != libc::SIG_DFL {
        return Ok(());
    }
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = flags;
    // SAFETY: `action` is initialised, and the handlers of this module call only tcgetpgrp,
    // tcsetattr, getpgrp, getpid and kill, which are async-signal-safe, and read atomics.
    if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn at_exit() {
    restore();
}

/// SA_RESETHAND has put the default back: the signal sent again takes the process down on return.
extern "C" fn on_deadly(signal: c_int) {
    restore();
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = kill_process(getpid(), signal);
    }
}

extern "C" fn on_stop(_signal: c_int) {
    restore();
    let _ = kill_process(getpid(), Signal::STOP);
}

extern "C" fn on_continue(_signal: c_int) {
    let _ = apply();
}
