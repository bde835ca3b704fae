//! A network frontend and a host end made for tests, benches and fuzzing (feature `mock`).
//!
//! [`MockNetfront`] does what Linux's netfront does with its rings, and puts any request that no
//! netfront would; [`MockEnd`] is a host end whose frames are looked at.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use xenner_xen_abi::io::netif::*;
use xenner_xen_abi::io::xenbus::XenbusState;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{MacAddr, NetBack, NetControl, RX_ENTRY, TX_ENTRY, VifConfig};
use crate::bell::Bell;
use crate::domain::{Access, PAGE_SIZE};
use crate::mock::{GrantedPage, MockDomain, MockFrontend, MockPort, MockRing, MockStore, PATIENCE};
use crate::netend::{GsoKind, NetEnd, Offload, Offloads, Sent, Wait};
use crate::xenbus::{Bus, DeviceThread, spawn};

/// Pages of the made-up domain: rings of several queues, their buffers, and packets.
const PAGES: usize = 1024;

/// A frame with what is left to do.
pub type Frame = (Offload, Vec<u8>);

/// What the two sides of a [`MockEnd`] share.
#[derive(Debug)]
struct EndState {
    to_guest: VecDeque<Frame>,
    /// Given again and again, as long as pages are there.
    flood: Option<Frame>,
    from_guest: Vec<Frame>,
    /// Frames and bytes from the guest, also where they are not kept.
    count: (u64, u64),
    keep: bool,
    busy: bool,
    /// A frame was refused since.
    blocked: bool,
    up: bool,
    enabled: bool,
    can: Offloads,
    guest_can: Offloads,
}

/// A host end for tests. Clones are the same end.
#[derive(Debug, Clone)]
pub struct MockEnd {
    state: Arc<(Mutex<EndState>, Condvar)>,
    bell: Arc<Bell>,
}

impl MockEnd {
    /// An end that can do so much of what the guest leaves to it.
    #[must_use]
    pub fn new(can: Offloads) -> Self {
        let state = EndState {
            to_guest: VecDeque::new(),
            flood: None,
            from_guest: Vec::new(),
            count: (0, 0),
            keep: true,
            busy: false,
            blocked: false,
            up: true,
            enabled: true,
            can,
            guest_can: Offloads::empty(),
        };
        Self {
            state: Arc::new((Mutex::new(state), Condvar::new())),
            bell: Arc::new(Bell::new().expect("an eventfd")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, EndState> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.bell.ring();
    }

    /// Sends the guest a frame.
    pub fn give(&self, offload: Offload, frame: &[u8]) {
        self.lock().to_guest.push_back((offload, frame.to_vec()));
        self.ring();
    }

    /// Sends the guest the same frame without end, or ends that.
    pub fn flood(&self, frame: Option<Frame>) {
        self.lock().flood = frame;
        self.ring();
    }

    /// Frames that the backend has not taken yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().to_guest.len()
    }

    /// Whether the end takes frames.
    pub fn set_busy(&self, busy: bool) {
        self.lock().busy = busy;
        self.ring();
    }

    /// Whether anybody is at the other side.
    pub fn set_up(&self, up: bool) {
        self.lock().up = up;
        self.ring();
    }

    /// Whether frames are kept to be looked at, or only counted.
    pub fn set_keep(&self, keep: bool) {
        self.lock().keep = keep;
    }

    /// Frames and bytes from the guest so far.
    #[must_use]
    pub fn count(&self) -> (u64, u64) {
        self.lock().count
    }

    /// What the guest can do, as the backend has told.
    #[must_use]
    pub fn guest_can(&self) -> Offloads {
        self.lock().guest_can
    }

    /// Whether the queue is in use.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.lock().enabled
    }

    /// Waits for so many frames from the guest and takes them; panics when [`PATIENCE`] ends.
    #[must_use]
    pub fn take(&self, count: usize) -> Vec<Frame> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.lock();
        while state.from_guest.len() < count {
            let left = until.saturating_duration_since(Instant::now());
            let seen = state.from_guest.len();
            assert!(!left.is_zero(), "{seen} frames, not {count}");
            let waited = self.state.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.from_guest.drain(..count).collect()
    }
}

impl NetEnd for MockEnd {
    fn wait(&self) -> Wait<'_> {
        let state = self.lock();
        Wait {
            fd: Some(self.bell.as_fd()),
            // An eventfd always is.
            writable: state.blocked && !state.busy,
            deadline: None,
        }
    }

    fn advance(&mut self) {}

    fn is_up(&self) -> bool {
        self.lock().up
    }

    fn send_offloads(&self) -> Offloads {
        self.lock().can
    }

    fn set_receive_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        self.lock().guest_can = offloads;
        Ok(())
    }

    fn send(&mut self, offload: &Offload, frame: &[u8]) -> Sent {
        let mut state = self.lock();
        match (state.up, state.busy) {
            (false, _) => return Sent::Dropped,
            (_, true) => {
                state.blocked = true;
                return Sent::Busy;
            }
            _ => state.blocked = false,
        }
        state.count.0 += 1;
        state.count.1 += frame.len() as u64;
        if state.keep {
            state.from_guest.push((*offload, frame.to_vec()));
        }
        drop(state);
        self.state.1.notify_all();
        Sent::Done
    }

    fn flush(&mut self) {}

    fn receive(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)> {
        let mut state = self.lock();
        if let Some((offload, frame)) = &state.flood {
            buf[..frame.len()].copy_from_slice(frame);
            return Some((frame.len(), *offload));
        }
        let Some((offload, frame)) = state.to_guest.pop_front() else {
            // Nobody else clears it, and whoever rings next puts a frame first.
            self.bell.silence();
            return None;
        };
        buf[..frame.len()].copy_from_slice(&frame);
        Some((frame.len(), offload))
    }

    fn set_enabled(&mut self, enabled: bool) -> io::Result<()> {
        self.lock().enabled = enabled;
        Ok(())
    }
}

/// How a [`MockNetfront`] is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Nodes besides those of rings and channels.
    pub nodes: Vec<(&'static str, &'static str)>,
    /// Queues; 1 writes them as a frontend without several queues does.
    pub queues: u32,
    /// An event channel for each ring rather than one for both.
    pub split: bool,
}

impl Default for Setup {
    /// As Linux's netfront with all its features and one queue.
    fn default() -> Self {
        Self {
            nodes: vec![
                ("request-rx-copy", "1"),
                ("feature-rx-notify", "1"),
                ("feature-sg", "1"),
                ("feature-gso-tcpv4", "1"),
                ("feature-gso-tcpv6", "1"),
                ("feature-ipv6-csum-offload", "1"),
            ],
            queues: 1,
            split: true,
        }
    }
}

impl Setup {
    /// The same with a node changed; an empty value takes it away.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: &'static str) -> Self {
        self.nodes.retain(|(known, _)| *known != key);
        if !value.is_empty() {
            self.nodes.push((key, value));
        }
        self
    }
}

/// One queue of a frontend.
#[derive(Debug)]
pub struct MockQueue {
    domain: Arc<MockDomain>,
    /// The transmit ring.
    pub tx: MockRing,
    /// Its event channel.
    pub tx_port: Arc<MockPort>,
    /// The receive ring.
    pub rx: MockRing,
    /// Its event channel.
    pub rx_port: Arc<MockPort>,
    /// Pages of packets that are not answered, by their ids.
    sent: Vec<Option<GrantedPage>>,
    /// Pages of the receive ring, by their slots.
    pages: Vec<Option<GrantedPage>>,
}

/// A frame as the guest gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// `NETRXF_*` of the first slot.
    pub flags: u16,
    /// Segmentation.
    pub gso: Option<(GsoKind, u16)>,
    /// The data.
    pub frame: Vec<u8>,
    /// Slots used.
    pub slots: usize,
}

impl MockQueue {
    fn new(frontend: &MockFrontend, prefix: &str, split: bool) -> Self {
        let share = |key: &str| Arc::new(frontend.share_port(&format!("{prefix}{key}")));
        let tx = frontend.share_ring(&format!("{prefix}tx-ring-ref"), 1, TX_ENTRY);
        let rx = frontend.share_ring(&format!("{prefix}rx-ring-ref"), 1, RX_ENTRY);
        let (tx_port, rx_port) = if split {
            (share("event-channel-tx"), share("event-channel-rx"))
        } else {
            let both = share("event-channel");
            (both.clone(), both)
        };
        let none = |ring: &MockRing| (0..ring.size()).map(|_| None).collect();
        Self {
            domain: frontend.domain().clone(),
            sent: none(&tx),
            pages: none(&rx),
            tx,
            tx_port,
            rx,
            rx_port,
        }
    }

    /// A granted page with this data at `offset`; a request for it, which keeps it until answered.
    pub fn tx_page(&mut self, offset: usize, data: &[u8]) -> NetifTxRequest {
        let page = self.domain.granted_page(Access::Read);
        page.put(offset, data);
        let id = self
            .sent
            .iter()
            .position(Option::is_none)
            .expect("a free id");
        let request = NetifTxRequest {
            gref: page.gref(),
            offset: offset as u16,
            flags: 0,
            id: id as u16,
            size: data.len() as u16,
        };
        self.sent[id] = Some(page);
        request
    }

    /// The requests of a packet cut into pages, as netfront makes them; extra slots are not among
    /// them.
    pub fn tx_requests(&mut self, frame: &[u8], flags: u16) -> Vec<NetifTxRequest> {
        let parts: Vec<&[u8]> = frame.chunks(PAGE_SIZE).collect();
        let count = parts.len();
        let mut requests: Vec<NetifTxRequest> =
            parts.iter().map(|part| self.tx_page(0, part)).collect();
        for request in &mut requests[..count - 1] {
            request.flags |= NETTXF_MORE_DATA;
        }
        requests[0].size = frame.len() as u16;
        requests[0].flags |= flags;
        requests
    }

    /// Sends a packet as netfront does.
    pub fn send(&mut self, frame: &[u8], flags: u16, gso: Option<(GsoKind, u16)>) {
        let mut requests = self.tx_requests(frame, flags);
        if gso.is_some() {
            requests[0].flags |= NETTXF_EXTRA_INFO;
        }
        self.tx.put_request(requests[0].as_bytes());
        if let Some((kind, size)) = gso {
            self.tx.put_request(gso_extra(kind, size).as_bytes());
        }
        for request in &requests[1..] {
            self.tx.put_request(request.as_bytes());
        }
        self.push_tx();
    }

    /// Shows the backend what was put on the transmit ring.
    pub fn push_tx(&mut self) {
        if self.tx.push_requests() {
            self.tx_port.send();
        }
    }

    /// Takes the next response on the transmit ring, waiting for it.
    pub fn tx_response(&mut self) -> NetifTxResponse {
        let mut response = NetifTxResponse::new_zeroed();
        self.tx
            .wait_response(&self.tx_port, response.as_mut_bytes());
        if response.status != NETIF_RSP_NULL {
            self.sent[usize::from(response.id)] = None;
        }
        response
    }

    /// The statuses of the next responses.
    pub fn tx_statuses(&mut self, count: usize) -> Vec<i16> {
        (0..count).map(|_| self.tx_response().status).collect()
    }

    /// Takes all responses that are there.
    pub fn reap_tx(&mut self) {
        let mut response = NetifTxResponse::new_zeroed();
        while self.tx.next_response(response.as_mut_bytes()) {
            if response.status != NETIF_RSP_NULL {
                self.sent[usize::from(response.id)] = None;
            }
        }
    }

    /// Gives the backend so many pages to fill.
    pub fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let slot = self.rx.req_prod() % self.rx.size();
            let page = self.domain.granted_page(Access::Write);
            let request = NetifRxRequest {
                id: slot as u16,
                pad: 0,
                gref: page.gref(),
            };
            self.pages[slot as usize] = Some(page);
            self.rx.put_request(request.as_bytes());
        }
        if self.rx.push_requests() {
            self.rx_port.send();
        }
    }

    /// The next response and the page in its slot.
    fn rx_slot(&mut self) -> (NetifRxResponse, GrantedPage) {
        let slot = self.rx.req_prod().wrapping_sub(self.rx.in_flight()) % self.rx.size();
        let mut response = NetifRxResponse::new_zeroed();
        self.rx
            .wait_response(&self.rx_port, response.as_mut_bytes());
        let page = self.pages[slot as usize]
            .take()
            .expect("a page in the slot");
        (response, page)
    }

    /// Takes the next frame, waiting for it; a negative status is an error.
    ///
    /// # Errors
    /// The status.
    pub fn receive(&mut self) -> Result<Received, i16> {
        let (first, page) = self.rx_slot();
        let mut received = Received {
            flags: first.flags,
            gso: None,
            frame: Vec::new(),
            slots: 1,
        };
        if first.flags & NETRXF_EXTRA_INFO != 0 {
            let (extra, _) = self.rx_slot();
            received.slots += 1;
            let extra = NetifExtraInfo::read_from_bytes(extra.as_bytes()).expect("8 bytes");
            assert_eq!((extra.kind, extra.flags), (XEN_NETIF_EXTRA_TYPE_GSO, 0));
            let gso = NetifExtraGso::read_from_bytes(&extra.u).expect("6 bytes");
            let kind = match gso.kind {
                XEN_NETIF_GSO_TYPE_TCPV4 => GsoKind::TcpV4,
                XEN_NETIF_GSO_TYPE_TCPV6 => GsoKind::TcpV6,
                kind => panic!("segmentation of kind {kind}"),
            };
            received.gso = Some((kind, gso.size));
        }
        let (mut response, mut page) = (first, page);
        loop {
            let length = usize::try_from(response.status).map_err(|_| response.status)?;
            received
                .frame
                .extend(page.bytes(response.offset.into(), length));
            if response.flags & NETRXF_MORE_DATA == 0 {
                return Ok(received);
            }
            (response, page) = self.rx_slot();
            received.slots += 1;
        }
    }
}

/// The extra slot that tells of segmentation.
#[must_use]
pub fn gso_extra(kind: GsoKind, size: u16) -> NetifExtraInfo {
    let gso = NetifExtraGso {
        size,
        kind: match kind {
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
    extra.u.copy_from_slice(gso.as_bytes());
    extra
}

/// A network device with its frontend.
#[derive(Debug)]
pub struct MockNetfront {
    /// The frontend's queues. Dropped before the backend is: a frontend does that too.
    pub queues: Vec<MockQueue>,
    /// Its nodes.
    pub frontend: MockFrontend,
    /// The backend's handle.
    pub control: NetControl,
    /// The backend.
    pub device: DeviceThread,
}

impl MockNetfront {
    /// Publishes a device on these ends; nothing is connected.
    #[must_use]
    pub fn published(ends: &[MockEnd]) -> Self {
        let config = VifConfig {
            handle: 0,
            mac: MacAddr::nth(0),
            mtu: None,
            link: true,
        };
        let ends = ends
            .iter()
            .map(|end| Box::new(end.clone()) as Box<dyn NetEnd>);
        let back = NetBack::new(config, ends.collect());
        let (domain, store) = (MockDomain::new(1, PAGES), MockStore::new());
        let control = back.control();
        let bus = Bus {
            store: store.clone(),
            domain: domain.clone(),
            class: "vif",
            id: 0,
            frontend: back.frontend_keys(),
            on_gone: None,
        };
        Self {
            queues: Vec::new(),
            device: spawn(Box::new(back), bus).expect("a thread"),
            frontend: MockFrontend::new(&domain, &store, "vif", 0),
            control,
        }
    }

    /// Writes the frontend's nodes.
    pub fn share(&mut self, setup: &Setup) {
        for (key, value) in &setup.nodes {
            self.frontend.write(key, value);
        }
        let queue = |prefix: String| MockQueue::new(&self.frontend, &prefix, setup.split);
        self.queues = if setup.queues == 1 {
            vec![queue(String::new())]
        } else {
            self.frontend.write("multi-queue-num-queues", setup.queues);
            (0..setup.queues)
                .map(|n| queue(format!("queue-{n}/")))
                .collect()
        };
    }

    /// Shows that the frontend is there, as netfront does, and waits for the backend.
    pub fn connect(&self) {
        self.frontend.set_state(XenbusState::Connected);
        self.frontend.wait_backend(XenbusState::Connected);
    }

    /// A connected device.
    #[must_use]
    pub fn connected(ends: &[MockEnd], setup: &Setup) -> Self {
        let mut netfront = Self::published(ends);
        netfront.share(setup);
        netfront.connect();
        netfront
    }

    /// Waits until the backend has given up, and returns what it says why.
    #[must_use]
    pub fn wait_broken(&self) -> String {
        let closing = |state: Option<&str>| matches!(state, Some("5" | "6"));
        self.frontend.wait_backend_key("state", closing);
        self.frontend.error().unwrap_or_default()
    }
}

impl Drop for MockNetfront {
    fn drop(&mut self) {
        self.device.unplug(true);
        let until = Instant::now() + PATIENCE;
        while !self.device.is_gone() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}
