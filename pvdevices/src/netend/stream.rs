//! Frames over a stream socket, each behind its length as 4 bytes, big-endian: what QEMU's
//! `-netdev stream` and `socket` speak, and passt.
//!
//! Several frames go through one system call where they come together: what arrives is read in
//! large pieces, what is sent is gathered until [`NetEnd::flush`].

use std::fmt::{self, Debug};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use log::{info, warn};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use xenner_console::FdSource;

use super::addr::Resolved;
use super::config::{Address, StreamConfig};
use super::passt::Process;
use super::{MAX_FRAME, MIN_FRAME, NetEnd, NetEndError, Offload, Offloads, Sent, Wait};

/// Bytes of the length in front of a frame.
const PREFIX: usize = 4;
/// The most bytes of a frame that a peer may announce: QEMU's buffer (`NET_BUFSIZE`).
const MAX_ANNOUNCED: usize = 4096 + 65536;
/// Bytes read at a time, and room for an unfinished frame.
const INPUT: usize = 256 << 10;
/// Bytes that gather before they are sent without a flush.
const OUTPUT: usize = 128 << 10;
/// A server's queue of processes that wait for their turn.
const BACKLOG: i32 = 1;

/// Where the connection stands.
#[derive(Debug)]
enum State {
    /// A server waits for a peer.
    Listening,
    /// A client's connection is being made.
    Connecting(OwnedFd),
    /// Frames pass.
    Connected(OwnedFd),
    /// A client tries again at this time.
    Waiting(Instant),
    /// It will not come back.
    Ended,
}

/// The other side, as far as it is needed to find it again.
#[derive(Debug)]
enum Peer {
    /// Whoever connects to this socket.
    Clients(OwnedFd),
    /// The server at this address, tried again after this time.
    Server(Resolved, Duration),
    /// Nobody else.
    Once,
}

/// A host end on a stream socket.
pub struct StreamEnd {
    name: String,
    state: State,
    peer: Peer,
    input: Box<[u8]>,
    /// The unread part of `input`.
    unread: std::ops::Range<usize>,
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    sent: usize,
    /// passt, if it is at the other side.
    process: Option<Process>,
}

impl Debug for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamEnd")
            .field("name", &self.name)
            .field("state", &self.state)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl StreamEnd {
    /// Opens the end that `config` describes; `name` is what the log calls it.
    ///
    /// # Errors
    /// The address cannot be listened at or, without `reconnect`, connected to.
    pub fn open(
        name: &str,
        config: &StreamConfig,
        fds: &mut dyn FdSource,
    ) -> Result<Self, NetEndError> {
        if let Address::Fd(fd) = config.address {
            return Self::passed(name, fd, fds);
        }
        let address = Resolved::of(&config.address, config.server)?;
        if config.server {
            let listener = listen(&address)?;
            info!(target: "xenner::net", "{name}: waits for a peer at {address}");
            return Ok(Self::new(name, State::Listening, Peer::Clients(listener)));
        }
        match config.reconnect {
            Some(every) => {
                let peer = Peer::Server(address, every);
                let mut end = Self::new(name, State::Waiting(Instant::now()), peer);
                end.advance();
                Ok(end)
            }
            None => {
                let socket = connect(&address)?;
                Ok(Self::new(name, State::Connected(socket), Peer::Once))
            }
        }
    }

    /// An end on a connected socket.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn connected(name: &str, socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self::new(name, State::Connected(socket), Peer::Once))
    }

    pub(super) fn with_process(mut self, process: Process) -> Self {
        self.process = Some(process);
        self
    }

    fn new(name: &str, state: State, peer: Peer) -> Self {
        Self {
            name: name.to_owned(),
            state,
            peer,
            input: vec![0; INPUT].into(),
            unread: 0..0,
            output: Vec::with_capacity(OUTPUT + MAX_FRAME),
            sent: 0,
            process: None,
        }
    }

    /// A descriptor of the parent's: connected, or one that listens.
    fn passed(name: &str, fd: i32, fds: &mut dyn FdSource) -> Result<Self, NetEndError> {
        let bad = |what| move |source: io::Error| NetEndError::BadFd { fd, what, source };
        let socket = fds.take(fd).map_err(bad("not open"))?;
        let no_socket = bad("no stream socket");
        let listens =
            sockopt::socket_acceptconn(&socket).map_err(|errno| no_socket(errno.into()))?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| no_socket(errno.into()))?;
        Ok(if listens {
            Self::new(name, State::Listening, Peer::Clients(socket))
        } else {
            Self::new(name, State::Connected(socket), Peer::Once)
        })
    }

    /// Takes the next client, if one waits.
    fn accept(&mut self) {
        let Peer::Clients(listener) = &self.peer else {
            return;
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match net::accept_with(listener, flags) {
            Ok(socket) => self.connection(socket),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => self.end(&format!("cannot take a peer: {errno}")),
        }
    }

    fn connection(&mut self, socket: OwnedFd) {
        if is_its_own_peer(&socket) {
            return self.retry();
        }
        if sockopt::socket_domain(&socket) != Ok(AddressFamily::UNIX)
            && let Err(errno) = sockopt::set_tcp_nodelay(&socket, true)
        {
            log::debug!(target: "xenner::net", "{}: small frames may wait: {errno}", self.name);
        }
        info!(target: "xenner::net", "{}: connected", self.name);
        self.state = State::Connected(socket);
    }

    /// Starts a client's connection.
    fn dial(&mut self) {
        let Peer::Server(address, _) = &self.peer else {
            return;
        };
        let begun =
            address
                .socket(SocketType::STREAM)
                .and_then(|socket| match address.connect(&socket) {
                    Ok(()) => Ok((socket, true)),
                    Err(Errno::INPROGRESS) => Ok((socket, false)),
                    Err(errno) => Err(errno),
                });
        match begun {
            Ok((socket, true)) => self.connection(socket),
            Ok((socket, false)) => self.state = State::Connecting(socket),
            Err(_) => self.retry(),
        }
    }

    fn retry(&mut self) {
        if let Peer::Server(_, every) = self.peer {
            self.state = State::Waiting(Instant::now() + every);
        }
    }

    /// The connection is lost: what was under way with it goes, and the next one is waited for.
    fn lost(&mut self, why: &str) {
        self.unread = 0..0;
        self.output.clear();
        self.sent = 0;
        match self.peer {
            Peer::Clients(_) => {
                info!(target: "xenner::net", "{}: {why}; waits for the next peer", self.name);
                self.state = State::Listening;
            }
            Peer::Server(..) => {
                info!(target: "xenner::net", "{}: {why}; will connect again", self.name);
                self.retry();
            }
            Peer::Once => self.end(why),
        }
    }

    fn end(&mut self, why: &str) {
        let process = self.process.take().map(Process::epitaph);
        let why = process.as_deref().unwrap_or(why);
        warn!(target: "xenner::net", "{}: {why}; its link is down from here on", self.name);
        self.state = State::Ended;
    }

    /// Sends what has gathered, as far as the socket takes it.
    fn push_out(&mut self) {
        while let State::Connected(socket) = &self.state
            && self.sent < self.output.len()
        {
            match net::send(socket, &self.output[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(errno) => return self.lost(&format!("the peer is gone ({errno})")),
            }
        }
        self.output.clear();
        self.sent = 0;
    }

    /// The length of the whole frame at the front of the input, if it is there.
    fn next_frame(&mut self) -> Result<Option<usize>, usize> {
        let head = &self.input[self.unread.clone()];
        let Some((prefix, rest)) = head.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        match u32::from_be_bytes(*prefix) as usize {
            length if length > MAX_ANNOUNCED => Err(length),
            length if rest.len() < length => Ok(None),
            length => Ok(Some(length)),
        }
    }

    /// Reads more; false if there is none.
    fn pull_in(&mut self) -> bool {
        let State::Connected(socket) = &self.state else {
            return false;
        };
        self.input.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let room = &mut self.input[self.unread.end..];
        match rustix::io::read(socket, room) {
            Ok(0) => self.lost("the peer has closed the connection"),
            Ok(count) => {
                self.unread.end += count;
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => self.lost(&format!("the peer is gone ({errno})")),
        }
        false
    }
}

fn listen(address: &Resolved) -> Result<OwnedFd, NetEndError> {
    let error = address.error("listen at");
    let socket = address.socket(SocketType::STREAM).map_err(&error)?;
    match address {
        // What a process that ended left behind, as QEMU has it.
        Resolved::Unix(path) => match std::fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(NetEndError::Socket {
                    action: "replace the socket",
                    address: address.to_string(),
                    source,
                });
            }
            _ => {}
        },
        Resolved::Inet(_) => sockopt::set_socket_reuseaddr(&socket, true).map_err(&error)?,
    }
    address.bind(&socket).map_err(&error)?;
    net::listen(&socket, BACKLOG).map_err(&error)?;
    Ok(socket)
}

/// A client that calls a local port where nobody listens may get that very port for itself, and then
/// TCP connects it to itself (RFC 9293, simultaneous open).
fn is_its_own_peer(socket: &OwnedFd) -> bool {
    match (net::getsockname(socket), net::getpeername(socket)) {
        (Ok(own), Ok(Some(peer))) => own == peer && own.address_family() != AddressFamily::UNIX,
        _ => false,
    }
}

/// Connects now, waiting for it.
fn connect(address: &Resolved) -> Result<OwnedFd, NetEndError> {
    let error = address.error("connect to");
    let socket = address.socket(SocketType::STREAM).map_err(&error)?;
    rustix::io::ioctl_fionbio(&socket, false).map_err(&error)?;
    address.connect(&socket).map_err(&error)?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(&error)?;
    Ok(socket)
}

impl NetEnd for StreamEnd {
    fn wait(&self) -> Wait<'_> {
        let mut wait = Wait::default();
        match (&self.state, &self.peer) {
            (State::Listening, Peer::Clients(listener)) => wait.fd = Some(listener.as_fd()),
            (State::Connecting(socket), _) => {
                wait.fd = Some(socket.as_fd());
                wait.writable = true;
            }
            (State::Connected(socket), _) => {
                wait.fd = Some(socket.as_fd());
                wait.writable = self.sent < self.output.len();
            }
            (State::Waiting(until), _) => wait.deadline = Some(*until),
            _ => {}
        }
        wait
    }

    fn advance(&mut self) {
        match &self.state {
            State::Listening => self.accept(),
            State::Connecting(socket) => match sockopt::socket_error(socket) {
                Ok(Ok(())) => {
                    if let State::Connecting(socket) =
                        std::mem::replace(&mut self.state, State::Ended)
                    {
                        self.connection(socket);
                    }
                }
                _ => self.retry(),
            },
            State::Waiting(until) if *until <= Instant::now() => self.dial(),
            State::Connected(_) => self.push_out(),
            _ => {}
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    fn send_offloads(&self) -> Offloads {
        Offloads::empty()
    }

    fn set_receive_offloads(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, _: &Offload, frame: &[u8]) -> Sent {
        if !self.is_up() {
            return Sent::Dropped;
        }
        if self.output.len() - self.sent >= OUTPUT {
            self.push_out();
            if self.output.len() - self.sent >= OUTPUT {
                return Sent::Busy;
            }
        }
        let Ok(length) = u32::try_from(frame.len()) else {
            return Sent::Dropped;
        };
        // Makes room for what is added; sent bytes go.
        self.output.drain(..std::mem::take(&mut self.sent));
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(frame);
        Sent::Done
    }

    fn flush(&mut self) {
        if self.sent < self.output.len() {
            self.push_out();
        }
    }

    fn receive(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)> {
        if matches!(self.state, State::Listening) {
            self.accept();
        }
        loop {
            match self.next_frame() {
                Err(length) => {
                    self.lost(&format!("the peer announces a frame of {length} bytes"));
                    return None;
                }
                Ok(Some(length)) => {
                    let start = self.unread.start + PREFIX;
                    self.unread.start = start + length;
                    if !(MIN_FRAME..=buf.len()).contains(&length) {
                        continue;
                    }
                    buf[..length].copy_from_slice(&self.input[start..start + length]);
                    return Some((length, Offload::default()));
                }
                Ok(None) if !self.pull_in() => return None,
                Ok(None) => {}
            }
        }
    }

    fn set_enabled(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}
