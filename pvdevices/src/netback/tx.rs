//! The transmit ring (`xen/include/public/io/netif.h`): packets from the domain, collected from
//! their slots into one buffer.
//!
//! The rules for what is answered with an error and what ends the connection are those of Linux's
//! netback: a packet that is wrong in itself is dropped, a ring that cannot be trusted any more is
//! left.

use std::sync::Arc;

use log::trace;
use xenner_xen_abi::io::netif::*;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::frame::Claims;
use super::multicast::MulticastFilter;
use crate::domain::{Access, Channel, Grant, GrantTable, PAGE_SIZE};
use crate::netend::{GsoKind, MIN_FRAME};
use crate::ring::BackRing;
use crate::xenbus::DeviceError;

/// Slots of a packet at most; one with more is dropped.
const MAX_SLOTS: usize = XEN_NETIF_NR_SLOTS_MIN;
/// Slots beyond which a packet is no honest mistake.
const FATAL_SLOTS: usize = 20;

/// What was found at the front of the ring.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing.
    Nothing,
    /// A packet, now in the buffer and answered.
    Packet(Claims),
    /// A request that is no packet, answered.
    Control,
    /// A packet that is wrong in itself, answered with an error.
    Bad(&'static str),
}

/// The backend's end of a transmit ring.
#[derive(Debug)]
pub(super) struct TxRing {
    ring: BackRing,
    grants: Arc<dyn GrantTable>,
    channel: Arc<dyn Channel>,
    multicast: Arc<MulticastFilter>,
}

/// The slots of one packet.
#[derive(Debug, Default)]
struct Slots {
    /// Its requests in order, the first with the whole packet's size.
    requests: Vec<NetifTxRequest>,
    /// How many extra slots follow the first request.
    extras: usize,
    gso: Option<NetifExtraGso>,
    multicast: Option<(bool, [u8; 6])>,
}

fn broken(what: &str) -> DeviceError {
    DeviceError::Refused(format!("A transmit request {what}"))
}

impl TxRing {
    pub(super) fn new(
        ring: BackRing,
        grants: Arc<dyn GrantTable>,
        channel: Arc<dyn Channel>,
        multicast: Arc<MulticastFilter>,
    ) -> Self {
        Self {
            ring,
            grants,
            channel,
            multicast,
        }
    }

    pub(super) fn channel(&self) -> &Arc<dyn Channel> {
        &self.channel
    }

    /// Takes the packet at the front of the ring into `frame`.
    ///
    /// # Errors
    /// The ring cannot be trusted any more.
    pub(super) fn next(&mut self, frame: &mut Vec<u8>) -> Result<Taken, DeviceError> {
        let Some(first) = self.request()? else {
            return Ok(Taken::Nothing);
        };
        let mut slots = Slots::default();
        slots.requests.push(first);
        if first.flags & NETTXF_EXTRA_INFO != 0 {
            self.extras(&mut slots)?;
        }
        if let Some((add, address)) = slots.multicast {
            let done = self.multicast.change(add, address);
            self.answer(
                &slots,
                if done {
                    NETIF_RSP_OKAY
                } else {
                    NETIF_RSP_ERROR
                },
            );
            return Ok(Taken::Control);
        }
        self.fragments(&mut slots)?;
        let taken = self.collect(&mut slots, frame)?;
        let status = match taken {
            Taken::Bad(_) => NETIF_RSP_ERROR,
            _ => NETIF_RSP_OKAY,
        };
        self.answer(&slots, status);
        Ok(taken)
    }

    /// Shows the domain what was answered, and sends the one event for it.
    pub(super) fn push(&mut self) -> bool {
        let notify = self.ring.push_responses();
        if notify {
            self.channel.notify();
        }
        notify
    }

    /// Whether requests wait; if not, the next one sends an event.
    pub(super) fn arm(&mut self) -> Result<bool, DeviceError> {
        Ok(self.ring.final_check()?)
    }

    fn request(&mut self) -> Result<Option<NetifTxRequest>, DeviceError> {
        let mut request = NetifTxRequest::new_zeroed();
        let found = self.ring.next_request(request.as_mut_bytes())?;
        Ok(found.then_some(request))
    }

    /// Reads the extra slots behind the first request.
    fn extras(&mut self, slots: &mut Slots) -> Result<(), DeviceError> {
        loop {
            let mut extra = NetifExtraInfo::new_zeroed();
            if !self.ring.next_request(extra.as_mut_bytes())? {
                return Err(broken("lacks the extra information that it announces"));
            }
            slots.extras += 1;
            let mut address = [0; 6];
            match extra.kind {
                XEN_NETIF_EXTRA_TYPE_GSO => {
                    let gso = NetifExtraGso::read_from_bytes(&extra.u);
                    slots.gso = gso.ok();
                }
                kind @ (XEN_NETIF_EXTRA_TYPE_MCAST_ADD | XEN_NETIF_EXTRA_TYPE_MCAST_DEL) => {
                    address.copy_from_slice(&extra.u);
                    let add = kind == XEN_NETIF_EXTRA_TYPE_MCAST_ADD;
                    slots.multicast = Some((add, address));
                }
                // The guest's own hash and headroom mean nothing to the host.
                XEN_NETIF_EXTRA_TYPE_HASH | XEN_NETIF_EXTRA_TYPE_XDP => {}
                _ => return Err(broken("has extra information of an unknown kind")),
            }
            if extra.flags & XEN_NETIF_EXTRA_FLAG_MORE == 0 {
                return Ok(());
            }
        }
    }

    /// Reads the requests behind the first one and its extra slots.
    fn fragments(&mut self, slots: &mut Slots) -> Result<(), DeviceError> {
        let more = |slots: &Slots| {
            let last = slots.requests.last();
            last.is_some_and(|request| request.flags & NETTXF_MORE_DATA != 0)
        };
        while more(slots) {
            // A frontend shows a packet's slots all at once.
            let Some(request) = self.request()? else {
                return Err(broken("lacks the fragments that it announces"));
            };
            if slots.requests.len() == FATAL_SLOTS {
                return Err(broken("has too many fragments"));
            }
            slots.requests.push(request);
        }
        for request in &slots.requests[1..] {
            if usize::from(request.offset) + usize::from(request.size) > PAGE_SIZE {
                return Err(broken("has a fragment that crosses a page"));
            }
        }
        Ok(())
    }

    /// Copies a packet's data, after its slots were checked.
    fn collect(&self, slots: &mut Slots, frame: &mut Vec<u8>) -> Result<Taken, DeviceError> {
        let gso = match &slots.gso {
            None => None,
            Some(gso) if gso.size == 0 => return Err(broken("has segments of no bytes")),
            Some(gso) => Some(match gso.kind {
                XEN_NETIF_GSO_TYPE_TCPV4 => (GsoKind::TcpV4, gso.size),
                XEN_NETIF_GSO_TYPE_TCPV6 => (GsoKind::TcpV6, gso.size),
                _ => return Err(broken("has segmentation of an unknown kind")),
            }),
        };
        let [first, rest @ ..] = slots.requests.as_mut_slice() else {
            return Ok(Taken::Bad("it has no slots"));
        };
        let flags = first.flags;
        let rest_len: usize = rest.iter().map(|request| usize::from(request.size)).sum();
        // Frontends are known whose packets of 64 KiB and more wrap the size.
        let Some(first_len) = usize::from(first.size).checked_sub(rest_len) else {
            return Ok(Taken::Bad("its parts are larger than the packet"));
        };
        if rest.len() >= MAX_SLOTS {
            return Ok(Taken::Bad("it has too many slots"));
        }
        if usize::from(first.size) < MIN_FRAME {
            return Ok(Taken::Bad("it is shorter than an Ethernet header"));
        }
        if usize::from(first.offset) + first_len > PAGE_SIZE {
            return Err(broken("crosses a page"));
        }
        // Not above what was a u16.
        first.size = first_len as u16;
        frame.clear();
        for request in &slots.requests {
            if let Err(error) = self.append(request, frame) {
                trace!(target: "xenner::net", "{error}");
                return Ok(Taken::Bad("its page cannot be read"));
            }
        }
        Ok(Taken::Packet(Claims {
            checksum_blank: flags & NETTXF_CSUM_BLANK != 0,
            verified: flags & NETTXF_DATA_VALIDATED != 0,
            gso,
        }))
    }

    fn append(&self, request: &NetifTxRequest, frame: &mut Vec<u8>) -> Result<(), DeviceError> {
        let page = Grant::map(&self.grants, request.gref, Access::Read)?;
        let start = frame.len();
        frame.resize(start + usize::from(request.size), 0);
        if page.copy_out(usize::from(request.offset), &mut frame[start..]) {
            return Ok(());
        }
        Err(broken("crosses a page"))
    }

    /// Answers a packet's slots: the extra ones behind the first are no requests.
    fn answer(&mut self, slots: &Slots, status: i16) {
        for (index, request) in slots.requests.iter().enumerate() {
            let id = request.id;
            self.ring
                .put_response(NetifTxResponse { id, status }.as_bytes());
            if index == 0 {
                for _ in 0..slots.extras {
                    let none = NetifTxResponse {
                        id: 0,
                        status: NETIF_RSP_NULL,
                    };
                    self.ring.put_response(none.as_bytes());
                }
            }
        }
    }
}
