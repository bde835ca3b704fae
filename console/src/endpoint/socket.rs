//! `socket`: a stream socket, listening or connecting, with one peer at a time.
//!
//! A peer that has gone is kept until what it sent last has been read; only then, or when the next
//! peer arrives, is its descriptor closed.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    sockopt,
};

use super::listener::take_socket;
use super::{Endpoint, Listener, Token, Want, Watch, Watches, poll_now, retry};
use crate::config::{SocketAddress, SocketRole};
use crate::error::ChardevError;
use crate::fdpass::FdSource;

mod connector;
use connector::Connector;

/// Input of a departed peer that is kept when the next one arrives, in bytes.
const RESCUE: usize = 64 << 10;

/// What a second client reads before it is sent away.
pub(crate) const BUSY: &[u8] = b"xenner: another client has this console open\r\n";

/// Descriptors that peers sent and nobody has asked for yet; more are closed.
const MAX_FDS: usize = 32;

/// A connected peer.
#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    token: Token,
    /// A TCP peer that closes looks like one that only stops sending; it counts as gone, as in QEMU.
    /// On a unix socket the two differ.
    half_close_is_close: bool,
    /// It will send no more than is in the kernel's buffer.
    finishing: bool,
    /// All that it sent has been read.
    drained: bool,
    /// Nobody is there to get output.
    gone: bool,
}

/// Where peers come from.
#[derive(Debug)]
enum Source {
    Listener(Listener, Token),
    Connector(Connector),
    /// A connected descriptor that was passed: there is only this one peer.
    Passed(String),
}

/// What else a socket end can be told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketOptions {
    /// TCP's nodelay.
    pub(crate) nodelay: bool,
    /// As [`ChardevOptions::conversation`](crate::ChardevOptions).
    pub(crate) conversation: bool,
}

/// A socket end.
#[derive(Debug)]
pub(crate) struct SocketEnd {
    source: Source,
    stream: Option<Stream>,
    nodelay: bool,
    rescued: VecDeque<u8>,
    /// Accepting failed, for want of descriptors: the listener, which stays ready, is left alone
    /// until the guest prints something.
    paused: bool,
    /// Peers that were there, the one that is included.
    peers: u64,
    /// What one peer says and gets is no other peer's business.
    conversation: bool,
    fds: Vec<OwnedFd>,
}

impl SocketEnd {
    pub(crate) fn open(
        id: &str,
        address: &SocketAddress,
        role: SocketRole,
        options: SocketOptions,
        fds: &mut dyn FdSource,
    ) -> Result<Self, ChardevError> {
        let mut this = match (role, address) {
            (SocketRole::Server { .. }, _) => {
                let listener = Listener::bind(id, address, fds)?;
                Self::new(Source::Listener(listener, Token::new()), options)
            }
            (SocketRole::Client { .. }, SocketAddress::Fd(number)) => {
                let fd = take_socket(id, *number, false, fds)?;
                let mut this = Self::new(Source::Passed(format!("fd:{number}")), options);
                this.install(fd);
                this
            }
            (SocketRole::Client { reconnect }, _) => {
                let (connector, connected) = Connector::open(id, address, reconnect)?;
                let mut this = Self::new(Source::Connector(connector), options);
                connected.into_iter().for_each(|fd| this.install(fd));
                this
            }
        };
        if role == (SocketRole::Server { wait: true }) {
            this.wait_for_peer(id)?;
        }
        Ok(this)
    }

    fn new(source: Source, options: SocketOptions) -> Self {
        Self {
            source,
            stream: None,
            nodelay: options.nodelay,
            rescued: VecDeque::new(),
            paused: false,
            peers: 0,
            conversation: options.conversation,
            fds: Vec::new(),
        }
    }

    /// Blocks until the first peer is there: `wait=on`. No event loop runs yet.
    fn wait_for_peer(&mut self, id: &str) -> Result<(), ChardevError> {
        while !self.connected() {
            let Source::Listener(listener, _) = &self.source else {
                return Ok(());
            };
            eprintln!(
                "xenner: waiting for a connection on {} ({id})",
                listener.name()
            );
            let mut fds = [rustix::event::PollFd::new(listener, PollFlags::IN)];
            retry(|| rustix::event::poll(&mut fds, None)).map_err(|source| {
                ChardevError::Events {
                    id: id.to_owned(),
                    source: source.into(),
                }
            })?;
            self.accept();
        }
        Ok(())
    }

    /// Makes `fd` the peer, in place of one that has gone.
    fn install(&mut self, fd: OwnedFd) {
        if self.conversation {
            self.fds.clear();
        } else {
            self.rescue();
        }
        self.peers += 1;
        let unix = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX);
        if !unix {
            // Neither is needed for the connection to work; a host that vanishes is noticed.
            let _ = sockopt::set_socket_keepalive(&fd, true);
            let _ = sockopt::set_tcp_nodelay(&fd, self.nodelay);
        }
        self.stream = Some(Stream {
            fd,
            token: Token::new(),
            half_close_is_close: !unix,
            finishing: false,
            drained: false,
            gone: false,
        });
    }

    /// Reads what a departed peer left, as far as there is room.
    fn rescue(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut buf = [0; 4096];
        while !stream.drained && self.rescued.len() < RESCUE {
            let got = stream.read(&mut buf);
            if got == 0 {
                break;
            }
            self.rescued.extend(&buf[..got]);
        }
        self.stream = None;
    }

    fn accept(&mut self) {
        let Source::Listener(listener, _) = &self.source else {
            return;
        };
        match listener.accept() {
            Ok(Some(fd)) if self.stream.as_mut().is_some_and(Stream::is_active) => {
                // It may be gone already; then nobody needs the explanation.
                let _ = rustix::net::send(&fd, BUSY, SendFlags::NOSIGNAL);
            }
            Ok(Some(fd)) => self.install(fd),
            Ok(None) => {}
            Err(error) => {
                let name = listener.name();
                log::error!(target: "console", "Cannot accept on {name}: {error}");
                self.paused = true;
            }
        }
    }

    /// Forgets a peer that is gone and fully read, and begins to look for the next.
    fn after_change(&mut self) {
        let gone = self.stream.as_ref().is_none_or(|stream| stream.gone);
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.gone && stream.drained)
        {
            self.stream = None;
        }
        if let (true, Source::Connector(connector)) = (gone, &mut self.source) {
            connector.schedule();
        }
    }
}

impl Stream {
    /// Whether a peer is still there that wants the line for itself.
    fn is_active(&mut self) -> bool {
        let now = poll_now(&self.fd, PollFlags::RDHUP);
        self.finishing |= now.contains(PollFlags::RDHUP);
        self.gone |= now.intersects(PollFlags::HUP | PollFlags::ERR);
        !self.finishing && !self.gone
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        let got = retry(|| rustix::net::recv(&self.fd, &mut *buf, RecvFlags::DONTWAIT));
        self.received(got.map(|(_, got)| got), buf.is_empty())
    }

    /// Reads bytes and the descriptors that came with them.
    fn read_with_fds(&mut self, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> usize {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = retry(|| {
            rustix::net::recvmsg(&self.fd, &mut [IoSliceMut::new(buf)], &mut control, flags)
        });
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                let room = MAX_FDS.saturating_sub(fds.len());
                // those that are not taken out of the iterator are closed with it
                fds.extend(received.take(room));
            }
        }
        if got
            .as_ref()
            .is_ok_and(|got| got.flags.contains(ReturnFlags::CTRUNC))
        {
            log::warn!(target: "console", "A peer sent more descriptors than are taken");
        }
        self.received(got.map(|got| got.bytes), buf.is_empty())
    }

    fn received(&mut self, got: rustix::io::Result<usize>, asked_nothing: bool) -> usize {
        match got {
            Ok(0) if !asked_nothing => {
                self.drained = true;
                self.finishing = true;
                self.gone |= self.half_close_is_close;
                0
            }
            Ok(got) => got,
            Err(Errno::AGAIN) => 0,
            Err(_) => {
                self.drained = true;
                self.gone = true;
                0
            }
        }
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match retry(|| rustix::net::send(&self.fd, data, flags)) {
            Ok(taken) => taken,
            Err(Errno::AGAIN) => 0,
            Err(_) => {
                self.gone = true;
                0
            }
        }
    }

    fn watch(&self, want: Want) -> Watch<'_> {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, want.read && !self.drained);
        flags.set(EventFlags::OUT, want.write);
        flags.set(EventFlags::RDHUP, !self.finishing);
        // A peer that is gone is reported without end; what it left is read when there is room.
        Watch {
            fd: self.fd.as_fd(),
            token: self.token,
            flags: (!self.gone).then_some(flags),
        }
    }

    fn ready(&mut self, flags: EventFlags) {
        if flags.contains(EventFlags::RDHUP) {
            self.finishing = true;
            self.gone |= self.half_close_is_close;
        }
        self.gone |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
    }
}

impl Endpoint for SocketEnd {
    fn filename(&self) -> String {
        let state = if self.connected() {
            ""
        } else {
            "disconnected:"
        };
        match &self.source {
            Source::Listener(listener, _) => format!("{state}{},server=on", listener.name()),
            Source::Connector(connector) => format!("{state}{}", connector.name()),
            Source::Passed(name) => format!("{state}{name}"),
        }
    }

    fn connected(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.gone)
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        if !self.rescued.is_empty() {
            let count = buf.len().min(self.rescued.len());
            for (place, byte) in buf.iter_mut().zip(self.rescued.drain(..count)) {
                *place = byte;
            }
            return count;
        }
        let got = match &mut self.stream {
            Some(stream) if stream.drained => 0,
            Some(stream) if self.conversation => stream.read_with_fds(buf, &mut self.fds),
            Some(stream) => stream.read(buf),
            _ => 0,
        };
        self.after_change();
        got
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let taken = match &mut self.stream {
            Some(stream) if !stream.gone => stream.write(data),
            _ => 0,
        };
        self.after_change();
        taken
    }

    fn watches(&self, want: Want) -> Watches<'_> {
        let stream = self.stream.as_ref().map(|stream| stream.watch(want));
        match &self.source {
            Source::Listener(listener, token) => {
                // A second client of a conversation waits, as QEMU has it wait for its monitor.
                let closed = self.paused || self.conversation && self.connected();
                let flags = (!closed).then_some(EventFlags::IN);
                [
                    stream,
                    Some(Watch {
                        fd: listener.as_fd(),
                        token: *token,
                        flags,
                    }),
                    None,
                ]
            }
            Source::Connector(connector) => {
                let [timer, attempt] = connector.watches();
                [stream, timer, attempt]
            }
            Source::Passed(_) => [stream, None, None],
        }
    }

    fn nudge(&mut self) {
        self.paused = false;
    }

    fn peers(&self) -> u64 {
        self.peers
    }

    fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    fn ready(&mut self, token: Token, flags: EventFlags) {
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.token == token) {
            stream.ready(flags);
            self.after_change();
            return;
        }
        match &mut self.source {
            Source::Listener(_, listening) if *listening == token => self.accept(),
            Source::Connector(connector) => {
                if let Some(fd) = connector.ready(token) {
                    self.install(fd);
                }
            }
            _ => {}
        }
    }
}
