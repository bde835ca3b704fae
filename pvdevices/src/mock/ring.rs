//! The frontend's side of a shared ring, honest and otherwise.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use xenner_xen_abi::io::ring::{SringHeader, needs_notify, ring_size};

use super::{GrantedPage, MockDomain, MockPort, PATIENCE};
use crate::domain::{Access, PAGE_SIZE, SharedPage};

const HEADER: usize = size_of::<SringHeader>();
const REQ_PROD: usize = offset_of!(SringHeader, req_prod);
const REQ_EVENT: usize = offset_of!(SringHeader, req_event);
const RSP_PROD: usize = offset_of!(SringHeader, rsp_prod);
const RSP_EVENT: usize = offset_of!(SringHeader, rsp_event);

/// A ring in pages granted to domain 0 (`FRONT_RING_INIT` and what follows).
#[derive(Debug)]
pub struct MockRing {
    pages: Vec<GrantedPage>,
    entry_size: usize,
    size: u32,
    req_prod: u32,
    rsp_cons: u32,
}

impl MockRing {
    /// A ring of so many new pages, with slots of so many bytes.
    #[must_use]
    pub fn new(domain: &Arc<MockDomain>, pages: usize, entry_size: usize) -> Self {
        Self::starting_at(domain, pages, entry_size, 0)
    }

    /// A ring that has been in use: both sides have moved `index` requests (mod 2^32).
    #[must_use]
    pub fn starting_at(
        domain: &Arc<MockDomain>,
        pages: usize,
        entry_size: usize,
        index: u32,
    ) -> Self {
        let granted = (0..pages).map(|_| domain.granted_page(Access::Write));
        let ring = Self {
            pages: granted.collect(),
            entry_size,
            size: ring_size(pages * PAGE_SIZE, entry_size),
            req_prod: index,
            rsp_cons: index,
        };
        for page in &ring.pages {
            page.put(0, &[0; PAGE_SIZE]);
        }
        ring.set_word(REQ_PROD, index);
        ring.set_word(REQ_EVENT, index.wrapping_add(1));
        ring.set_word(RSP_PROD, index);
        ring.set_word(RSP_EVENT, index.wrapping_add(1));
        ring
    }

    /// Entries of the ring.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The references of its pages.
    #[must_use]
    pub fn grefs(&self) -> Vec<u32> {
        self.pages.iter().map(GrantedPage::gref).collect()
    }

    /// Requests that can be put before a response must be taken.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.size - self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Puts a request into the next slot; panics if the ring is full.
    pub fn put_request(&mut self, request: &[u8]) {
        assert!(self.free() > 0, "the ring is full");
        self.write_slot(self.req_prod, request);
        self.req_prod = self.req_prod.wrapping_add(1);
    }

    /// Shows the backend the requests that were put; true if it wants an event.
    #[must_use]
    pub fn push_requests(&mut self) -> bool {
        let old = self.word(REQ_PROD);
        self.set_word(REQ_PROD, self.req_prod);
        fence(Ordering::SeqCst);
        needs_notify(old, self.req_prod, self.word(REQ_EVENT))
    }

    /// Puts requests, shows them and sends an event if one is wanted.
    pub fn submit<R: AsRef<[u8]>>(&mut self, requests: &[R], port: &MockPort) {
        for request in requests {
            self.put_request(request.as_ref());
        }
        if self.push_requests() {
            port.send();
        }
    }

    /// Takes the next response (as many bytes as `buf` has); false if there is none.
    #[must_use]
    pub fn next_response(&mut self, buf: &mut [u8]) -> bool {
        let rsp_prod = self.word(RSP_PROD);
        let waiting = rsp_prod.wrapping_sub(self.rsp_cons);
        let asked = self.req_prod.wrapping_sub(self.rsp_cons);
        assert!(waiting <= asked, "{waiting} responses to {asked} requests");
        if waiting == 0 {
            return false;
        }
        self.read_slot(self.rsp_cons, buf);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        true
    }

    /// Asks for an event with the next response; true if one is there already
    /// (`RING_FINAL_CHECK_FOR_RESPONSES`).
    #[must_use]
    pub fn final_check(&self) -> bool {
        if self.word(RSP_PROD) != self.rsp_cons {
            return true;
        }
        self.set_word(RSP_EVENT, self.rsp_cons.wrapping_add(1));
        fence(Ordering::SeqCst);
        self.word(RSP_PROD) != self.rsp_cons
    }

    /// Waits for the next response as Linux does, asleep until the event; panics when
    /// [`PATIENCE`] ends.
    pub fn wait_response(&mut self, port: &MockPort, buf: &mut [u8]) {
        let end = Instant::now() + PATIENCE;
        while !self.next_response(buf) {
            if self.final_check() {
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no response in time: {self:?}");
            let _ = port.wait(left);
        }
    }

    /// Requests without a response so far.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// The index after the last request that was put.
    #[must_use]
    pub fn req_prod(&self) -> u32 {
        self.req_prod
    }

    /// Shows any index as `req_prod`, as no honest frontend does.
    pub fn forge_req_prod(&self, req_prod: u32) {
        self.set_word(REQ_PROD, req_prod);
    }

    /// Shows any index as `rsp_event`.
    pub fn forge_rsp_event(&self, rsp_event: u32) {
        self.set_word(RSP_EVENT, rsp_event);
    }

    /// Shows any index as `rsp_prod`, which is the backend's.
    pub fn forge_rsp_prod(&self, rsp_prod: u32) {
        self.set_word(RSP_PROD, rsp_prod);
    }

    /// Where the backend wants an event.
    #[must_use]
    pub fn req_event(&self) -> u32 {
        self.word(REQ_EVENT)
    }

    /// The backend's index.
    #[must_use]
    pub fn rsp_prod(&self) -> u32 {
        self.word(RSP_PROD)
    }

    /// Writes into the slot of an index, whoever owns it.
    pub fn write_slot(&self, index: u32, data: &[u8]) {
        let mut at = self.slot(index);
        let mut data = data;
        while !data.is_empty() {
            let off = at % PAGE_SIZE;
            let (part, rest) = data.split_at(data.len().min(PAGE_SIZE - off));
            self.pages[at / PAGE_SIZE].put(off, part);
            at += part.len();
            data = rest;
        }
    }

    /// Reads the slot of an index.
    pub fn read_slot(&self, index: u32, buf: &mut [u8]) {
        let mut at = self.slot(index);
        let mut buf = buf;
        while !buf.is_empty() {
            let off = at % PAGE_SIZE;
            let (part, rest) = buf.split_at_mut(buf.len().min(PAGE_SIZE - off));
            self.pages[at / PAGE_SIZE].page().read(off, part);
            at += part.len();
            buf = rest;
        }
    }

    fn slot(&self, index: u32) -> usize {
        HEADER + (index % self.size) as usize * self.entry_size
    }

    fn word(&self, off: usize) -> u32 {
        self.pages[0].page().load_u32(off)
    }

    fn set_word(&self, off: usize, value: u32) {
        self.pages[0].page().store_u32(off, value);
    }
}
