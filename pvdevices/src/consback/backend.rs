//! A domain's console as an event loop sees it: one descriptor, two calls.
//!
//! Wiring: watch the backend's descriptor ([`AsRawFd`]) for input, level-triggered, and call
//! [`ConsoleBackend::on_ready`] when it is readable; call [`ConsoleBackend::on_guest_event`] when the
//! domain sends an event on the console's channel. Look at [`ConsoleBackend::take_events`] after
//! each. Nothing here blocks but [`ConsoleBackend::finish`].

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use xenner_console::{Chardev, ChardevEvent, ChardevState};

use super::ring::ConsoleRing;
use crate::domain::{Notify, SharedPage};

/// Bytes of hypervisor console output that wait for a slow listener, before more are lost.
pub const DEBUG_BOUND: usize = 16 << 10;

/// What a console holds beside its page, for a saved or migrated domain. The ring's own indices are
/// in the page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsoleState {
    /// The domain has broken the protocol and its console is closed.
    pub closed: bool,
    /// Hypervisor console output that waits for a slow listener.
    pub debug: Vec<u8>,
    /// What is on its way in the character device.
    pub end: ChardevState,
}

/// Bytes that a console has moved, over all its domains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the domain to the user.
    pub to_user: u64,
    /// From the user to the domain.
    pub to_domain: u64,
}

/// Violations that are told in the log; a domain that connects again could make them without end.
const TOLD_VIOLATIONS: u32 = 10;

/// A console ring, its character device, and the hypervisor console beside it.
#[derive(Debug)]
pub struct ConsoleBackend {
    end: Chardev,
    ring: Option<ConsoleRing>,
    debug: VecDeque<u8>,
    debug_lost: u64,
    debug_last: u8,
    traffic: Traffic,
    violations: u32,
}

impl ConsoleBackend {
    /// A console on `end`, without a domain yet.
    pub fn new(end: Chardev) -> Self {
        Self {
            end,
            ring: None,
            debug: VecDeque::new(),
            debug_lost: 0,
            debug_last: 0,
            traffic: Traffic::default(),
            violations: 0,
        }
    }

    /// Serves the ring in `page` from now on, in place of any other: for a new domain, a rebooted one
    /// (whose last output must be pumped before) and a restored one.
    pub fn connect(&mut self, page: Box<dyn SharedPage>, notify: Box<dyn Notify>) {
        // The old ring's last act is on its page; that must not come after the new one's first.
        self.ring = None;
        self.ring = Some(ConsoleRing::new(page, notify));
        self.pump();
    }

    /// Stops serving the ring, after a last look at it.
    pub fn disconnect(&mut self) {
        self.pump();
        self.ring = None;
        self.end.set_wants_input(false);
    }

    /// The character device.
    pub fn end(&self) -> &Chardev {
        &self.end
    }

    /// The character device, for the monitor's commands on it.
    pub fn end_mut(&mut self) -> &mut Chardev {
        &mut self.end
    }

    /// Whether a violation of the protocol has closed the ring.
    pub fn is_closed(&self) -> bool {
        self.ring.as_ref().is_some_and(ConsoleRing::is_closed)
    }

    /// Whether the domain has not taken all input that is in its ring.
    pub fn has_unread_input(&self) -> bool {
        self.ring
            .as_ref()
            .is_some_and(ConsoleRing::has_unread_input)
    }

    /// What it has moved.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The descriptor is readable: something happened on the user's side.
    pub fn on_ready(&mut self) {
        self.end.dispatch();
        self.pump();
    }

    /// The domain sent an event on the console's channel.
    pub fn on_guest_event(&mut self) {
        self.pump();
    }

    /// What happened on the user's side since the last call.
    pub fn take_events(&mut self) -> Vec<ChardevEvent> {
        self.end.take_events()
    }

    /// Output of the hypervisor console (`console_io`, early printk), between the ring's own.
    ///
    /// A line feed gets the carriage return that such output lacks. With a slow listener
    /// [`DEBUG_BOUND`] bytes wait; what is beyond is lost, and a line says how much.
    pub fn write_debug(&mut self, bytes: &[u8]) {
        self.flush_debug();
        for &byte in bytes {
            if self.debug.len() + 2 > DEBUG_BOUND {
                self.debug_lost += 1;
                continue;
            }
            if byte == b'\n' && self.debug_last != b'\r' {
                self.debug.push_back(b'\r');
            }
            self.debug.push_back(byte);
            self.debug_last = byte;
        }
        self.flush_debug();
    }

    /// Copies the state of a domain that does not run.
    pub fn save(&self) -> ConsoleState {
        ConsoleState {
            closed: self.is_closed(),
            debug: self.debug.iter().copied().collect(),
            end: self.end.save(),
        }
    }

    /// Takes over a saved state, after [`connect`](Self::connect) to the restored page.
    pub fn restore(&mut self, state: &ConsoleState) {
        if let (true, Some(ring)) = (state.closed, &mut self.ring) {
            ring.close();
        }
        self.end.restore(&state.end);
        self.write_debug(&state.debug);
        self.pump();
    }

    /// The domain is ending: takes what it printed last, and waits for a slow listener no longer than
    /// `patience`. The character device stays open.
    pub fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.pump() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let Ok(timeout) = Timespec::try_from(left) else {
                return;
            };
            let mut fds = [PollFd::new(&self.end, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => self.end.dispatch(),
                Err(_) => return,
            }
        }
    }

    /// Moves what can be moved. True if output is left that could not be.
    fn pump(&mut self) -> bool {
        let stalled = !self.flush_debug();
        let Some(ring) = &mut self.ring else {
            return stalled;
        };
        match ring.pump(&mut self.end) {
            Ok(pumped) => {
                self.traffic.to_user += pumped.to_user as u64;
                self.traffic.to_domain += pumped.to_domain as u64;
                self.end.set_wants_input(pumped.wants_input);
                if pumped.more {
                    self.end.kick();
                }
                stalled || pumped.stalled || pumped.more
            }
            Err(violation) => {
                self.violations = self.violations.saturating_add(1);
                let level = match self.violations {
                    ..=TOLD_VIOLATIONS => log::Level::Warn,
                    _ => log::Level::Debug,
                };
                let id = self.end.id();
                log::log!(
                    target: "console", level,
                    "The domain's console on {id} is closed: {violation}"
                );
                self.end
                    .say("\r\nxenner: console closed, the domain broke the ring's protocol\r\n");
                self.end.set_wants_input(false);
                false
            }
        }
    }

    /// True if nothing waits any more.
    fn flush_debug(&mut self) -> bool {
        loop {
            let (front, _) = self.debug.as_slices();
            if front.is_empty() {
                break;
            }
            let offered = front.len();
            let taken = self.end.write(front).min(offered);
            self.debug.drain(..taken);
            if taken < offered {
                return false;
            }
        }
        let lost = std::mem::take(&mut self.debug_lost);
        if lost > 0 {
            let note = format!("\r\nxenner: {lost} bytes of hypervisor console output lost\r\n");
            self.debug.extend(note.as_bytes());
            return self.flush_debug();
        }
        true
    }
}

impl AsFd for ConsoleBackend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl AsRawFd for ConsoleBackend {
    fn as_raw_fd(&self) -> RawFd {
        self.end.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
