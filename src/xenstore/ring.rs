//! The guest's way to the store: one shared page with a byte ring in each
//! direction (`struct xenstore_domain_interface` of `io/xs_wire.h`) and an
//! event channel.
//!
//! The guest may write anything into the page at any time. Every index is read
//! once and judged before it is used; the host keeps no state that the page
//! could contradict.

use super::server::Xenstore;
use super::watch::ConnId;
use super::wire::WireError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Bytes of each ring.
pub const RING_SIZE: usize = 1024;
const RING_SIZE_U32: u32 = RING_SIZE as u32;

/// Offsets into the page.
pub mod offset {
    /// Requests, guest to store.
    pub const REQ: usize = 0;
    /// Answers and events, store to guest.
    pub const RSP: usize = 1024;
    /// The store's index into the requests.
    pub const REQ_CONS: usize = 2048;
    /// The guest's index into the requests.
    pub const REQ_PROD: usize = 2052;
    /// The guest's index into the answers.
    pub const RSP_CONS: usize = 2056;
    /// The store's index into the answers.
    pub const RSP_PROD: usize = 2060;
    /// What the store can do: the [`super::feature`] bits.
    pub const SERVER_FEATURES: usize = 2064;
    /// 0, or 1 while the guest asks for a new start.
    pub const CONNECTION: usize = 2068;
    /// Why the store has stopped listening: a [`super::RingFault`].
    pub const ERROR: usize = 2072;
}

/// Bits of `server_features`.
pub mod feature {
    /// The guest may ask for a new start through `connection`.
    pub const RECONNECTION: u32 = 1;
    /// `error` tells why the store stopped listening.
    pub const ERROR: u32 = 2;
    /// WATCH takes a depth.
    pub const WATCHDEPTH: u32 = 4;
}

const CONNECTED: u32 = 0;
const RECONNECT: u32 = 1;

/// Bytes moved in one call of [`RingTransport::service`] before others get
/// their turn: a guest that keeps writing while it is read must not hold the
/// event loop.
const SERVICE_BUDGET: usize = 64 * 1024;

/// A page shared with the guest. Offsets are within the page, and aligned for
/// the 32-bit accesses.
///
/// The guest changes the page at the same time: implementations use atomic
/// accesses (acquire for reads, release for writes of `u32`), and never hand
/// out references into the page.
pub trait RingPage {
    /// Reads 32 bits at `off`, with acquire ordering.
    fn read_u32(&self, off: usize) -> u32;
    /// Writes 32 bits at `off`, with release ordering.
    fn write_u32(&self, off: usize, v: u32);
    /// Copies bytes out of the page.
    fn read_bytes(&self, off: usize, buf: &mut [u8]);
    /// Copies bytes into the page.
    fn write_bytes(&self, off: usize, buf: &[u8]);
}

impl<T: RingPage + ?Sized> RingPage for Box<T> {
    fn read_u32(&self, off: usize) -> u32 {
        (**self).read_u32(off)
    }
    fn write_u32(&self, off: usize, v: u32) {
        (**self).write_u32(off, v);
    }
    fn read_bytes(&self, off: usize, buf: &mut [u8]) {
        (**self).read_bytes(off, buf);
    }
    fn write_bytes(&self, off: usize, buf: &[u8]) {
        (**self).write_bytes(off, buf);
    }
}

/// Why a ring is out of use, with the code that the guest finds in `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RingFault {
    /// A producer is further from its consumer than the ring is long.
    BadIndex = 2,
    /// A message that cannot be one.
    Protocol = 3,
}

impl From<WireError> for RingFault {
    fn from(error: WireError) -> Self {
        log::debug!(target: "xenstore", "Guest broke the protocol: {error}");
        Self::Protocol
    }
}

/// The ring of one guest.
#[derive(Debug)]
pub struct RingTransport<P> {
    page: P,
    conn: ConnId,
    fault: Option<RingFault>,
    has_failed_before: bool,
    unfinished: bool,
}

impl<P: RingPage> RingTransport<P> {
    /// Serves the connection `conn` (of [`Xenstore::introduce_domain`]) through
    /// `page`. Indices are taken as they are: all zero for a new domain.
    pub fn new(page: P, conn: ConnId) -> Self {
        let features = feature::RECONNECTION | feature::ERROR | feature::WATCHDEPTH;
        page.write_u32(offset::SERVER_FEATURES, features);
        page.write_u32(offset::ERROR, 0);
        Self {
            page,
            conn,
            fault: None,
            has_failed_before: false,
            unfinished: false,
        }
    }

    /// Moves what can be moved, both ways. To be called when the guest has
    /// signalled and when the connection got events. True if the guest is to
    /// be notified.
    #[must_use]
    pub fn service(&mut self, store: &mut Xenstore) -> bool {
        let mut notify = self.reconnect_if_asked(store);
        self.unfinished = false;
        if self.fault.is_some() {
            return notify;
        }
        let mut moved = 0;
        while moved < SERVICE_BUDGET {
            // The indices written so far are seen by the guest before its own
            // are read again: either it sees that we have caught up and
            // signals what it adds, or we see the addition here.
            fence(Ordering::SeqCst);
            match self
                .send(store)
                .and_then(|sent| Ok(sent + self.receive(store)?))
            {
                Ok(0) => return notify,
                Ok(some) => moved += some,
                Err(fault) => {
                    self.fail(fault);
                    return true;
                }
            }
            notify = true;
        }
        self.unfinished = true;
        notify
    }

    /// True if the last call of [`RingTransport::service`] stopped before its
    /// work was done, so that another call is due without a signal.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Why the ring is out of use, if it is.
    #[must_use]
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    fn reconnect_if_asked(&mut self, store: &mut Xenstore) -> bool {
        if self.page.read_u32(offset::CONNECTION) != RECONNECT {
            return false;
        }
        store.reset(self.conn);
        self.fault = None;
        for index in [
            offset::REQ_CONS,
            offset::REQ_PROD,
            offset::RSP_CONS,
            offset::RSP_PROD,
        ] {
            self.page.write_u32(index, 0);
        }
        self.page.write_u32(offset::ERROR, 0);
        self.page.write_u32(offset::CONNECTION, CONNECTED);
        true
    }

    fn fail(&mut self, fault: RingFault) {
        // Once: a guest may break it, reconnect and break it for ever.
        let repeated = std::mem::replace(&mut self.has_failed_before, true);
        log::log!(
            target: "xenstore",
            if repeated { log::Level::Debug } else { log::Level::Warn },
            "Guest's xenstore ring is broken ({fault:?}); ignoring it until it reconnects",
        );
        self.fault = Some(fault);
        self.page.write_u32(offset::ERROR, fault as u32);
    }

    /// Fills the guest's ring; returns the number of bytes.
    fn send(&self, store: &mut Xenstore) -> Result<usize, RingFault> {
        let mut sent = 0;
        while sent < SERVICE_BUDGET {
            let prod = self.page.read_u32(offset::RSP_PROD);
            let waiting = distance(prod, self.page.read_u32(offset::RSP_CONS))?;
            let at = position(prod);
            let room = (RING_SIZE - waiting).min(RING_SIZE - at);
            let output = store.pending_output(self.conn);
            let chunk = output.get(..room).unwrap_or(output);
            if chunk.is_empty() {
                break;
            }
            let n = chunk.len();
            self.page.write_bytes(offset::RSP + at, chunk);
            self.page
                .write_u32(offset::RSP_PROD, prod.wrapping_add(n as u32));
            store.consume_output(self.conn, n);
            sent += n;
        }
        Ok(sent)
    }

    /// Empties the guest's requests as far as its answers have room; returns
    /// the number of bytes.
    fn receive(&self, store: &mut Xenstore) -> Result<usize, RingFault> {
        let mut received = 0;
        while received < SERVICE_BUDGET {
            let cons = self.page.read_u32(offset::REQ_CONS);
            let waiting = distance(self.page.read_u32(offset::REQ_PROD), cons)?;
            let at = position(cons);
            let n = waiting.min(RING_SIZE - at).min(store.wanted(self.conn)?);
            if n == 0 {
                break;
            }
            let mut copy = [0; RING_SIZE];
            let Some(chunk) = copy.get_mut(..n) else {
                break;
            };
            self.page.read_bytes(offset::REQ + at, chunk);
            self.page
                .write_u32(offset::REQ_CONS, cons.wrapping_add(n as u32));
            store.push_input(self.conn, chunk)?;
            received += n;
        }
        Ok(received)
    }
}

/// Bytes between two free-running indices.
fn distance(prod: u32, cons: u32) -> Result<usize, RingFault> {
    let distance = prod.wrapping_sub(cons);
    if distance > RING_SIZE_U32 {
        return Err(RingFault::BadIndex);
    }
    Ok(distance as usize)
}

fn position(index: u32) -> usize {
    (index % RING_SIZE_U32) as usize
}

/// A page in ordinary memory, shared by its clones: the guest's end and the
/// store's in tests, fuzzing and benchmarks.
#[derive(Debug, Clone)]
pub struct MemoryPage(Arc<[AtomicU32]>);

impl Default for MemoryPage {
    fn default() -> Self {
        Self((0..1024).map(|_| AtomicU32::new(0)).collect())
    }
}

impl MemoryPage {
    /// The word at byte offset `off`; offsets wrap at the end of the page.
    fn word(&self, off: usize) -> &AtomicU32 {
        &self.0[off / 4 % 1024]
    }
}

impl RingPage for MemoryPage {
    fn read_u32(&self, off: usize) -> u32 {
        u32::from_le(self.word(off).load(Ordering::Acquire))
    }

    fn write_u32(&self, off: usize, v: u32) {
        self.word(off).store(v.to_le(), Ordering::Release);
    }

    fn read_bytes(&self, off: usize, buf: &mut [u8]) {
        for (i, byte) in buf.iter_mut().enumerate() {
            let word = self.word(off + i).load(Ordering::Relaxed);
            *byte = word.to_le_bytes()[(off + i) % 4];
        }
    }

    fn write_bytes(&self, off: usize, buf: &[u8]) {
        for (i, &byte) in buf.iter().enumerate() {
            let shift = (off + i) % 4 * 8;
            let (clear, set) = (!(0xff << shift), u32::from(byte) << shift);
            let word = self.word(off + i);
            // Neighbouring bytes may belong to the other end.
            word.fetch_and(clear, Ordering::Relaxed);
            word.fetch_or(set, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
