//! Where the headers of a frame are (IEEE 802.3 and 802.1Q, RFC 791, 8200, 9293 and 768).

use crate::netend::{Checksum, GsoKind, Offloads};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_DSTOPTS: u8 = 60;

/// VLAN tags that are passed over.
const MAX_TAGS: usize = 2;
/// Extension headers of IPv6 that are passed over.
const MAX_EXTENSIONS: usize = 8;

/// The network layer, with its header's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The transport layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Places in a frame, all within it: `network` < `transport` < `payload` <= `packet_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Which network layer.
    pub network: Network,
    /// Where its header starts.
    pub network_at: usize,
    /// Which transport layer.
    pub transport: Transport,
    /// Where its header starts.
    pub transport_at: usize,
    /// Where its payload starts.
    pub payload: usize,
    /// Where the IP packet ends by its own account, or the frame if that is sooner.
    pub packet_end: usize,
}

impl Headers {
    /// Where the checksum is, counted from the transport header's start.
    #[must_use]
    pub fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Tcp => 16,
            Transport::Udp => 6,
        }
    }

    /// How a blank checksum is described.
    #[must_use]
    pub fn blank(&self) -> Checksum {
        // Headers end within the first 64 KiB: every length in them has at most 16 bits, and
        // `parse` refuses what does not fit.
        Checksum::Blank {
            start: self.transport_at as u16,
            offset: self.checksum_offset() as u16,
        }
    }

    /// The offload that leaves this checksum to somebody else.
    #[must_use]
    pub fn checksum_offload(&self) -> Offloads {
        match self.network {
            Network::V4 => Offloads::CSUM_V4,
            Network::V6 => Offloads::CSUM_V6,
        }
    }

    /// The segmentation that these headers can have.
    #[must_use]
    pub fn gso_kind(&self) -> Option<GsoKind> {
        match (self.transport, self.network) {
            (Transport::Tcp, Network::V4) => Some(GsoKind::TcpV4),
            (Transport::Tcp, Network::V6) => Some(GsoKind::TcpV6),
            (Transport::Udp, _) => None,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let part = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([part[0], part[1]]))
}

/// Finds the headers of a TCP or UDP packet that is whole; `None` for everything else, fragments
/// among them.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Headers> {
    let mut at = 12;
    let mut kind = word(frame, at)?;
    for _ in 0..MAX_TAGS {
        if ![ETHERTYPE_VLAN, ETHERTYPE_QINQ].contains(&kind) {
            break;
        }
        at += 4;
        kind = word(frame, at)?;
    }
    let network_at = at + 2;
    let (network, transport_at, protocol, length) = match kind {
        ETHERTYPE_IPV4 => ipv4(frame, network_at)?,
        ETHERTYPE_IPV6 => ipv6(frame, network_at)?,
        _ => return None,
    };
    let (transport, payload) = match protocol {
        IPPROTO_TCP => (Transport::Tcp, transport_at + tcp_len(frame, transport_at)?),
        IPPROTO_UDP => (Transport::Udp, transport_at + 8),
        _ => return None,
    };
    let packet_end = frame.len().min(network_at + length);
    if payload > packet_end || payload > usize::from(u16::MAX) {
        return None;
    }
    Some(Headers {
        network,
        network_at,
        transport,
        transport_at,
        payload,
        packet_end,
    })
}

/// Where the transport header is, its protocol, and the packet's length with this header.
fn ipv4(frame: &[u8], at: usize) -> Option<(Network, usize, u8, usize)> {
    let header = frame.get(at..at + 20)?;
    let len = usize::from(header[0] & 0xf) * 4;
    let fragment = word(header, 6)? & 0x3fff != 0;
    if header[0] >> 4 != 4 || len < 20 || fragment {
        return None;
    }
    let total = usize::from(word(header, 2)?);
    Some((Network::V4, at + len, header[9], total))
}

fn ipv6(frame: &[u8], at: usize) -> Option<(Network, usize, u8, usize)> {
    let header = frame.get(at..at + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let total = 40 + usize::from(word(header, 4)?);
    let (mut next, mut transport_at) = (header[6], at + 40);
    for _ in 0..MAX_EXTENSIONS {
        if ![IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_DSTOPTS].contains(&next) {
            break;
        }
        let extension = frame.get(transport_at..transport_at + 2)?;
        next = extension[0];
        transport_at += (usize::from(extension[1]) + 1) * 8;
    }
    Some((Network::V6, transport_at, next, total))
}

fn tcp_len(frame: &[u8], at: usize) -> Option<usize> {
    let len = usize::from(frame.get(at..at + 20)?[12] >> 4) * 4;
    (len >= 20).then_some(len)
}
