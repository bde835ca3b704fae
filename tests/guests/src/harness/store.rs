//! A xenstore client over the ring page: one request at a time, watch events
//! kept aside.

use super::machine::{info, va_of};
use super::time;
use super::xen::send;
use crate::arch::memory::{fence, read8, read32, write8, write32};
use core::cell::RefCell;
use xenner_test_guests::store::{HEADER, header, request};
use xenner_test_guests::text::Text;
use xenner_xen_abi::io::xs_wire::*;

/// An answer's body.
pub type Body = Text<{ XENSTORE_PAYLOAD_MAX }>;

/// An answer.
pub struct Answer {
    /// Its kind; `XS_ERROR` for an error.
    pub kind: u32,
    /// Its body; the name of the errno, with NUL, for an error.
    pub body: Body,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug)]
pub enum StoreError {
    /// Longer than a request may be here.
    TooLong,
    /// Nothing came within five seconds.
    Timeout,
    /// The answer does not belong to the request.
    Mismatch,
}

/// The client.
pub struct Client {
    page: u64,
    next_id: u32,
    events: RefCell<Text<512>>,
}

impl Client {
    /// The client of this domain's ring.
    pub fn new() -> Self {
        Self {
            page: va_of(info().store_mfn),
            next_id: 1,
            events: RefCell::new(Text::new()),
        }
    }

    /// Send bytes as they are, in chunks of at most `chunk` bytes.
    pub fn put(&self, bytes: &[u8], chunk: usize) -> Result<(), StoreError> {
        for part in bytes.chunks(chunk) {
            for &b in part {
                let prod = read32(self.page + 2052);
                if !time::spin(5000, || prod.wrapping_sub(read32(self.page + 2048)) < 1024) {
                    return Err(StoreError::Timeout);
                }
                write8(self.page + u64::from(prod % 1024), b);
                fence();
                write32(self.page + 2052, prod.wrapping_add(1));
            }
            send(info().store_evtchn);
        }
        Ok(())
    }

    fn byte(&self) -> Result<u8, StoreError> {
        let cons = read32(self.page + 2056);
        if !time::spin(5000, || read32(self.page + 2060) != cons) {
            return Err(StoreError::Timeout);
        }
        fence();
        let b = read8(self.page + 1024 + u64::from(cons % 1024));
        fence();
        write32(self.page + 2056, cons.wrapping_add(1));
        if read32(self.page + 2060).wrapping_sub(cons) >= 1024 {
            send(info().store_evtchn);
        }
        Ok(b)
    }

    /// The next message: its header and body.
    pub fn receive(&self) -> Result<(XsdSockmsg, Body), StoreError> {
        let mut h = [0; HEADER];
        for b in &mut h {
            *b = self.byte()?;
        }
        let h = header(&h).ok_or(StoreError::Mismatch)?;
        let mut body = Body::new();
        for _ in 0..h.len {
            body.push(&[self.byte()?]);
        }
        send(info().store_evtchn);
        Ok((h, body))
    }

    /// A request and its answer.
    pub fn ask(&mut self, kind: u32, tx: u32, parts: &[&[u8]]) -> Result<Answer, StoreError> {
        self.ask_chunked(kind, tx, parts, 1024)
    }

    /// The same, the request written in chunks.
    pub fn ask_chunked(
        &mut self,
        kind: u32,
        tx: u32,
        parts: &[&[u8]],
        chunk: usize,
    ) -> Result<Answer, StoreError> {
        let id = self.next_id;
        self.next_id += 1;
        let m = request(kind, id, tx, parts).ok_or(StoreError::TooLong)?;
        self.put(m.as_bytes(), chunk)?;
        loop {
            let (h, body) = self.receive()?;
            if h.kind == XS_WATCH_EVENT {
                self.keep(&body);
                continue;
            }
            let fits = h.req_id == id && h.tx_id == tx && (h.kind == kind || h.kind == XS_ERROR);
            return if fits {
                Ok(Answer { kind: h.kind, body })
            } else {
                Err(StoreError::Mismatch)
            };
        }
    }

    fn keep(&self, body: &Body) {
        self.events.borrow_mut().push(body.as_bytes());
    }

    /// The next watch event, `path\0token\0`: one kept aside, or a new one.
    pub fn event(&self) -> Result<Text<512>, StoreError> {
        if self.events.borrow().as_bytes().is_empty() {
            let (h, body) = self.receive()?;
            if h.kind != XS_WATCH_EVENT {
                return Err(StoreError::Mismatch);
            }
            self.keep(&body);
        }
        let mut all = self.events.borrow_mut();
        let bytes = *all;
        let bytes = bytes.as_bytes();
        let end = bytes
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == 0)
            .nth(1)
            .map_or(bytes.len(), |(i, _)| i + 1);
        let (mut first, mut rest) = (Text::new(), Text::new());
        first.push(&bytes[..end]);
        rest.push(&bytes[end..]);
        *all = rest;
        Ok(first)
    }

    /// Whether an event is there already or comes within `ms`.
    pub fn has_event(&self, ms: u64) -> bool {
        let more = || read32(self.page + 2056) != read32(self.page + 2060);
        !self.events.borrow().as_bytes().is_empty() || time::spin(ms, more)
    }
}
