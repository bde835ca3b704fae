//! The header in front of a frame on a tap: `struct virtio_net_hdr` of the Virtual I/O Device
//! specification 1.2, section 5.1.6, in its 10-byte legacy form, little-endian on x86.

use super::{Checksum, Gso, GsoKind, Offload};

/// Bytes of the header.
pub(super) const VNET_HDR_LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// The stream carries explicit congestion notification; a modifier of the type.
const GSO_ECN: u8 = 0x80;

/// The header that describes an offload.
pub(super) fn encode(offload: &Offload) -> [u8; VNET_HDR_LEN] {
    let mut header = [0; VNET_HDR_LEN];
    match offload.checksum {
        Checksum::InFrame => {}
        Checksum::Verified => header[0] = F_DATA_VALID,
        Checksum::Blank { start, offset } => {
            header[0] = F_NEEDS_CSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
    }
    if let Some(gso) = offload.gso {
        header[1] = match gso.kind {
            GsoKind::TcpV4 => GSO_TCPV4,
            GsoKind::TcpV6 => GSO_TCPV6,
        };
        header[2..4].copy_from_slice(&gso.header_len.to_le_bytes());
        header[4..6].copy_from_slice(&gso.size.to_le_bytes());
    }
    header
}

/// The offload that a header describes; `None` for segmentation that was not agreed upon.
pub(super) fn decode(header: &[u8; VNET_HDR_LEN]) -> Option<Offload> {
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let checksum = match header[0] {
        flags if flags & F_NEEDS_CSUM != 0 => Checksum::Blank {
            start: word(6),
            offset: word(8),
        },
        flags if flags & F_DATA_VALID != 0 => Checksum::Verified,
        _ => Checksum::InFrame,
    };
    let kind = match header[1] & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCPV4 => Some(GsoKind::TcpV4),
        GSO_TCPV6 => Some(GsoKind::TcpV6),
        _ => return None,
    };
    let gso = kind.map(|kind| Gso {
        kind,
        size: word(4),
        header_len: word(2),
    });
    match gso {
        Some(Gso { size: 0, .. }) => None,
        gso => Some(Offload { checksum, gso }),
    }
}
