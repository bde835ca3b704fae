//! The store as a hostile guest meets it: any bytes as messages, messages that
//! are valid but for one part, and a ring page with anything in it. Nothing may
//! panic, quotas must hold, answers must be well formed, and the store must
//! come back from its saved state as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenner::xenstore::ring::{MemoryPage, RING_SIZE, offset};
use xenner::xenstore::server::LOCAL;
use xenner::xenstore::watch::ConnId;
use xenner::xenstore::wire::{Assembler, MessageType, encode};
use xenner::xenstore::{Perm, RingPage, RingTransport, Xenstore, quota};

const GUEST: u16 = 1;

const PATHS: [&str; 10] = [
    "data",
    "data/a",
    "data/a/b",
    "data/a-b",
    "/local/domain/1/data/a/c",
    "secret",
    "/",
    "@releaseDomain",
    "bad//path",
    "",
];

fuzz_target!(|data: &[u8]| {
    let Some((&how, rest)) = data.split_first() else {
        return;
    };
    let mut store = Xenstore::new();
    let guest = introduce(&mut store);
    match how % 3 {
        0 => feed(&mut store, guest, rest),
        1 => valid_requests(&mut store, guest, rest),
        _ => ring_page(&mut store, guest, rest),
    }
    check(&mut store);
});

/// A guest with a directory of its own, one to read, and one out of its reach.
fn introduce(store: &mut Xenstore) -> ConnId {
    for (path, perms) in [
        ("/local/domain/1", vec![Perm::none(0), Perm::read(GUEST)]),
        ("/local/domain/1/data", vec![Perm::none(GUEST)]),
        ("/local/domain/1/secret", vec![Perm::none(0)]),
    ] {
        store
            .mkdir(LOCAL, 0, path.as_bytes())
            .expect("an empty store takes it");
        store
            .set_perms(LOCAL, 0, path.as_bytes(), &perms)
            .expect("it was just made");
    }
    store.announce();
    store.introduce_domain(GUEST)
}

/// Gives the bytes to the connection as a transport does, and reads what comes.
fn feed(store: &mut Xenstore, conn: ConnId, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let Ok(wanted) = store.wanted(conn) else {
            store.reset(conn);
            return;
        };
        if wanted == 0 {
            drain(store, conn);
            continue;
        }
        let (now, later) = bytes.split_at(wanted.min(bytes.len()));
        if store.push_input(conn, now).is_err() {
            store.reset(conn);
        }
        bytes = later;
    }
    drain(store, conn);
}

fn drain(store: &mut Xenstore, conn: ConnId) {
    let mut assembler = Assembler::default();
    while store.has_output(conn) {
        let wanted = assembler.wanted().expect("answers are well formed");
        let n = store.pending_output(conn).len().min(wanted);
        let bytes = store.pending_output(conn)[..n].to_vec();
        assembler.push(&bytes).expect("answers are well formed");
        store.consume_output(conn, n);
    }
    assert!(assembler.partial().is_empty());
}

/// Five bytes make a request: kind, transaction, path, argument, and now and
/// then one of domid 0's own in between.
fn valid_requests(store: &mut Xenstore, conn: ConnId, bytes: &[u8]) {
    for step in bytes.chunks_exact(5) {
        let path = PATHS[usize::from(step[2]) % PATHS.len()];
        let argument = usize::from(step[3]);
        let payload = match step[0] % 24 {
            4 | 5 => format!("{path}\0token{}\0", argument % 4),
            6 => "\0".to_owned(),
            7 => ["T\0", "F\0", "X\0"][argument % 3].to_owned(),
            11 => format!("{path}\0{}", "v".repeat(argument * 12)),
            14 => {
                let perm = [Perm::none, Perm::read, Perm::write, Perm::both][argument % 4];
                format!("{path}\0{}\0{}\0", perm(GUEST), perm((argument / 4) as u16))
            }
            22 => format!("{path}\0{}\0", argument * 7),
            _ => format!("{path}\0"),
        };
        let (kind, tx) = (u32::from(step[0] % 24), u32::from(step[1] % 12));
        let payload = &payload.as_bytes()[..payload.len().min(4096)];
        feed(
            store,
            conn,
            &encode(MessageType(kind), argument as u32, tx, payload),
        );
        let own = format!("/local/domain/1/data/{}", step[4] % 8);
        // Domid 0 has its way in any case; what comes of it is checked at the end.
        let _ = match step[4] / 8 {
            0 => store.write(LOCAL, 0, own.as_bytes(), b"0"),
            1 => store.rm(LOCAL, 0, own.as_bytes()),
            _ => Ok(()),
        };
        store.announce();
    }
}

/// Four bytes make a move of the guest: bytes into its ring, or a word anywhere.
fn ring_page(store: &mut Xenstore, conn: ConnId, bytes: &[u8]) {
    let page = MemoryPage::default();
    let mut ring = RingTransport::new(page.clone(), conn);
    for step in bytes.chunks_exact(4) {
        let value = u32::from_le_bytes([step[1], step[2], step[3], 0]);
        match step[0] {
            0..=127 => {
                let prod = page.read_u32(offset::REQ_PROD);
                let at = prod as usize % RING_SIZE;
                let n = (RING_SIZE - at).min(3);
                page.write_bytes(offset::REQ + at, &step[1..=n]);
                page.write_u32(offset::REQ_PROD, prod.wrapping_add(n as u32));
            }
            128..=191 => {
                let prod = page.read_u32(offset::RSP_PROD);
                page.write_u32(offset::RSP_CONS, prod.wrapping_sub(value % 1024));
            }
            word => page.write_u32(2048 + usize::from(word % 8) * 4, value),
        }
        let _ = ring.service(store);
    }
}

fn check(store: &mut Xenstore) {
    let state = store.save();
    let mut restored = Xenstore::restore(&state).expect("what was saved is restored");
    assert_eq!(restored.save(), state);
    let conn = restored.introduce_domain(GUEST);
    let listed = restored.directory(LOCAL, 0, b"/local/domain/1/data");
    if let Ok(node) = listed {
        assert!(node.children().len() <= quota::NODES_PER_DOMAIN + 8);
    }
    restored.close(conn);
}
