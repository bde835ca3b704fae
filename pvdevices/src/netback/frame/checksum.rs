//! The internet checksum (RFC 1071).

use super::BadFrame;
use super::headers::{Headers, Network, Transport};

/// Where UDP's checksum is in its header.
const UDP_OFFSET: usize = 6;

/// The sum of 16-bit words that has not been folded; the last odd byte is a word's first.
///
/// Words are taken as they lie in memory, which the sum allows (RFC 1071, section 2, B) as long as
/// the result is stored the same way.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    let (words, last) = rest.as_chunks::<2>();
    let halves = words
        .iter()
        .map(|word| u64::from(u16::from_ne_bytes(*word)));
    let odd = last
        .iter()
        .map(|&byte| u64::from(u16::from_ne_bytes([byte, 0])));
    total + halves.sum::<u64>() + odd.sum::<u64>()
}

/// Folds a sum to 16 bits, in memory order.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The sum of a pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1) over `length` bytes of
/// transport header and payload.
fn pseudo_header(frame: &[u8], headers: &Headers, length: usize) -> u16 {
    let addresses = match headers.network {
        Network::V4 => headers.network_at + 12..headers.network_at + 20,
        Network::V6 => headers.network_at + 8..headers.network_at + 40,
    };
    let protocol = match headers.transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    };
    // A frame is shorter than 2^17 bytes, so the upper half of the length is small.
    let length = (length as u32).to_be_bytes();
    fold(sum(&frame[addresses]) + sum(&length) + sum(&[0, protocol]))
}

/// Puts the pseudo header's sum into the checksum's place. The packet ends with the frame.
pub(super) fn blank_checksum(frame: &mut [u8], headers: &Headers) {
    let length = frame.len() - headers.transport_at;
    let seed = pseudo_header(frame, headers, length);
    let at = headers.transport_at + headers.checksum_offset();
    frame[at..at + 2].copy_from_slice(&seed.to_ne_bytes());
}

/// The checksum of an IPv4 header of `range`, put into its place.
pub(super) fn ipv4_header(header: &mut [u8]) {
    header[10..12].fill(0);
    let value = !fold(sum(header));
    header[10..12].copy_from_slice(&value.to_ne_bytes());
}

/// Finishes a blank checksum: sums from `start` to the frame's end, and stores at `start + offset`.
///
/// # Errors
/// [`BadFrame`]: the place is outside the frame.
pub fn finish_checksum(frame: &mut [u8], start: u16, offset: u16) -> Result<(), BadFrame> {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let at = start + offset;
    if at + 2 > frame.len() {
        return Err(BadFrame);
    }
    let value = match !fold(sum(&frame[start..])) {
        // Zero means "no checksum" in UDP and is the same number here (RFC 768).
        0 if offset == UDP_OFFSET => 0xffff,
        value => value,
    };
    frame[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    Ok(())
}
