//! What the tests of the store share: a client that speaks the protocol to a
//! store in memory.

use super::server::Xenstore;
use super::watch::ConnId;
use super::wire::{Assembler, MessageType, Request, encode};

/// Speaks for one connection.
#[derive(Debug, Clone, Copy)]
pub struct Wire(pub ConnId);

impl Wire {
    /// Sends a message and leaves the answer where it is.
    pub fn send(self, store: &mut Xenstore, kind: MessageType, tx: u32, payload: &[u8]) {
        let message = encode(kind, 77, tx, payload);
        let mut rest = &message[..];
        while !rest.is_empty() {
            let n = store.wanted(self.0).unwrap().min(rest.len());
            assert_ne!(n, 0, "the store does not read");
            store.push_input(self.0, &rest[..n]).unwrap();
            rest = &rest[n..];
        }
    }

    /// Everything that waits for the connection.
    pub fn drain(self, store: &mut Xenstore) -> Vec<Request> {
        let mut assembler = Assembler::default();
        let mut messages = Vec::new();
        while store.has_output(self.0) {
            let n = store
                .pending_output(self.0)
                .len()
                .min(assembler.wanted().unwrap());
            let bytes = store.pending_output(self.0)[..n].to_vec();
            messages.extend(assembler.push(&bytes).unwrap());
            store.consume_output(self.0, n);
        }
        messages
    }

    /// Sends a message; returns the answer's payload, or the error's name.
    /// Events that wait are thrown away.
    pub fn ask(
        self,
        store: &mut Xenstore,
        kind: MessageType,
        tx: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, String> {
        self.send(store, kind, tx, payload);
        let answers = self.drain(store);
        let answer = answers
            .into_iter()
            .find(|m| m.kind != MessageType::WATCH_EVENT)
            .unwrap();
        assert_eq!((answer.req_id, answer.tx_id), (77, tx));
        if answer.kind == MessageType::ERROR {
            let name = String::from_utf8(answer.payload).unwrap();
            return Err(name.strip_suffix('\0').unwrap().to_owned());
        }
        assert_eq!(answer.kind, kind);
        Ok(answer.payload)
    }

    /// The watch events that wait, as `path token`.
    pub fn events(self, store: &mut Xenstore) -> Vec<String> {
        let events = self.drain(store).into_iter();
        events
            .filter(|m| m.kind == MessageType::WATCH_EVENT)
            .map(|m| {
                assert_eq!((m.req_id, m.tx_id), (0, 0));
                let text = String::from_utf8(m.payload).unwrap();
                text.strip_suffix('\0').unwrap().replace('\0', " ")
            })
            .collect()
    }
}

/// A store with domain 1 introduced, whose directory it may read and whose
/// `data` is its own; the wires of domid 0 and of domid 1.
pub fn store_with_guest() -> (Xenstore, Wire, Wire) {
    let mut store = Xenstore::new();
    let dom0 = Wire(store.open_wire(0));
    let guest = Wire(store.introduce_domain(1));
    let mut set = |path: &str, perms: &str| {
        let payload = format!("{path}\0");
        dom0.ask(&mut store, MessageType::WRITE, 0, payload.as_bytes())
            .unwrap();
        let payload = format!("{path}\0{}\0", perms.replace(' ', "\0"));
        dom0.ask(&mut store, MessageType::SET_PERMS, 0, payload.as_bytes())
            .unwrap();
    };
    set("/local/domain/1", "n0 r1");
    set("/local/domain/1/data", "n1");
    set("/local/domain/1/secret", "n0");
    (store, dom0, guest)
}
