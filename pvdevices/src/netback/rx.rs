//! The receive ring (`xen/include/public/io/netif.h`): frames to the domain, copied into the pages
//! that it granted for them.
//!
//! A response must be in the slot of the request that it answers, because Linux's netfront finds
//! the page by the slot. So requests are used in their order and each gets one response.

use std::collections::VecDeque;
use std::sync::Arc;

use xenner_xen_abi::io::netif::*;
use zerocopy::{FromZeros, IntoBytes};

use crate::domain::{Access, Channel, Grant, GrantTable, PAGE_SIZE};
use crate::netend::{Checksum, Gso, GsoKind, Offload};
use crate::ring::BackRing;
use crate::xenbus::DeviceError;

/// The backend's end of a receive ring.
#[derive(Debug)]
pub(super) struct RxRing {
    ring: BackRing,
    grants: Arc<dyn GrantTable>,
    channel: Arc<dyn Channel>,
    /// Requests that were taken off the ring and not used yet.
    free: VecDeque<NetifRxRequest>,
}

/// The slots that a frame takes.
fn slots_of(length: usize, offload: &Offload) -> usize {
    length.div_ceil(PAGE_SIZE) + usize::from(offload.gso.is_some())
}

impl RxRing {
    pub(super) fn new(
        ring: BackRing,
        grants: Arc<dyn GrantTable>,
        channel: Arc<dyn Channel>,
    ) -> Self {
        Self {
            ring,
            grants,
            channel,
            free: VecDeque::new(),
        }
    }

    pub(super) fn channel(&self) -> &Arc<dyn Channel> {
        &self.channel
    }

    /// Whether the domain has granted pages enough for a frame.
    ///
    /// # Errors
    /// The ring cannot be trusted any more.
    pub(super) fn has_room(
        &mut self,
        length: usize,
        offload: &Offload,
    ) -> Result<bool, DeviceError> {
        let needed = slots_of(length, offload);
        while self.free.len() < needed {
            let mut request = NetifRxRequest::new_zeroed();
            if !self.ring.next_request(request.as_mut_bytes())? {
                return Ok(false);
            }
            self.free.push_back(request);
        }
        Ok(true)
    }

    /// Whether requests wait; if not, the next one sends an event.
    pub(super) fn arm(&mut self) -> Result<bool, DeviceError> {
        Ok(self.ring.final_check()?)
    }

    /// Gives the domain a frame for which it has room; false if a page could not be written, which
    /// the domain is told in the slot.
    pub(super) fn put(&mut self, frame: &[u8], offload: &Offload) -> bool {
        let mut flags = match offload.checksum {
            Checksum::InFrame => 0,
            Checksum::Verified => NETRXF_DATA_VALIDATED,
            Checksum::Blank { .. } => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
        };
        let mut extra = offload.gso;
        let mut whole = true;
        let mut parts = frame.chunks(PAGE_SIZE).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_some() {
                flags |= NETRXF_MORE_DATA;
            }
            if extra.is_some() {
                flags |= NETRXF_EXTRA_INFO;
            }
            whole &= self.data(part, flags);
            if let Some(gso) = extra.take() {
                self.extra(gso);
            }
            // Checksum and extra information are told with the first slot alone.
            flags = 0;
        }
        whole
    }

    /// Fills one page.
    fn data(&mut self, part: &[u8], flags: u16) -> bool {
        let Some(request) = self.free.pop_front() else {
            return false;
        };
        let page = Grant::map(&self.grants, request.gref, Access::Write);
        let copied = page.is_ok_and(|page| page.copy_in(0, part));
        // A part is no longer than a page.
        let length = part.len() as i16;
        let response = NetifRxResponse {
            id: request.id,
            offset: 0,
            flags,
            status: if copied { length } else { NETIF_RSP_ERROR },
        };
        self.ring.put_response(response.as_bytes());
        copied
    }

    /// Tells of segmentation in a slot whose page stays unused.
    fn extra(&mut self, gso: Gso) {
        if self.free.pop_front().is_none() {
            return;
        }
        let info = NetifExtraGso {
            size: gso.size,
            kind: match gso.kind {
                GsoKind::TcpV4 => XEN_NETIF_GSO_TYPE_TCPV4,
                GsoKind::TcpV6 => XEN_NETIF_GSO_TYPE_TCPV6,
            },
            pad: 0,
            features: 0,
        };
        let mut extra = NetifExtraInfo {
            kind: XEN_NETIF_EXTRA_TYPE_GSO,
            flags: 0,
            u: [0; 6],
        };
        extra.u.copy_from_slice(info.as_bytes());
        self.ring.put_response(extra.as_bytes());
    }

    /// Shows the domain the frames that were put, and sends the one event for them.
    pub(super) fn push(&mut self) -> bool {
        let notify = self.ring.push_responses();
        if notify {
            self.channel.notify();
        }
        notify
    }
}
