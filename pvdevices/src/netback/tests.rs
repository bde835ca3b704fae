//! The backend against a made-up frontend: each feature, and each request that lies.

use xenner_xen_abi::io::netif::*;
use zerocopy::IntoBytes;

use super::mock::*;
use super::*;
use crate::netend::{Checksum, Gso, GsoKind, Offload};

mod malformed;
mod receive;
mod states;
mod transmit;

/// An Ethernet header and a payload that no header parser knows.
fn plain(length: usize) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend((14..length).map(|at| (at * 7 + at / 251) as u8));
    frame
}

/// A TCP segment over IPv4, its checksum blank, with so many payload bytes.
fn tcp4(payload: usize) -> Vec<u8> {
    let mut frame = plain(14);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let length = (40 + payload).min(65535) as u16;
    frame.extend([
        0x45,
        0,
        (length >> 8) as u8,
        length as u8,
        0,
        1,
        0x40,
        0,
        64,
        6,
        0,
        0,
    ]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend((0..payload).map(|at| (at * 13) as u8));
    frame
}

/// A UDP datagram over IPv6, its checksum blank.
fn udp6(payload: usize) -> Vec<u8> {
    let mut frame = plain(14);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let length = (8 + payload) as u16;
    frame.extend([0x60, 0, 0, 0, (length >> 8) as u8, length as u8, 17, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0xfe; 16]);
    frame.extend([0, 53, 0, 53, (length >> 8) as u8, length as u8, 0, 0]);
    frame.extend((0..payload).map(|at| (at * 17) as u8));
    frame
}

/// A device that has all features on an end that has all.
fn full() -> (MockNetfront, MockEnd) {
    let end = MockEnd::new(Offloads::all());
    (
        MockNetfront::connected(std::slice::from_ref(&end), &Setup::default()),
        end,
    )
}

/// The same on an end that has none.
fn bare() -> (MockNetfront, MockEnd) {
    let end = MockEnd::new(Offloads::empty());
    (
        MockNetfront::connected(std::slice::from_ref(&end), &Setup::default()),
        end,
    )
}

/// Whether a frame's transport checksum is right.
fn is_finished(frame: &[u8]) -> bool {
    let mut copy = frame.to_vec();
    let claims = frame::Claims {
        checksum_blank: true,
        ..frame::Claims::default()
    };
    let Ok(Offload {
        checksum: Checksum::Blank { start, offset },
        ..
    }) = frame::describe(&mut copy, &claims)
    else {
        return false;
    };
    frame::finish_checksum(&mut copy, start, offset).unwrap();
    copy == frame
}
