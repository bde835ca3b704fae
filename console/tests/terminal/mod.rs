//! A terminal for a child process: a pty whose master the test holds.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Termios};

pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Terminal {
    master: File,
    slave: OwnedFd,
    seen: Vec<u8>,
}

impl Terminal {
    pub fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        Self {
            master: master.into(),
            slave,
            seen: Vec::new(),
        }
    }

    /// Starts `command` with this terminal on its three standard descriptors.
    pub fn spawn(&self, command: &mut Command) -> Child {
        let side = || Stdio::from(self.slave.try_clone().unwrap());
        command
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap()
    }

    pub fn modes(&self) -> Termios {
        rustix::termios::tcgetattr(&self.slave).unwrap()
    }

    pub fn is_raw(&self) -> bool {
        !self
            .modes()
            .local_modes
            .intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    pub fn type_keys(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Collects what the terminal shows for up to `millis`. True if there was something.
    fn look(&mut self, millis: i64) -> bool {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: millis * 1_000_000,
        };
        let mut fds = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 0 {
            return false;
        }
        let mut buf = [0; 4096];
        let got = self.master.read(&mut buf).unwrap();
        self.seen.extend(&buf[..got]);
        true
    }

    /// Everything shown since the last call that returned, up to and with `text`.
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let at = self
                .seen
                .windows(text.len())
                .position(|part| part == text.as_bytes());
            if let Some(at) = at {
                let shown: Vec<u8> = self.seen.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&shown).into_owned();
            }
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            assert!(Instant::now() < deadline, "no {text:?} in {seen:?}");
            self.look(100);
        }
    }
}

pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the child ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}
