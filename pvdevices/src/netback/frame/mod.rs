//! Checksums and segmentation of Ethernet frames, where one side leaves them to the other and the
//! other cannot.
//!
//! Pure functions over bytes that nobody vouches for: each length in them is checked against what
//! is there. TCP and UDP over IPv4 and IPv6, behind up to two VLAN tags.

mod checksum;
mod headers;
mod segment;
#[cfg(test)]
mod tests;

pub use checksum::finish_checksum;
pub use headers::{Headers, Network, Transport, parse};
pub use segment::Segments;

use crate::netend::{Checksum, Gso, GsoKind, MAX_FRAME, Offload, Offloads};

/// What the sender of a frame says of it, before it is believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claims {
    /// The checksum's place holds nothing useful.
    pub checksum_blank: bool,
    /// The checksum was verified.
    pub verified: bool,
    /// To be cut into segments of this many bytes.
    pub gso: Option<(GsoKind, u16)>,
}

/// A frame whose headers do not fit what its sender says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The frame's headers do not fit what its sender says of them")]
pub struct BadFrame;

/// Checks a sender's claims against the frame, and puts the pseudo header's sum where a blank
/// checksum is: some senders leave anything there. May cut off padding behind the IP packet, which
/// a checksum must not cover.
///
/// # Errors
/// [`BadFrame`]: nobody could finish the frame.
pub fn describe(frame: &mut Vec<u8>, claims: &Claims) -> Result<Offload, BadFrame> {
    if !claims.checksum_blank && claims.gso.is_none() {
        let checksum = match claims.verified {
            true => Checksum::Verified,
            false => Checksum::InFrame,
        };
        return Ok(Offload {
            checksum,
            gso: None,
        });
    }
    let headers = parse(frame).ok_or(BadFrame)?;
    // The length of a packet that is to be cut may say anything.
    if claims.gso.is_none() {
        frame.truncate(headers.packet_end);
    }
    let gso = claims
        .gso
        .map(|(kind, size)| segmentation(frame, &headers, kind, size));
    checksum::blank_checksum(frame, &headers);
    Ok(Offload {
        checksum: headers.blank(),
        gso: gso.transpose()?.flatten(),
    })
}

/// The segmentation that a frame needs, or none if it is no longer than a segment.
fn segmentation(
    frame: &[u8],
    headers: &Headers,
    kind: GsoKind,
    size: u16,
) -> Result<Option<Gso>, BadFrame> {
    if headers.gso_kind() != Some(kind) || size == 0 {
        return Err(BadFrame);
    }
    let header_len = u16::try_from(headers.payload).map_err(|_| BadFrame)?;
    let needed = frame.len() - headers.payload > usize::from(size);
    Ok(needed.then_some(Gso {
        kind,
        size,
        header_len,
    }))
}

/// Hands a frame to `take`, as it is where its receiver can do what is left to be done, otherwise
/// finished, perhaps in segments.
///
/// # Errors
/// [`BadFrame`]: the offload does not fit the frame, and nothing was handed over.
pub fn adapt(
    frame: &mut [u8],
    offload: Offload,
    can: Offloads,
    mut take: impl FnMut(Offload, &mut [u8]),
) -> Result<(), BadFrame> {
    if frame.len() > MAX_FRAME {
        return Err(BadFrame);
    }
    let Checksum::Blank { start, offset } = offload.checksum else {
        // Segments need new checksums, which only a sender that leaves them can mean.
        if offload.gso.is_some() {
            return Err(BadFrame);
        }
        take(offload, frame);
        return Ok(());
    };
    let headers = parse(frame).filter(|headers| headers.blank() == offload.checksum);
    let Some(gso) = offload.gso else {
        // A checksum at another place, as in a tunnel, is finished: nobody would look for it there.
        let known = headers.is_some_and(|headers| can.contains(headers.checksum_offload()));
        if known {
            take(offload, frame);
            return Ok(());
        }
        finish_checksum(frame, start, offset)?;
        take(Offload::default(), frame);
        return Ok(());
    };
    let headers = headers.ok_or(BadFrame)?;
    if headers.gso_kind() != Some(gso.kind) || gso.size == 0 {
        return Err(BadFrame);
    }
    if can.contains(headers.checksum_offload() | segment_offload(gso.kind)) {
        take(offload, frame);
        return Ok(());
    }
    // A segment's length has 16 bits in its headers.
    if headers.payload - headers.network_at + usize::from(gso.size) > usize::from(u16::MAX) {
        return Err(BadFrame);
    }
    for mut segment in Segments::new(frame, &headers, gso.size) {
        finish_checksum(&mut segment, start, offset)?;
        take(Offload::default(), &mut segment);
    }
    Ok(())
}

fn segment_offload(kind: GsoKind) -> Offloads {
    match kind {
        GsoKind::TcpV4 => Offloads::TSO_V4,
        GsoKind::TcpV6 => Offloads::TSO_V6,
    }
}
