//! The connecting side of a socket end: the first attempt, and those that follow.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::super::listener::{resolve, unix_address};
use super::super::{Token, Watch};
use crate::config::SocketAddress;
use crate::error::ChardevError;

/// How long the first attempt may take, where a failure ends the program.
const FIRST_ATTEMPT: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Target {
    Unix(rustix::net::SocketAddrUnix),
    /// The addresses of a host, tried in turn.
    Tcp(Vec<SocketAddr>, usize),
}

/// Makes connections to one address.
#[derive(Debug)]
pub(super) struct Connector {
    name: String,
    target: Target,
    /// The pause between attempts; `None` if there is to be one connection only.
    pause: Option<Duration>,
    timer: OwnedFd,
    timer_token: Token,
    waiting: bool,
    attempt: Option<(OwnedFd, Token)>,
    /// A failure has been logged; the ones that follow are the same.
    complained: bool,
}

impl Connector {
    /// Prepares for `address`, and connects. With a pause for further attempts nothing is an error
    /// but an address that cannot be one; without, the connection is there on return.
    pub(super) fn open(
        id: &str,
        address: &SocketAddress,
        pause: Option<Duration>,
    ) -> Result<(Self, Option<OwnedFd>), ChardevError> {
        let (name, target) = target(id, address)?;
        let clock = TimerfdClockId::Monotonic;
        let timer =
            rustix::time::timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
                .map_err(|error| ChardevError::Events {
                    id: id.to_owned(),
                    source: error.into(),
                })?;
        let mut this = Self {
            name,
            target,
            pause,
            timer,
            timer_token: Token::new(),
            waiting: false,
            attempt: None,
            complained: false,
        };
        let connected = if pause.is_some() {
            this.start()
        } else {
            Some(this.connect_now().map_err(|source| ChardevError::Connect {
                id: id.to_owned(),
                address: this.name.clone(),
                source,
            })?)
        };
        Ok((this, connected))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn watches(&self) -> [Option<Watch<'_>>; 2] {
        let flags = self.waiting.then_some(EventFlags::IN);
        let timer = Watch {
            fd: self.timer.as_fd(),
            token: self.timer_token,
            flags,
        };
        let attempt = self.attempt.as_ref().map(|(fd, token)| Watch {
            fd: fd.as_fd(),
            token: *token,
            flags: Some(EventFlags::OUT),
        });
        [Some(timer), attempt]
    }

    /// Tries again after the pause, if that is wanted and not under way already.
    pub(super) fn schedule(&mut self) {
        let Some(pause) = self.pause else { return };
        if self.waiting || self.attempt.is_some() {
            return;
        }
        // A zero would disarm the timer.
        let pause = pause.max(Duration::from_millis(1));
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: pause.subsec_nanos().into(),
            },
        };
        match rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            Ok(_) => self.waiting = true,
            Err(error) => {
                log::error!(target: "console", "No more attempts to reach {}: {error}", self.name);
            }
        }
    }

    /// One of the watched descriptors is ready. Returns the connection if there is one now.
    pub(super) fn ready(&mut self, token: Token) -> Option<OwnedFd> {
        if token == self.timer_token {
            // The count of expiries does not matter.
            let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
            self.waiting = false;
            return self.start();
        }
        let (fd, _) = self.attempt.take_if(|(_, attempt)| *attempt == token)?;
        match sockopt::socket_error(&fd) {
            Ok(Ok(())) => Some(self.succeeded(fd)),
            Ok(Err(error)) | Err(error) => {
                self.failed(error);
                None
            }
        }
    }

    /// Begins an attempt that does not block.
    fn start(&mut self) -> Option<OwnedFd> {
        match self.begin() {
            Ok((fd, true)) => return Some(self.succeeded(fd)),
            Ok((fd, false)) => self.attempt = Some((fd, Token::new())),
            Err(error) => self.failed(error),
        }
        None
    }

    fn begin(&self) -> rustix::io::Result<(OwnedFd, bool)> {
        let make = |family| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            rustix::net::socket_with(family, SocketType::STREAM, flags, None)
        };
        let (fd, result) = match &self.target {
            Target::Unix(address) => {
                let fd = make(AddressFamily::UNIX)?;
                let result = rustix::net::connect(&fd, address);
                (fd, result)
            }
            Target::Tcp(addresses, turn) => {
                let address = addresses[turn % addresses.len()];
                let fd = make(if address.is_ipv6() {
                    AddressFamily::INET6
                } else {
                    AddressFamily::INET
                })?;
                let result = rustix::net::connect(&fd, &address);
                (fd, result)
            }
        };
        match result {
            Ok(()) => Ok((fd, true)),
            Err(Errno::INPROGRESS) => Ok((fd, false)),
            Err(error) => Err(error),
        }
    }

    /// Connects while the caller waits.
    fn connect_now(&self) -> io::Result<OwnedFd> {
        let Target::Tcp(addresses, _) = &self.target else {
            return Ok(self.begin()?.0);
        };
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect_timeout(address, FIRST_ATTEMPT) {
                Ok(stream) => {
                    stream.set_nonblocking(true)?;
                    return Ok(stream.into());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn succeeded(&mut self, fd: OwnedFd) -> OwnedFd {
        self.complained = false;
        fd
    }

    fn failed(&mut self, error: Errno) {
        if !std::mem::replace(&mut self.complained, true) {
            log::warn!(target: "console", "Cannot connect to {} yet: {error}", self.name);
        }
        if let Target::Tcp(_, turn) = &mut self.target {
            *turn = turn.wrapping_add(1);
        }
        self.schedule();
    }
}

fn target(id: &str, address: &SocketAddress) -> Result<(String, Target), ChardevError> {
    match address {
        SocketAddress::Unix(path) => {
            let path: &PathBuf = path;
            Ok((
                format!("unix:{}", path.display()),
                Target::Unix(unix_address(id, path)?),
            ))
        }
        SocketAddress::Tcp { host, port } => {
            let addresses = resolve(id, host, "localhost", *port)?;
            Ok((format!("tcp:{host}:{port}"), Target::Tcp(addresses, 0)))
        }
        SocketAddress::Fd(fd) => Err(ChardevError::Descriptor {
            id: id.to_owned(),
            fd: *fd,
            source: io::Error::from(io::ErrorKind::InvalidInput),
        }),
    }
}
