//! The backend's side of a shared ring (`xen/include/public/io/ring.h`): requests out of, and
//! responses into, one to sixteen granted pages.
//!
//! The backend's own indices live here and are only ever written to the pages. The frontend's
//! producer index is checked against them each time it is loaded: one that no honest frontend can
//! show breaks the ring for good. What requests mean is the device's business.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use thiserror::Error;
use xenner_xen_abi::io::ring::{SringHeader, needs_notify, ring_size};

use crate::domain::{Grant, PAGE_SIZE, SharedPage};

const HEADER: usize = size_of::<SringHeader>();
const REQ_PROD: usize = offset_of!(SringHeader, req_prod);
const REQ_EVENT: usize = offset_of!(SringHeader, req_event);
const RSP_PROD: usize = offset_of!(SringHeader, rsp_prod);
const RSP_EVENT: usize = offset_of!(SringHeader, rsp_event);

/// Pages of the largest ring (`XENBUS_MAX_RING_GRANTS`, order 4).
pub const MAX_RING_PAGES: usize = 16;

/// Why a ring cannot be served. What a frontend has chosen is its fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RingError {
    /// The number of pages is not one that rings have.
    #[error("A ring of {0} pages is not possible: 1 to {MAX_RING_PAGES}, a power of two")]
    Pages(usize),
    /// No entry of that size fits.
    #[error("Ring entries of {0} bytes are not possible")]
    EntrySize(usize),
    /// A page is granted for reading only.
    #[error("Grant reference {0} of the ring is read-only")]
    ReadOnly(u32),
    /// A saved state that no ring has been in.
    #[error("A ring cannot be in the saved state {0:?}")]
    State(RingState),
    /// The producer's index is beyond the ring, or behind what was consumed already.
    #[error(
        "The frontend's req_prod is {req_prod:#x}, {req_cons:#x} are consumed and {rsp_prod:#x} answered in a ring of {size}"
    )]
    Overrun {
        /// The frontend's index.
        req_prod: u32,
        /// Requests consumed.
        req_cons: u32,
        /// Requests answered.
        rsp_prod: u32,
        /// Entries of the ring.
        size: u32,
    },
}

/// Where a ring stands, for a saved or migrated domain; the rest is in its pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingState {
    /// Requests consumed.
    pub req_cons: u32,
    /// Responses put, the last of them perhaps not pushed yet.
    pub rsp_prod_pvt: u32,
    /// Responses pushed: the page's `rsp_prod`.
    pub rsp_prod: u32,
}

/// A ring's backend side.
#[derive(Debug)]
pub struct BackRing {
    pages: Vec<Grant>,
    entry_size: usize,
    size: u32,
    /// The last `req_prod` that was loaded and found possible.
    req_prod: u32,
    state: RingState,
    broken: Option<RingError>,
}

impl BackRing {
    /// Takes up the ring in `pages`, whose slots have `entry_size` bytes (the larger of request and
    /// response), where it stands: everything up to the page's `rsp_prod` has been answered
    /// (`BACK_RING_ATTACH`).
    ///
    /// # Errors
    /// [`RingError`].
    pub fn new(pages: Vec<Grant>, entry_size: usize) -> Result<Self, RingError> {
        let rsp_prod = pages.first().map_or(0, |page| page.load_u32(RSP_PROD));
        let state = RingState {
            req_cons: rsp_prod,
            rsp_prod_pvt: rsp_prod,
            rsp_prod,
        };
        Self::restore(pages, entry_size, state)
    }

    /// Goes on with a ring that [`Self::save`] was called on.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn restore(
        pages: Vec<Grant>,
        entry_size: usize,
        state: RingState,
    ) -> Result<Self, RingError> {
        if !pages.len().is_power_of_two() || pages.len() > MAX_RING_PAGES {
            return Err(RingError::Pages(pages.len()));
        }
        if let Some(page) = pages.iter().find(|page| !page.is_writable()) {
            return Err(RingError::ReadOnly(page.gref()));
        }
        let size = ring_size(pages.len() * PAGE_SIZE, entry_size);
        if size == 0 {
            return Err(RingError::EntrySize(entry_size));
        }
        let mut ring = Self {
            pages,
            entry_size,
            size,
            req_prod: state.req_cons,
            state,
            broken: None,
        };
        if state.rsp_prod_pvt.wrapping_sub(state.rsp_prod) > size {
            return Err(RingError::State(state));
        }
        ring.load_req_prod()?;
        Ok(ring)
    }

    /// Where the ring stands. Requests that were consumed and not answered are the device's to save.
    #[must_use]
    pub fn save(&self) -> RingState {
        self.state
    }

    /// Entries of the ring.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Requests that were consumed and not answered.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.state.req_cons.wrapping_sub(self.state.rsp_prod_pvt)
    }

    /// Requests that wait.
    ///
    /// # Errors
    /// [`RingError::Overrun`], then and at every later call: the ring is broken.
    pub fn unconsumed(&mut self) -> Result<u32, RingError> {
        self.load_req_prod()?;
        Ok(self.req_prod.wrapping_sub(self.state.req_cons))
    }

    /// Copies the next request into `buf` (no longer than an entry) and consumes it; false if there
    /// is none. The ring's slot is not looked at again.
    ///
    /// # Errors
    /// As [`Self::unconsumed`].
    pub fn next_request(&mut self, buf: &mut [u8]) -> Result<bool, RingError> {
        if self.req_prod == self.state.req_cons {
            self.load_req_prod()?;
        }
        if let Some(error) = self.broken {
            return Err(error);
        }
        if self.req_prod == self.state.req_cons {
            return Ok(false);
        }
        self.for_slot(self.state.req_cons, buf.len(), |page, off, part| {
            page.read(off, &mut buf[part]);
        });
        self.state.req_cons = self.state.req_cons.wrapping_add(1);
        Ok(true)
    }

    /// Puts a response (no longer than an entry) into the next slot. The frontend sees it after
    /// [`Self::push_responses`].
    ///
    /// # Panics
    /// If every request that was consumed is answered: the device counts wrongly.
    pub fn put_response(&mut self, response: &[u8]) {
        assert!(self.in_flight() > 0, "no request is left to answer");
        self.for_slot(
            self.state.rsp_prod_pvt,
            response.len(),
            |page, off, part| {
                page.write(off, &response[part]);
            },
        );
        self.state.rsp_prod_pvt = self.state.rsp_prod_pvt.wrapping_add(1);
    }

    /// Shows the frontend all responses that were put; true if it asked to be notified of them
    /// (`RING_PUSH_RESPONSES_AND_CHECK_NOTIFY`).
    #[must_use]
    pub fn push_responses(&mut self) -> bool {
        let (old, new) = (self.state.rsp_prod, self.state.rsp_prod_pvt);
        if old == new {
            return false;
        }
        self.pages[0].store_u32(RSP_PROD, new);
        self.state.rsp_prod = new;
        // The frontend stores rsp_event and then looks at rsp_prod: one of the two sides must see
        // what the other stored, which takes a full fence on both.
        fence(Ordering::SeqCst);
        needs_notify(old, new, self.pages[0].load_u32(RSP_EVENT))
    }

    /// Before going to sleep: asks for an event with the next request, and looks once more; true if
    /// requests wait after all (`RING_FINAL_CHECK_FOR_REQUESTS`).
    ///
    /// # Errors
    /// As [`Self::unconsumed`].
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        if self.unconsumed()? > 0 {
            return Ok(true);
        }
        self.pages[0].store_u32(REQ_EVENT, self.state.req_cons.wrapping_add(1));
        // As in push_responses, the other way round.
        fence(Ordering::SeqCst);
        Ok(self.unconsumed()? > 0)
    }

    /// Loads the frontend's index once and checks it: what it produced beyond what was consumed
    /// must fit beside what is not answered yet.
    fn load_req_prod(&mut self) -> Result<(), RingError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let req_prod = self.pages[0].load_u32(REQ_PROD);
        let RingState {
            req_cons,
            rsp_prod_pvt,
            ..
        } = self.state;
        let room = self.size.checked_sub(self.in_flight());
        if room.is_none_or(|room| req_prod.wrapping_sub(req_cons) > room) {
            let error = RingError::Overrun {
                req_prod,
                req_cons,
                rsp_prod: rsp_prod_pvt,
                size: self.size,
            };
            self.broken = Some(error);
            return Err(error);
        }
        self.req_prod = req_prod;
        Ok(())
    }

    /// Calls `each` for the parts of a slot's first `len` bytes: one, or two where the slot lies on
    /// two pages, or more for slots larger than a page. `part` is the range within the entry.
    fn for_slot(
        &self,
        index: u32,
        len: usize,
        mut each: impl FnMut(&Grant, usize, std::ops::Range<usize>),
    ) {
        assert!(len <= self.entry_size, "{len} bytes in a ring's entry");
        let start = HEADER + (index & (self.size - 1)) as usize * self.entry_size;
        let mut done = 0;
        while done < len {
            let off = (start + done) % PAGE_SIZE;
            let end = len.min(done + PAGE_SIZE - off);
            each(&self.pages[(start + done) / PAGE_SIZE], off, done..end);
            done = end;
        }
    }
}

#[cfg(test)]
mod tests;
