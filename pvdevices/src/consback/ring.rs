//! The console ring: bytes out of and into a page that the domain may scribble on at any time.
//!
//! The backend's own two indices live here and are only ever written to the page; the domain's two
//! are loaded once a step, and a distance that no honest domain can make ends the console.

use std::mem::offset_of;

use xenner_xen_abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface};

use crate::domain::{Notify, SharedPage};

const IN: usize = offset_of!(XenconsInterface, input);
const OUT: usize = offset_of!(XenconsInterface, output);
const IN_CONS: usize = offset_of!(XenconsInterface, in_cons);
const IN_PROD: usize = offset_of!(XenconsInterface, in_prod);
const OUT_CONS: usize = offset_of!(XenconsInterface, out_cons);
const OUT_PROD: usize = offset_of!(XenconsInterface, out_prod);
const CONNECTION: usize = offset_of!(XenconsInterface, connection);

/// `XENCONSOLE_CONNECTED`: the backend serves the ring.
const CONNECTED: u8 = 0;
/// `XENCONSOLE_DISCONNECTED`: it does not.
const DISCONNECTED: u8 = 1;

/// Bytes moved each way by one [`ConsoleRing::pump`], so that a domain that prints without end
/// leaves the event loop to others.
const BUDGET: usize = 8 * XENCONS_OUT_SIZE;

/// The user's side, as the ring sees it.
pub trait ConsoleEnd {
    /// Takes output and returns how many bytes it took; fewer than all if the listener is slow.
    fn write(&mut self, data: &[u8]) -> usize;

    /// Reads what the user typed; 0 if nothing is there.
    fn read(&mut self, buf: &mut [u8]) -> usize;
}

impl ConsoleEnd for xenner_console::Chardev {
    fn write(&mut self, data: &[u8]) -> usize {
        Self::write(self, data)
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        Self::read(self, buf)
    }
}

/// The domain's indices cannot be: it has overwritten what was not consumed, or consumed what was
/// never there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Console ring {ring}: {distance} bytes between the indices, but it holds {size}")]
pub struct RingViolation {
    /// `out` (from the domain) or `in` (to it).
    pub ring: &'static str,
    /// The producer's index less the consumer's.
    pub distance: u32,
    /// The ring's size in bytes.
    pub size: u32,
}

/// What one [`ConsoleRing::pump`] did, and what it waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pumped {
    /// Bytes moved from the domain to the user.
    pub to_user: usize,
    /// Bytes moved from the user to the domain.
    pub to_domain: usize,
    /// The listener is slow: call again when it takes more.
    pub stalled: bool,
    /// The domain has room for input: call again when the user types.
    pub wants_input: bool,
    /// There was more than one call moves: call again soon, without waiting for anything.
    pub more: bool,
}

/// A domain's console ring.
pub struct ConsoleRing {
    page: Box<dyn SharedPage>,
    notify: Box<dyn Notify>,
    out_cons: u32,
    in_prod: u32,
    closed: bool,
}

impl ConsoleRing {
    /// Takes up the ring in `page`, where it stands: a new domain's page is zero, a restored one's
    /// holds the indices that it was saved with. Tells the domain that the console is served.
    pub fn new(page: Box<dyn SharedPage>, notify: Box<dyn Notify>) -> Self {
        // The domain could have forged the backend's indices too; nothing but its own output
        // depends on them, and the distances are checked before each use.
        let (out_cons, in_prod) = (page.load_u32(OUT_CONS), page.load_u32(IN_PROD));
        page.write(CONNECTION, &[CONNECTED]);
        Self {
            page,
            notify,
            out_cons,
            in_prod,
            closed: false,
        }
    }

    /// Closes the ring for good, as a violation does: the domain is told, and nothing moves any more.
    pub fn close(&mut self) {
        self.closed = true;
        self.page.write(CONNECTION, &[DISCONNECTED]);
    }

    /// Whether a violation has closed the console.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the domain has not taken all that was given to it.
    pub fn has_unread_input(&self) -> bool {
        !self.closed && self.page.load_u32(IN_CONS) != self.in_prod
    }

    /// Moves what there is and what fits, both ways, and sends one event if anything moved.
    ///
    /// The first violation closes the ring: the domain is told, and from then on nothing is moved.
    pub fn pump(&mut self, end: &mut dyn ConsoleEnd) -> Result<Pumped, RingViolation> {
        let mut pumped = Pumped::default();
        if self.closed {
            return Ok(pumped);
        }
        let result = self
            .take_output(end, &mut pumped)
            .and_then(|()| self.give_input(end, &mut pumped));
        if result.is_err() {
            self.close();
        }
        if pumped.to_user + pumped.to_domain > 0 || result.is_err() {
            self.notify.notify();
        }
        result.map(|()| pumped)
    }

    fn take_output(
        &mut self,
        end: &mut dyn ConsoleEnd,
        pumped: &mut Pumped,
    ) -> Result<(), RingViolation> {
        let mut buf = [0; XENCONS_OUT_SIZE];
        loop {
            let prod = self.page.load_u32(OUT_PROD);
            let waiting = distance("out", prod, self.out_cons, XENCONS_OUT_SIZE)?;
            if waiting == 0 {
                return Ok(());
            }
            if pumped.to_user >= BUDGET {
                pumped.more = true;
                return Ok(());
            }
            let start = self.out_cons as usize % XENCONS_OUT_SIZE;
            let data = &mut buf[..waiting.min(XENCONS_OUT_SIZE - start)];
            self.page.read(OUT + start, data);
            let taken = end.write(data).min(data.len());
            self.out_cons = self.out_cons.wrapping_add(taken as u32);
            // At once: a domain may spin until its output is consumed, without an event.
            self.page.store_u32(OUT_CONS, self.out_cons);
            pumped.to_user += taken;
            if taken < data.len() {
                pumped.stalled = true;
                return Ok(());
            }
        }
    }

    fn give_input(
        &mut self,
        end: &mut dyn ConsoleEnd,
        pumped: &mut Pumped,
    ) -> Result<(), RingViolation> {
        let mut buf = [0; XENCONS_IN_SIZE];
        loop {
            let cons = self.page.load_u32(IN_CONS);
            let room = XENCONS_IN_SIZE - distance("in", self.in_prod, cons, XENCONS_IN_SIZE)?;
            pumped.wants_input = room > 0;
            if room == 0 {
                return Ok(());
            }
            if pumped.to_domain >= BUDGET {
                pumped.more = true;
                return Ok(());
            }
            let start = self.in_prod as usize % XENCONS_IN_SIZE;
            let place = &mut buf[..room.min(XENCONS_IN_SIZE - start)];
            let got = end.read(place).min(place.len());
            if got == 0 {
                return Ok(());
            }
            self.page.write(IN + start, &place[..got]);
            self.in_prod = self.in_prod.wrapping_add(got as u32);
            self.page.store_u32(IN_PROD, self.in_prod);
            pumped.to_domain += got;
        }
    }
}

impl Drop for ConsoleRing {
    fn drop(&mut self) {
        self.page.write(CONNECTION, &[DISCONNECTED]);
    }
}

impl std::fmt::Debug for ConsoleRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleRing")
            .field("out_cons", &self.out_cons)
            .field("in_prod", &self.in_prod)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Bytes in a ring, or the violation if there cannot be so many.
fn distance(ring: &'static str, prod: u32, cons: u32, size: usize) -> Result<usize, RingViolation> {
    let distance = prod.wrapping_sub(cons);
    if distance as usize > size {
        return Err(RingViolation {
            ring,
            distance,
            size: size as u32,
        });
    }
    Ok(distance as usize)
}

#[cfg(test)]
pub(crate) mod tests;
