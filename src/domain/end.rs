//! How a domain ends, and who is told.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Reasons of SCHEDOP_shutdown (`xen/include/public/sched.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ShutdownReason {
    Poweroff,
    Reboot,
    Suspend,
    Crash,
    Watchdog,
    SoftReset,
    /// A number that no one has given a meaning.
    Unknown(u32),
}

impl ShutdownReason {
    /// The reason with this number.
    pub fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            n => Self::Unknown(n),
        }
    }
}

/// The end of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest asked for it.
    Shutdown(ShutdownReason),
    /// The guest crashed; the report for the user.
    Crash(String),
    /// The user ended it.
    Quit,
}

impl End {
    /// The end in a few words.
    pub fn summary(&self) -> String {
        match self {
            Self::Shutdown(reason) => format!("the guest asked for {reason:?}"),
            Self::Crash(report) => report.lines().next().unwrap_or("crash").to_owned(),
            Self::Quit => "the user ended it".to_owned(),
        }
    }
}

/// Where the end of a domain is noted, once; waits can watch its event.
#[derive(Debug)]
pub struct EndSignal {
    end: Mutex<Option<End>>,
    over: AtomicBool,
    event: EventFd,
}

impl EndSignal {
    /// Not over yet.
    ///
    /// # Errors
    /// The host gives no event descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            end: Mutex::new(None),
            over: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    fn put(&self, end: End) {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(end);
        self.over.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// The guest asked for the end.
    pub fn set(&self, reason: ShutdownReason) {
        self.put(End::Shutdown(reason));
    }

    /// The guest crashed.
    pub fn set_crash(&self, report: String) {
        self.put(End::Crash(report));
    }

    /// The user ends the domain.
    pub fn quit(&self) {
        self.put(End::Quit);
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The end, if there is one.
    pub fn end(&self) -> Option<End> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Signalled at the end, when a watchdog timer changes, and when a vcpu comes up or goes down.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Wakes whoever waits on the event.
    pub fn wake(&self) {
        // a full counter is as good as one more
        let _ = self.event.write(1);
    }
}
