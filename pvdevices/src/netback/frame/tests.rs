//! Headers, checksums and segments against a slow and plain reference.

use proptest::prelude::*;

use super::*;
use crate::netend::{Checksum, MAX_FRAME};

/// A TCP or UDP packet with all that may lie around its headers.
#[derive(Debug, Clone)]
struct Packet {
    tags: usize,
    v6: bool,
    /// Words of IPv4 options, or extension headers of IPv6.
    options: usize,
    tcp: bool,
    /// Words of TCP options.
    tcp_options: usize,
    flags: u8,
    sequence: u32,
    payload: Vec<u8>,
}

fn packet() -> impl Strategy<Value = Packet> {
    let shape = (
        0..3usize,
        any::<bool>(),
        0..4usize,
        any::<bool>(),
        0..11usize,
    );
    let payload = prop::collection::vec(any::<u8>(), 0..4000);
    (shape, any::<u8>(), any::<u32>(), payload).prop_map(
        |((tags, v6, options, tcp, tcp_options), flags, sequence, payload)| Packet {
            tags,
            v6,
            options,
            tcp,
            tcp_options,
            flags,
            sequence,
            payload,
        },
    )
}

impl Packet {
    fn transport(&self) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x00, 0x50];
        if self.tcp {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend([0, 0, 0, 9, ((5 + self.tcp_options) << 4) as u8, self.flags]);
            bytes.extend([0x10, 0, 0xee, 0xee, 0, 0]);
            bytes.extend(vec![1; self.tcp_options * 4]);
        } else {
            bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            bytes.extend([0xee, 0xee]);
        }
        bytes.extend(&self.payload);
        bytes
    }

    /// The frame, and where its network header starts.
    fn bytes(&self) -> (Vec<u8>, usize) {
        let mut frame = vec![2; 12];
        for _ in 0..self.tags {
            frame.extend([0x81, 0, 0, 5]);
        }
        let protocol = if self.tcp { 6 } else { 17 };
        let transport = self.transport();
        if self.v6 {
            frame.extend([0x86, 0xdd]);
            let at = frame.len();
            let length = (self.options * 8 + transport.len()) as u16;
            let first = if self.options > 0 { 60 } else { protocol };
            frame.extend([0x60, 1, 2, 3, (length >> 8) as u8, length as u8, first, 64]);
            frame.extend([0xfd; 16]);
            frame.extend([0xfc; 16]);
            for left in (0..self.options).rev() {
                let next = if left > 0 { 60 } else { protocol };
                frame.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
            frame.extend(transport);
            return (frame, at);
        }
        frame.extend([0x08, 0x00]);
        let at = frame.len();
        let length = (20 + self.options * 4 + transport.len()) as u16;
        frame.extend([
            0x45 + self.options as u8,
            0,
            (length >> 8) as u8,
            length as u8,
        ]);
        frame.extend([
            0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend(vec![1; self.options * 4]);
        frame.extend(transport);
        (frame, at)
    }

    fn kind(&self) -> GsoKind {
        if self.v6 {
            GsoKind::TcpV6
        } else {
            GsoKind::TcpV4
        }
    }
}

/// The sum of big-endian words with the carry added back, one at a time.
fn slow_sum(parts: &[&[u8]]) -> u16 {
    let mut bytes: Vec<u8> = parts.concat();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes.chunks(2).fold(0u16, |sum, word| {
        let word = u16::from_be_bytes([word[0], word[1]]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// The sum over pseudo header, transport header and payload: all ones where the checksum is right.
fn whole_sum(frame: &[u8], headers: &Headers) -> u16 {
    let addresses = match headers.network {
        Network::V4 => &frame[headers.network_at + 12..][..8],
        Network::V6 => &frame[headers.network_at + 8..][..32],
    };
    let protocol = if headers.transport == Transport::Tcp {
        6
    } else {
        17
    };
    let segment = &frame[headers.transport_at..];
    let length = (segment.len() as u32).to_be_bytes();
    // The parts are even but for the last.
    slow_sum(&[addresses, &length, &[0, 0, 0, protocol], segment])
}

fn blank_claims(gso: Option<(GsoKind, u16)>) -> Claims {
    Claims {
        checksum_blank: true,
        verified: false,
        gso,
    }
}

fn adapted(frame: &mut [u8], offload: Offload, can: Offloads) -> Vec<(Offload, Vec<u8>)> {
    let mut out = Vec::new();
    adapt(frame, offload, can, |offload, part| {
        out.push((offload, part.to_vec()))
    })
    .unwrap();
    out
}

proptest! {
    #[test]
    fn headers_are_found(packet in packet()) {
        let (frame, network_at) = packet.bytes();
        let headers = parse(&frame).unwrap();
        prop_assert_eq!(headers.network_at, network_at);
        prop_assert_eq!(headers.network == Network::V6, packet.v6);
        prop_assert_eq!(headers.transport == Transport::Tcp, packet.tcp);
        prop_assert_eq!(&frame[headers.payload..headers.packet_end], &packet.payload[..]);
    }

    #[test]
    fn whatever_bytes_there_are_nothing_is_outside(
        packet in packet(),
        cut in 0..200usize,
        changes in prop::collection::vec((0..120usize, any::<u8>()), 0..6),
        start in any::<u16>(),
        offset in any::<u16>(),
        size in any::<u16>(),
    ) {
        let (mut frame, _) = packet.bytes();
        frame.truncate(cut.max(14));
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if let Some(headers) = parse(&frame) {
            prop_assert!(headers.network_at < headers.transport_at);
            prop_assert!(headers.transport_at + headers.checksum_offset() + 2 <= headers.payload);
            prop_assert!(headers.payload <= headers.packet_end);
            prop_assert!(headers.packet_end <= frame.len());
        }
        for gso in [None, Some((GsoKind::TcpV4, size)), Some((GsoKind::TcpV6, size))] {
            let mut copy = frame.clone();
            if let Ok(offload) = describe(&mut copy, &blank_claims(gso)) {
                for can in [Offloads::empty(), Offloads::all()] {
                    let _result = adapt(&mut copy.clone(), offload, can, |_, part| {
                        assert!(part.len() <= MAX_FRAME);
                    });
                }
            }
            // As a host end may describe it.
            let offload = Offload {
                checksum: Checksum::Blank { start, offset },
                gso: gso.map(|(kind, size)| crate::netend::Gso { kind, size, header_len: offset }),
            };
            let _result = adapt(&mut frame.clone(), offload, Offloads::empty(), |_, _| {});
        }
    }

    #[test]
    fn checksums_are_right(packet in packet(), padding in 0..20usize) {
        let (mut frame, _) = packet.bytes();
        let length = frame.len();
        frame.extend(vec![0x5a; padding]);
        let offload = describe(&mut frame, &blank_claims(None)).unwrap();
        // Padding would be summed.
        prop_assert_eq!(frame.len(), length);
        prop_assert_eq!(adapted(&mut frame.clone(), offload, Offloads::all())[0].0, offload);
        let out = adapted(&mut frame, offload, Offloads::empty());
        prop_assert_eq!(out.len(), 1);
        prop_assert_eq!(out[0].0, Offload::default());
        let headers = parse(&out[0].1).unwrap();
        prop_assert_eq!(whole_sum(&out[0].1, &headers), 0xffff);
        let at = headers.transport_at + headers.checksum_offset();
        prop_assert!(packet.tcp || out[0].1[at..at + 2] != [0, 0]);
    }

    #[test]
    fn segments_are_whole_packets(mut packet in packet(), size in 1..1500u16) {
        packet.tcp = true;
        let (mut frame, network_at) = packet.bytes();
        let offload = describe(&mut frame, &blank_claims(Some((packet.kind(), size)))).unwrap();
        let out = adapted(&mut frame, offload, Offloads::empty());
        let count = packet.payload.len().div_ceil(usize::from(size)).max(1);
        prop_assert_eq!(out.len(), count);
        let mut payload = Vec::new();
        for (index, (left, segment)) in out.iter().enumerate() {
            prop_assert_eq!(*left, Offload::default());
            let headers = parse(segment).unwrap();
            prop_assert_eq!(headers.packet_end, segment.len());
            prop_assert_eq!(whole_sum(segment, &headers), 0xffff);
            let tcp = &segment[headers.transport_at..];
            let sequence = packet.sequence.wrapping_add(payload.len() as u32);
            prop_assert_eq!(&tcp[4..8], sequence.to_be_bytes());
            let (first, last) = (index == 0, index + 1 == count);
            let mut flags = packet.flags;
            if !last { flags &= !0x09; }
            if !first { flags &= !0x80; }
            prop_assert_eq!(tcp[13], flags);
            prop_assert_eq!(tcp.len() - 20 - packet.tcp_options * 4, headers.packet_end - headers.payload);
            if !packet.v6 && count > 1 {
                let header = &segment[network_at..headers.transport_at];
                prop_assert_eq!(slow_sum(&[header]), 0xffff);
                let id = 0xfffe_u16.wrapping_add(index as u16);
                prop_assert_eq!(&header[4..6], id.to_be_bytes());
            }
            payload.extend_from_slice(&segment[headers.payload..]);
        }
        prop_assert_eq!(payload, packet.payload);
    }
}

#[test]
fn a_checksum_in_a_tunnel_is_finished() {
    let packet = Packet {
        tags: 0,
        v6: false,
        options: 0,
        tcp: false,
        tcp_options: 0,
        flags: 0,
        sequence: 0,
        payload: vec![7; 100],
    };
    let (mut frame, _) = packet.bytes();
    // Inside the payload, where nobody would look for it.
    let offload = Offload {
        checksum: Checksum::Blank {
            start: 60,
            offset: 6,
        },
        gso: None,
    };
    let out = adapted(&mut frame, offload, Offloads::all());
    assert_eq!(out[0].0, Offload::default());
    assert_ne!(out[0].1[66..68], [7, 7]);
}

#[test]
fn segments_must_fit_their_length_fields() {
    let packet = Packet {
        tags: 0,
        v6: false,
        options: 0,
        tcp: true,
        tcp_options: 0,
        flags: 0,
        sequence: 0,
        payload: vec![7; 65_500],
    };
    let (mut frame, _) = packet.bytes();
    let gso = crate::netend::Gso {
        kind: GsoKind::TcpV4,
        size: 65_496,
        header_len: 54,
    };
    let headers = parse(&frame);
    // Its length has wrapped, as no sender's does that leaves no segmentation.
    assert!(headers.is_none());
    frame[16..18].copy_from_slice(&[0xff, 0xff]);
    let offload = Offload {
        checksum: parse(&frame).unwrap().blank(),
        gso: Some(gso),
    };
    assert_eq!(
        adapt(&mut frame, offload, Offloads::empty(), |_, _| {}),
        Err(BadFrame)
    );
}
