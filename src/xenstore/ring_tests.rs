//! Tests of the ring with a guest that behaves, one that behaves oddly, and
//! one that is hostile.

use super::super::tests::{Wire, store_with_guest};
use super::super::wire::{Assembler, MessageType, Request, encode};
use super::*;
use proptest::prelude::*;

/// The guest's end of a page.
struct Guest {
    page: MemoryPage,
    assembler: Assembler,
}

impl Guest {
    /// Writes what fits; returns the number of bytes.
    fn write(&self, bytes: &[u8]) -> usize {
        let (prod, cons) = (self.index(offset::REQ_PROD), self.index(offset::REQ_CONS));
        let room = RING_SIZE - prod.wrapping_sub(cons) as usize;
        let n = room.min(bytes.len());
        for (i, byte) in bytes[..n].iter().enumerate() {
            let at = position(prod.wrapping_add(i as u32));
            self.page.write_bytes(offset::REQ + at, &[*byte]);
        }
        self.page
            .write_u32(offset::REQ_PROD, prod.wrapping_add(n as u32));
        n
    }

    /// Reads at most `most` bytes; returns the messages they complete.
    fn read(&mut self, most: usize) -> Vec<Request> {
        let (prod, cons) = (self.index(offset::RSP_PROD), self.index(offset::RSP_CONS));
        let n = (prod.wrapping_sub(cons) as usize).min(most);
        let mut messages = Vec::new();
        for i in 0..n {
            let mut byte = [0];
            let at = position(cons.wrapping_add(i as u32));
            self.page.read_bytes(offset::RSP + at, &mut byte);
            messages.extend(self.assembler.push(&byte).unwrap());
        }
        self.page
            .write_u32(offset::RSP_CONS, cons.wrapping_add(n as u32));
        messages
    }

    fn index(&self, off: usize) -> u32 {
        self.page.read_u32(off)
    }
}

struct Fixture {
    store: Xenstore,
    dom0: Wire,
    conn: ConnId,
    ring: RingTransport<MemoryPage>,
    guest: Guest,
}

impl Fixture {
    fn new() -> Self {
        Self::with_indices(0)
    }

    fn with_indices(start: u32) -> Self {
        let (store, dom0, Wire(conn)) = store_with_guest();
        let page = MemoryPage::default();
        for index in [
            offset::REQ_CONS,
            offset::REQ_PROD,
            offset::RSP_CONS,
            offset::RSP_PROD,
        ] {
            page.write_u32(index, start);
        }
        let guest = Guest {
            page: page.clone(),
            assembler: Assembler::default(),
        };
        Self {
            store,
            dom0,
            conn,
            ring: RingTransport::new(page, conn),
            guest,
        }
    }

    fn service(&mut self) -> bool {
        self.ring.service(&mut self.store)
    }

    fn ask(&mut self, kind: MessageType, payload: &[u8]) -> Request {
        assert_eq!(
            self.guest.write(&encode(kind, 5, 0, payload)),
            16 + payload.len()
        );
        assert!(self.service());
        self.guest.read(RING_SIZE).remove(0)
    }

    fn error(&self) -> u32 {
        self.guest.index(offset::ERROR)
    }
}

#[test]
fn a_request_in_linuxs_three_chunks_is_taken_chunk_by_chunk() {
    let mut f = Fixture::new();
    assert_eq!(f.guest.index(offset::SERVER_FEATURES), 7);
    let message = encode(MessageType::WRITE, 9, 0, b"data/key\0value");
    for chunk in [&message[..16], &message[16..25], &message[25..]] {
        assert!(f.guest.read(RING_SIZE).is_empty());
        assert_eq!(f.guest.write(chunk), chunk.len());
        assert!(f.service(), "the guest is told of each chunk taken");
        assert_eq!(
            f.guest.index(offset::REQ_CONS),
            f.guest.index(offset::REQ_PROD)
        );
    }
    let answer = f.guest.read(RING_SIZE).remove(0);
    assert_eq!((answer.kind, answer.req_id), (MessageType::WRITE, 9));
    assert_eq!(answer.payload, b"OK\0");
    assert!(!f.service(), "nothing to do, nothing to tell");
}

#[test]
fn a_message_longer_than_the_ring_passes() {
    let mut f = Fixture::with_indices(u32::MAX - 700);
    let value = vec![b'v'; 2000];
    let payload = [&b"data/key\0"[..], &value].concat();
    let message = encode(MessageType::WRITE, 1, 0, &payload);
    let mut rest = &message[..];
    while !rest.is_empty() {
        let n = f.guest.write(rest);
        assert_ne!(n, 0);
        rest = &rest[n..];
        assert!(f.service());
    }
    assert_eq!(f.guest.read(RING_SIZE)[0].payload, b"OK\0");
    f.guest
        .write(&encode(MessageType::READ, 2, 0, b"data/key\0"));
    let mut answers = Vec::new();
    while answers.is_empty() {
        let _ = f.service();
        answers = f.guest.read(100);
    }
    assert_eq!(answers[0].payload, value);
}

#[test]
fn a_guest_that_does_not_read_is_not_read_and_loses_nothing() {
    let mut f = Fixture::new();
    let message = encode(MessageType::READ, 3, 0, b"data\0");
    let mut sent = 0;
    let mut rest = Vec::new();
    loop {
        if rest.is_empty() {
            rest.clone_from(&message);
            sent += 1;
        }
        let n = f.guest.write(&rest);
        rest.drain(..n);
        if !f.service() {
            break;
        }
    }
    assert!(sent < 200, "it was read {sent} times");
    let mut got = 0;
    while got < sent {
        let n = f.guest.write(&rest);
        rest.drain(..n);
        got += f.guest.read(17).len();
        let _ = f.service();
    }
    assert!(rest.is_empty());
    assert!(f.guest.read(RING_SIZE).is_empty());
}

#[test]
fn events_of_others_reach_the_guest() {
    let mut f = Fixture::new();
    f.ask(MessageType::WATCH, b"data\0t\0");
    assert!(!f.service());
    f.store
        .write(f.dom0.0, 0, b"/local/domain/1/data/k", b"v")
        .unwrap();
    f.store.announce();
    assert!(f.store.take_awaiting_transport().contains(&f.conn));
    assert!(f.service());
    let event = f.guest.read(RING_SIZE).remove(0);
    assert_eq!(
        (event.kind, event.payload),
        (MessageType::WATCH_EVENT, b"data/k\0t\0".to_vec())
    );
}

#[test]
fn senseless_indices_end_it_until_the_guest_reconnects() {
    for (prod, cons) in [
        (offset::REQ_PROD, offset::REQ_CONS),
        (offset::RSP_PROD, offset::RSP_CONS),
    ] {
        let mut f = Fixture::new();
        f.ask(MessageType::WATCH, b"data\0t\0");
        f.ask(MessageType::TRANSACTION_START, b"\0");
        let base = f.guest.index(cons);
        f.guest.page.write_u32(prod, base.wrapping_add(1025));
        assert!(f.service());
        assert_eq!(f.error(), 2);
        assert_eq!(f.ring.fault(), Some(RingFault::BadIndex));
        f.guest.page.write_u32(prod, base);
        assert!(!f.service());
        f.guest.page.write_u32(offset::CONNECTION, 1);
        assert!(f.service());
        assert_eq!((f.error(), f.guest.index(offset::CONNECTION)), (0, 0));
        assert_eq!((f.guest.index(prod), f.guest.index(cons)), (0, 0));
        assert_eq!(f.store.watches.count(f.conn), 0);
        assert_eq!(
            f.store
                .connection(f.conn)
                .unwrap()
                .transaction_ids()
                .count(),
            0
        );
        assert_eq!(f.ask(MessageType::READ, b"data\0").kind, MessageType::READ);
    }
}

#[test]
fn a_full_ring_is_not_a_senseless_one() {
    let mut f = Fixture::new();
    f.guest.page.write_u32(offset::REQ_PROD, 1024);
    assert!(f.service());
    assert_eq!((f.error(), f.guest.index(offset::REQ_CONS)), (0, 1024));
}

#[test]
fn an_overlong_payload_is_a_protocol_error() {
    let mut f = Fixture::new();
    let mut header = encode(MessageType::WRITE, 1, 0, b"");
    header[12..16].copy_from_slice(&4097u32.to_le_bytes());
    f.guest.write(&header);
    assert!(f.service());
    assert_eq!(f.error(), 3);
    f.guest.write(&encode(MessageType::READ, 1, 0, b"data\0"));
    assert!(!f.service());
    assert!(f.guest.read(RING_SIZE).is_empty());
}

#[test]
fn reconnecting_in_mid_message_starts_afresh() {
    let mut f = Fixture::new();
    f.guest
        .write(&encode(MessageType::WRITE, 1, 0, b"data/k\0value")[..20]);
    assert!(f.service());
    f.guest.page.write_u32(offset::CONNECTION, 1);
    assert!(f.service());
    assert_eq!(f.ask(MessageType::READ, b"data\0").payload, b"");
}

/// A page whose producer index runs away under the reader's eyes.
struct Runaway(MemoryPage);

impl RingPage for Runaway {
    fn read_u32(&self, off: usize) -> u32 {
        match off {
            offset::REQ_PROD => self.0.read_u32(offset::REQ_CONS).wrapping_add(1024),
            offset::RSP_CONS => self.0.read_u32(offset::RSP_PROD),
            _ => self.0.read_u32(off),
        }
    }
    fn write_u32(&self, off: usize, v: u32) {
        self.0.write_u32(off, v);
    }
    fn read_bytes(&self, off: usize, buf: &mut [u8]) {
        self.0.read_bytes(off, buf);
    }
    fn write_bytes(&self, off: usize, buf: &[u8]) {
        self.0.write_bytes(off, buf);
    }
}

#[test]
fn a_guest_that_never_stops_writing_gets_its_turn_and_no_more() {
    let (mut store, _, Wire(conn)) = store_with_guest();
    let mut ring = RingTransport::new(Runaway(MemoryPage::default()), conn);
    // A page of zeroes is an endless stream of CONTROL requests.
    assert!(ring.service(&mut store));
    assert!(ring.is_unfinished());
    assert!(ring.service(&mut store));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_rhythm_gives_the_same_conversation(
        start in any::<u32>(),
        lens in prop::collection::vec(0usize..2000, 1..12),
        writes in prop::collection::vec(1usize..1200, 1..20),
        reads in prop::collection::vec(0usize..1200, 1..20),
    ) {
        let mut f = Fixture::with_indices(start);
        let stream: Vec<u8> = lens
            .iter()
            .enumerate()
            .flat_map(|(i, len)| {
                let payload = [&b"data/k\0"[..], &vec![i as u8; *len]].concat();
                let read = encode(MessageType::READ, i as u32, 0, b"data/k\0");
                [encode(MessageType::WRITE, i as u32, 0, &payload), read].concat()
            })
            .collect();
        let (mut rest, mut answers) = (&stream[..], Vec::new());
        let mut rhythm = writes.iter().cycle().zip(reads.iter().cycle());
        for _ in 0..200_000 {
            let (write, read) = rhythm.next().unwrap();
            let n = f.guest.write(&rest[..rest.len().min(*write)]);
            rest = &rest[n..];
            let _ = f.service();
            answers.extend(f.guest.read(*read));
            if answers.len() == lens.len() * 2 {
                break;
            }
            if reads.iter().all(|n| *n == 0) {
                answers.extend(f.guest.read(1));
            }
        }
        prop_assert_eq!(answers.len(), lens.len() * 2);
        for (i, (pair, len)) in answers.chunks(2).zip(&lens).enumerate() {
            prop_assert_eq!(&pair[0].payload, b"OK\0");
            prop_assert_eq!(&pair[1].payload, &vec![i as u8; *len]);
        }
    }

    #[test]
    fn a_hostile_page_does_no_harm(
        words in prop::collection::vec((0usize..1024, any::<u32>()), 1..200),
        small in prop::collection::vec((512usize..520, 0u32..2048), 0..50),
    ) {
        let mut f = Fixture::new();
        for (word, value) in words.into_iter().chain(small) {
            f.guest.page.write_u32(word * 4, value);
            let _ = f.service();
        }
        f.guest.page.write_u32(offset::CONNECTION, 1);
        let _ = f.service();
        f.guest.assembler = Assembler::default();
        let answer = f.ask(MessageType::GET_DOMAIN_PATH, b"1\0");
        prop_assert_eq!(answer.payload, b"/local/domain/1\0");
    }
}
