//! TCP segmentation: what a network card does with a packet longer than its segments.

use super::checksum::{blank_checksum, ipv4_header};
use super::headers::{Headers, Network};

const FIN: u8 = 1 << 0;
const PSH: u8 = 1 << 3;
const CWR: u8 = 1 << 7;

/// The segments of a frame, each with headers of its own and a blank checksum.
#[derive(Debug)]
pub struct Segments<'a> {
    frame: &'a [u8],
    headers: &'a Headers,
    size: usize,
    /// Payload bytes that are cut off already.
    done: usize,
    index: u16,
}

impl<'a> Segments<'a> {
    /// Cuts a TCP packet into segments of `size` payload bytes, not 0.
    #[must_use]
    pub fn new(frame: &'a [u8], headers: &'a Headers, size: u16) -> Self {
        Self {
            frame,
            headers,
            size: usize::from(size.max(1)),
            done: 0,
            index: 0,
        }
    }
}

impl Iterator for Segments<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let (head, payload) = self.frame.split_at(self.headers.payload);
        let part = payload.get(self.done..).filter(|left| !left.is_empty())?;
        let last = part.len() <= self.size;
        let part = &part[..part.len().min(self.size)];
        let mut segment = Vec::with_capacity(head.len() + part.len());
        segment.extend_from_slice(head);
        segment.extend_from_slice(part);
        network_header(&mut segment, self.headers, self.index);
        // Sequence numbers wrap; a payload is far below 2^32.
        tcp_header(
            &mut segment[self.headers.transport_at..],
            self.done as u32,
            self.index == 0,
            last,
        );
        blank_checksum(&mut segment, self.headers);
        self.done += part.len();
        self.index = self.index.wrapping_add(1);
        Some(segment)
    }
}

/// The length, and for IPv4 the identification (RFC 6864) and header checksum.
fn network_header(segment: &mut [u8], headers: &Headers, index: u16) {
    let length = segment.len() - headers.network_at;
    let header = &mut segment[headers.network_at..headers.transport_at];
    match headers.network {
        Network::V4 => {
            // A segment is no longer than its packet, which `adapt` bounds to 64 KiB.
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(index);
            header[4..6].copy_from_slice(&id.to_be_bytes());
            ipv4_header(header);
        }
        Network::V6 => {
            header[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        }
    }
}

fn tcp_header(header: &mut [u8], done: u32, first: bool, last: bool) {
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    header[4..8].copy_from_slice(&sequence.wrapping_add(done).to_be_bytes());
    if !last {
        header[13] &= !(FIN | PSH);
    }
    // The window reduction is told once (RFC 3168, section 6.1.2).
    if !first {
        header[13] &= !CWR;
    }
}
