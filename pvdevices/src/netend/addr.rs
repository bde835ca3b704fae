//! Socket addresses of host ends, resolved once.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::NetEndError;
use super::config::Address;

/// An address that a socket can be bound or connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    Unix(PathBuf),
    Inet(SocketAddr),
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "'{}'", path.display()),
            Self::Inet(addr) => write!(f, "{addr}"),
        }
    }
}

impl Resolved {
    /// Looks an address up; a passed descriptor is none. An empty host is every address for the
    /// side that binds, and the local one for the other.
    pub(super) fn of(address: &Address, binds: bool) -> Result<Self, NetEndError> {
        match address {
            Address::Unix(path) => Ok(Self::Unix(path.clone())),
            Address::Fd(_) => Err(NetEndError::Addresses(
                "A passed descriptor cannot stand for an address; write a host and port or a path",
            )),
            Address::Inet { host, port } => {
                let host = match host.as_str() {
                    "" if binds => "0.0.0.0",
                    "" => "127.0.0.1",
                    host => host,
                };
                let found = (host, *port).to_socket_addrs().ok();
                let first = found.and_then(|mut addrs| addrs.next());
                first
                    .map(Self::Inet)
                    .ok_or_else(|| NetEndError::NoAddress(host.to_owned()))
            }
        }
    }

    /// A new socket of the address's family that does not block.
    pub(super) fn socket(&self, kind: SocketType) -> Result<OwnedFd, Errno> {
        let family = match self {
            Self::Unix(_) => AddressFamily::UNIX,
            Self::Inet(SocketAddr::V4(_)) => AddressFamily::INET,
            Self::Inet(SocketAddr::V6(_)) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        net::socket_with(family, kind, flags, None)
    }

    pub(super) fn bind(&self, socket: &OwnedFd) -> Result<(), Errno> {
        match self {
            Self::Unix(path) => net::bind(socket, &SocketAddrUnix::new(path)?),
            Self::Inet(addr) => net::bind(socket, addr),
        }
    }

    pub(super) fn connect(&self, socket: &OwnedFd) -> Result<(), Errno> {
        match self {
            Self::Unix(path) => net::connect(socket, &SocketAddrUnix::new(path)?),
            Self::Inet(addr) => net::connect(socket, addr),
        }
    }

    /// An error that names the address.
    pub(super) fn error(&self, action: &'static str) -> impl Fn(Errno) -> NetEndError {
        let address = self.to_string();
        move |errno| NetEndError::Socket {
            action,
            address: address.clone(),
            source: errno.into(),
        }
    }
}
