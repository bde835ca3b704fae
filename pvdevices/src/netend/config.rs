//! What a network device's host end is to be: plain data, filled in from the command line.
//!
//! Nothing here parses text or touches the host; [`super::open`] does what is written here.

use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

/// One host end (`-netdev`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevConfig {
    /// `id=`: what a network device refers to it by.
    pub id: String,
    /// What it is.
    pub backend: NetdevBackend,
}

/// The kinds of host ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetdevBackend {
    /// `tap`: a network interface of the host.
    Tap(TapConfig),
    /// `bridge`: a tap in a bridge, made by QEMU's helper with the set-user-id bit.
    Bridge(BridgeConfig),
    /// `user`: the host's own connections, through passt.
    User(UserConfig),
    /// `stream`, and `socket` with `connect=` or `listen=`: another process over a stream socket.
    Stream(StreamConfig),
    /// `dgram`, and `socket` with `mcast=` or `udp=`: other processes over datagrams.
    Dgram(DgramConfig),
}

/// A tap interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapConfig {
    /// Which interface.
    pub source: TapSource,
    /// `script=`: a program that is run with the interface's name once it is there.
    pub script: Option<PathBuf>,
    /// `downscript=`: one that is run before it goes.
    pub downscript: Option<PathBuf>,
    /// `vnet_hdr=`: packets carry what of their checksums and segmentation is left to do. `None`
    /// is "where the host can".
    pub vnet_hdr: Option<bool>,
}

/// Where a tap comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSource {
    /// The interface of this name, made if there is none; without a name the host chooses one. Made
    /// interfaces go with the process.
    Interface {
        /// `ifname=`, at most 15 bytes.
        name: Option<String>,
        /// `queues=`, from 1.
        queues: usize,
    },
    /// `fd=`, `fds=`: descriptors that the parent left open, one a queue.
    Fds(Vec<RawFd>),
}

/// A tap in a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// `br=`: the bridge.
    pub bridge: String,
    /// `helper=`: the program that makes the tap; `None` is the first of the places where
    /// distributions put `qemu-bridge-helper`.
    pub helper: Option<PathBuf>,
}

/// The user's own network, through passt. The defaults are QEMU's: 10.0.2.0/24, where the guest
/// is 10.0.2.15, the host 10.0.2.2 and the name server 10.0.2.3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserConfig {
    /// `dhcpstart=`: the guest's IPv4 address.
    pub guest: Ipv4Addr,
    /// `net=`: the bits of its network's mask.
    pub prefix: u8,
    /// `host=`: the address at which the guest finds the host, its gateway.
    pub host: Ipv4Addr,
    /// `dns=`: the address at which the guest finds the host's name server.
    pub dns: Ipv4Addr,
    /// `dnssearch=`, `domainname=`: domains in which names are searched.
    pub search: Vec<String>,
    /// `ipv4=`.
    pub ipv4: bool,
    /// `ipv6=`.
    pub ipv6: bool,
    /// `hostfwd=`, in order.
    pub forwards: Vec<Forward>,
}

impl Default for UserConfig {
    fn default() -> Self {
        Self {
            guest: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            host: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
            search: Vec::new(),
            ipv4: true,
            ipv6: true,
            forwards: Vec::new(),
        }
    }
}

/// A port of the host that leads into the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Which protocol.
    pub protocol: ForwardProtocol,
    /// The host's address; `None` is any.
    pub host_addr: Option<Ipv4Addr>,
    /// The host's port, not 0.
    pub host_port: u16,
    /// The guest's port, not 0.
    pub guest_port: u16,
}

/// What a [`Forward`] forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardProtocol {
    /// TCP connections.
    Tcp,
    /// UDP datagrams.
    Udp,
}

/// Frames over a stream socket, each behind its length as 4 bytes, big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// The address of this end (server) or of the other (client).
    pub address: Address,
    /// `server=on`: waits for the other process, one at a time.
    pub server: bool,
    /// `reconnect=`: a client tries again after this time; `None` never.
    pub reconnect: Option<Duration>,
}

/// Frames as datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DgramConfig {
    /// Where this end receives.
    pub local: Option<Address>,
    /// Where frames are sent; an IPv4 multicast group may be joined by any number of processes.
    pub remote: Option<Address>,
    /// `localaddr=` of a multicast group: the host's address on the interface to use.
    pub interface: Option<Ipv4Addr>,
}

/// A socket's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket in the file system.
    Unix(PathBuf),
    /// A host's name or address (IPv6 without brackets; empty for every or the local one), and a port.
    Inet {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// A socket that the parent left open.
    Fd(RawFd),
}
