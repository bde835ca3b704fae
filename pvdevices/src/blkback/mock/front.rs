//! A block frontend for tests: requests in both layouts, any number of rings.

use std::sync::Arc;

use xenner_xen_abi::io::blkif::{BLKIF_OP_DISCARD, BLKIF_OP_INDIRECT, BlkifRequestSegment};
use xenner_xen_abi::io::xenbus::XenbusState;

use crate::blkback::{BlkBack, DiskControl, DiskEvents, VbdConfig};
use crate::domain::Access;
use crate::image::Image;
use crate::mock::{GrantedPage, MockDomain, MockFrontend, MockPort, MockRing, MockStore};
use crate::xenbus::{Bus, DeviceThread, spawn};

/// A part of a granted page: reference, first sector, last sector.
pub type Part = (u32, u8, u8);

/// What a frontend puts into its ring, before it has a layout.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Direct segments: operation, `nr_segments`, first sector.
    Data(u8, u8, u64, Vec<Part>),
    /// Indirect segments: operation, `nr_segments`, first sector, the pages.
    Indirect(u8, u16, u64, Vec<u32>),
    /// First sector, sectors, flag.
    Discard(u64, u64, u8),
    /// Any bytes.
    Raw(Vec<u8>),
}

/// A request of direct segments.
#[must_use]
pub fn data(op: u8, sector: u64, parts: &[Part]) -> Entry {
    let count = u8::try_from(parts.len()).expect("few segments");
    Entry::Data(op, count, sector, parts.to_vec())
}

/// A request whose segments are in a page's list, which is written.
#[must_use]
pub fn indirect(op: u8, sector: u64, parts: &[Part], list: &GrantedPage) -> Entry {
    let mut bytes = Vec::new();
    for (gref, first, last) in parts {
        bytes.extend(gref.to_le_bytes());
        bytes.extend([*first, *last, 0xee, 0xee]);
    }
    list.put(0, &bytes);
    let count = u16::try_from(parts.len()).expect("few segments");
    Entry::Indirect(op, count, sector, vec![list.gref()])
}

/// A discard.
#[must_use]
pub fn discard(sector: u64, count: u64, flag: u8) -> Entry {
    Entry::Discard(sector, count, flag)
}

impl Entry {
    /// The entry's bytes in the 64-bit layout, or the 32-bit one. The handle and all padding are
    /// nonsense on purpose.
    #[must_use]
    pub fn encode(&self, id: u64, wide: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(112);
        let head = |op: u8, second: u8, third: u16| {
            let mut head = vec![op, second];
            head.extend(third.to_le_bytes());
            if wide {
                head.extend([0xee; 4]);
            }
            head.extend(id.to_le_bytes());
            head
        };
        match self {
            Self::Raw(raw) => bytes.extend(raw),
            Self::Data(op, count, sector, parts) => {
                bytes.extend(head(*op, *count, 0xbeef));
                bytes.extend(sector.to_le_bytes());
                for (gref, first_sect, last_sect) in parts {
                    let segment = BlkifRequestSegment {
                        gref: *gref,
                        first_sect: *first_sect,
                        last_sect: *last_sect,
                        pad: 0xeeee,
                    };
                    bytes.extend(zerocopy::IntoBytes::as_bytes(&segment));
                }
            }
            Self::Indirect(op, count, sector, pages) => {
                let [low, high] = count.to_le_bytes();
                let mut first = head(BLKIF_OP_INDIRECT, *op, u16::from_le_bytes([low, high]));
                bytes.append(&mut first);
                bytes.extend(sector.to_le_bytes());
                bytes.extend([0xee; 4]);
                pages
                    .iter()
                    .for_each(|gref| bytes.extend(gref.to_le_bytes()));
            }
            Self::Discard(sector, count, flag) => {
                bytes.extend(head(BLKIF_OP_DISCARD, *flag, 0xbeef));
                bytes.extend(sector.to_le_bytes());
                bytes.extend(count.to_le_bytes());
            }
        }
        bytes.resize(if wide { 112 } else { 108 }, 0xee);
        bytes
    }
}

/// A response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The request's.
    pub id: u64,
    /// The request's.
    pub op: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
}

/// How a frontend connects.
#[derive(Debug, Clone, Copy)]
pub struct Connect {
    /// Rings.
    pub queues: u32,
    /// `ring-page-order`, if it is written.
    pub order: Option<u32>,
    /// The 64-bit layout.
    pub wide: bool,
    /// It uses the same grants again.
    pub persistent: bool,
}

impl Default for Connect {
    fn default() -> Self {
        Self {
            queues: 1,
            order: None,
            wide: true,
            persistent: false,
        }
    }
}

/// One ring of a frontend.
#[derive(Debug)]
pub struct FrontQueue {
    /// The ring.
    pub ring: MockRing,
    /// Its port.
    pub port: MockPort,
    wide: bool,
}

impl FrontQueue {
    /// Puts requests with their numbers into the ring and shows them all at once.
    pub fn submit(&mut self, entries: &[(u64, Entry)]) {
        let bytes: Vec<_> = (entries.iter())
            .map(|(id, entry)| entry.encode(*id, self.wide))
            .collect();
        self.ring.submit(&bytes, &self.port);
    }

    /// Waits for a response.
    pub fn wait(&mut self) -> Answer {
        let mut bytes = [0; 12];
        self.ring.wait_response(&self.port, &mut bytes);
        decode(bytes)
    }

    /// A response if one is there.
    #[must_use]
    pub fn poll(&mut self) -> Option<Answer> {
        let mut bytes = [0; 12];
        self.ring.next_response(&mut bytes).then(|| decode(bytes))
    }

    /// One request and its answer's status; panics if the answer is another request's.
    pub fn call(&mut self, entry: Entry) -> i16 {
        self.submit(&[(0x1234_5678_9abc_def0, entry)]);
        let answer = self.wait();
        assert_eq!(answer.id, 0x1234_5678_9abc_def0);
        answer.status
    }
}

fn decode(bytes: [u8; 12]) -> Answer {
    let (id, rest) = bytes.split_at(8);
    Answer {
        id: u64::from_le_bytes(id.try_into().expect("eight bytes")),
        op: rest[0],
        status: i16::from_le_bytes([rest[2], rest[3]]),
    }
}

/// A disk, its frontend and their domain.
#[derive(Debug)]
pub struct BlkFront {
    /// The rings, once connected.
    pub queues: Vec<FrontQueue>,
    /// The device.
    pub device: Option<DeviceThread>,
    /// The VMM's handle.
    pub control: DiskControl,
    /// The frontend's nodes.
    pub front: MockFrontend,
    /// The domain.
    pub domain: Arc<MockDomain>,
}

impl BlkFront {
    /// Publishes a disk; nobody has connected yet.
    #[must_use]
    pub fn publish(
        config: VbdConfig,
        image: Option<Arc<dyn Image>>,
        events: Arc<dyn DiskEvents>,
        pages: usize,
    ) -> Self {
        let domain = MockDomain::new(7, pages);
        let store = MockStore::new();
        let id = config.number;
        let frontend = config.frontend_keys();
        let back = BlkBack::new(config, image, events);
        let control = back.control();
        let bus = Bus {
            store: store.clone(),
            domain: domain.clone(),
            class: "vbd",
            id,
            frontend,
            on_gone: None,
        };
        let device = spawn(Box::new(back), bus).expect("a device");
        Self {
            queues: Vec::new(),
            device: Some(device),
            control,
            front: MockFrontend::new(&domain, &store, "vbd", id),
            domain,
        }
    }

    /// Shares the rings and writes all nodes but the state.
    pub fn share(&mut self, connect: Connect) {
        let (front, entry) = (&self.front, if connect.wide { 112 } else { 108 });
        front.wait_backend(XenbusState::InitWait);
        front.write(
            "protocol",
            if connect.wide {
                "x86_64-abi"
            } else {
                "x86_32-abi"
            },
        );
        front.write("feature-persistent", u8::from(connect.persistent));
        if let Some(order) = connect.order {
            front.write("ring-page-order", order);
        }
        if connect.queues > 1 {
            front.write("multi-queue-num-queues", connect.queues);
        }
        let queue = |n| {
            let prefix = match connect.queues {
                1 => String::new(),
                _ => format!("queue-{n}/"),
            };
            let pages = 1 << connect.order.unwrap_or(0);
            FrontQueue {
                ring: front.share_ring(&format!("{prefix}ring-ref"), pages, entry),
                port: front.share_port(&format!("{prefix}event-channel")),
                wide: connect.wide,
            }
        };
        self.queues = (0..connect.queues).map(queue).collect();
    }

    /// Connects.
    pub fn connect(&mut self, connect: Connect) {
        self.share(connect);
        self.front.set_state(XenbusState::Initialised);
        self.front.wait_backend(XenbusState::Connected);
        self.front.set_state(XenbusState::Connected);
    }

    /// The first ring.
    pub fn queue(&mut self) -> &mut FrontQueue {
        &mut self.queues[0]
    }

    /// A page of the domain, granted for reading and writing.
    #[must_use]
    pub fn page(&self) -> GrantedPage {
        self.domain.granted_page(Access::Write)
    }

    /// So many of them.
    #[must_use]
    pub fn pages(&self, count: usize) -> Vec<GrantedPage> {
        (0..count).map(|_| self.page()).collect()
    }
}

impl Drop for BlkFront {
    fn drop(&mut self) {
        // Before the domain looks for what is still held.
        if let Some(device) = self.device.take() {
            drop(device.stop());
        }
    }
}
