//! Frames as datagrams, over UDP (a multicast group among them) or unix sockets: what QEMU's
//! `-netdev dgram` and `socket` with `mcast=` or `udp=` speak.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use log::{debug, warn};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, SocketAddrAny, SocketType, sockopt};
use xenner_console::FdSource;

use super::addr::Resolved;
use super::config::{Address, DgramConfig};
use super::{MIN_FRAME, NetEnd, NetEndError, Offload, Offloads, Sent, Wait};

/// Datagrams that one [`NetEnd::receive`] passes over.
const MAX_IGNORED: usize = 64;

/// A host end on a datagram socket.
#[derive(Debug)]
pub struct DgramEnd {
    name: String,
    socket: OwnedFd,
    /// Where frames go; `None` if the sending socket is connected.
    remote: Option<Resolved>,
    /// For a multicast group: the socket that sends, and its address, by which this end knows its
    /// own frames when the group gives them back.
    sender: Option<(OwnedFd, SocketAddrAny)>,
    failed: bool,
}

impl DgramEnd {
    /// Opens the end that `config` describes; `name` is what the log calls it.
    ///
    /// # Errors
    /// An address cannot be used, or there is none.
    pub fn open(
        name: &str,
        config: &DgramConfig,
        fds: &mut dyn FdSource,
    ) -> Result<Self, NetEndError> {
        let end = |socket, remote| Self {
            name: name.to_owned(),
            socket,
            remote,
            sender: None,
            failed: false,
        };
        if let Some(Address::Fd(fd)) = config.local {
            let socket = fds.take(fd).map_err(|source| NetEndError::BadFd {
                fd,
                what: "not open",
                source,
            })?;
            rustix::io::ioctl_fionbio(&socket, true)
                .map_err(NetEndError::host("set up the passed datagram socket"))?;
            let remote = config.remote.as_ref().map(|at| Resolved::of(at, false));
            return Ok(end(socket, remote.transpose()?));
        }
        let remote = config.remote.as_ref().map(|at| Resolved::of(at, false));
        let remote = remote.transpose()?;
        if let Some(Resolved::Inet(SocketAddr::V4(group))) = &remote
            && group.ip().is_multicast()
        {
            return Self::group(name, (*group).into(), config.interface);
        }
        let Some(local) = &config.local else {
            return Err(NetEndError::Addresses(
                "There is no address to receive at; add the local one",
            ));
        };
        let local = Resolved::of(local, true)?;
        let error = local.error("receive at");
        let socket = local.socket(SocketType::DGRAM).map_err(&error)?;
        if let Resolved::Unix(path) = &local
            && path.exists()
        {
            std::fs::remove_file(path).map_err(|source| NetEndError::Socket {
                action: "replace the socket",
                address: local.to_string(),
                source,
            })?;
        }
        local.bind(&socket).map_err(&error)?;
        Ok(end(socket, remote))
    }

    /// Joins a multicast group, of which other ends may be on this host.
    fn group(
        name: &str,
        group: SocketAddr,
        interface: Option<Ipv4Addr>,
    ) -> Result<Self, NetEndError> {
        let at = Resolved::Inet(group);
        let error = at.error("join");
        let SocketAddr::V4(v4) = group else {
            return Err(NetEndError::Addresses("The group must be one of IPv4"));
        };
        let interface = interface.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let receiver = at.socket(SocketType::DGRAM).map_err(&error)?;
        sockopt::set_socket_reuseaddr(&receiver, true).map_err(&error)?;
        at.bind(&receiver).map_err(&error)?;
        sockopt::set_ip_add_membership(&receiver, v4.ip(), &interface).map_err(&error)?;
        let sender = at.socket(SocketType::DGRAM).map_err(&error)?;
        sockopt::set_ip_multicast_loop(&sender, true).map_err(&error)?;
        if interface != Ipv4Addr::UNSPECIFIED {
            sockopt::set_ip_multicast_if(&sender, &interface).map_err(&error)?;
        }
        at.connect(&sender).map_err(&error)?;
        let own = net::getsockname(&sender).map_err(&error)?;
        Ok(Self {
            name: name.to_owned(),
            socket: receiver,
            remote: None,
            sender: Some((sender, own)),
            failed: false,
        })
    }

    fn transmit(&self, frame: &[u8]) -> Result<usize, Errno> {
        let flags = SendFlags::NOSIGNAL;
        let socket = self.sender.as_ref().map_or(&self.socket, |(fd, _)| fd);
        match &self.remote {
            None => net::send(socket, frame, flags),
            Some(Resolved::Inet(at)) => net::sendto(socket, frame, flags, at),
            Some(Resolved::Unix(path)) => {
                let at = net::SocketAddrUnix::new(path)?;
                net::sendto(socket, frame, flags, &at)
            }
        }
    }
}

impl NetEnd for DgramEnd {
    fn wait(&self) -> Wait<'_> {
        Wait {
            fd: (!self.failed).then(|| self.socket.as_fd()),
            ..Wait::default()
        }
    }

    fn advance(&mut self) {}

    fn is_up(&self) -> bool {
        !self.failed
    }

    fn send_offloads(&self) -> Offloads {
        Offloads::empty()
    }

    fn set_receive_offloads(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    /// Datagrams may get lost: one that the host does not take at once is.
    fn send(&mut self, _: &Offload, frame: &[u8]) -> Sent {
        match self.transmit(frame) {
            Ok(_) => Sent::Done,
            Err(errno) => {
                debug!(target: "xenner::net", "{}: a frame is lost: {errno}", self.name);
                Sent::Dropped
            }
        }
    }

    fn flush(&mut self) {}

    fn receive(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)> {
        // Bounded, so that a flood of what is ignored does not keep the queue.
        for _ in 0..MAX_IGNORED {
            match net::recvfrom(
                &self.socket,
                &mut *buf,
                RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            ) {
                Ok((_, length, from)) => {
                    let own = self.sender.as_ref().map(|(_, own)| own);
                    let ours = own.is_some() && own == from.as_ref();
                    if !ours && (MIN_FRAME..=buf.len()).contains(&length) {
                        return Some((length, Offload::default()));
                    }
                }
                Err(Errno::AGAIN) => return None,
                // What the other side's host answered to an earlier frame.
                Err(Errno::CONNREFUSED | Errno::INTR) => {}
                Err(errno) => {
                    warn!(
                        target: "xenner::net",
                        "{}: {errno}; its link is down from here on", self.name
                    );
                    self.failed = true;
                    return None;
                }
            }
        }
        None
    }

    fn set_enabled(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}
