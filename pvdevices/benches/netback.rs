//! The network backend alone, against a made-up frontend in this process and a host end that takes
//! and gives frames for nothing: what it costs beside the guest and the host's network.
//!
//! `cargo bench -p xenner-pvdevices --features mock --bench netback [-- WORD...]` runs the rows
//! whose names have all the words. CPU is the backend's thread, not the frontend's; "events" are
//! those that the domain was sent. "offload" is a host end that takes checksums and segmentation,
//! "software" one that does not, "gso" are packets of 64 KiB to be cut into segments of 1448 bytes.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use xenner_pvdevices::domain::Access;
use xenner_pvdevices::mock::GrantedPage;
use xenner_pvdevices::netback::mock::{MockEnd, MockNetfront, Setup, gso_extra};
use xenner_pvdevices::netend::{Checksum, Gso, GsoKind, Offload, Offloads};
use xenner_xen_abi::io::netif::*;
use zerocopy::{FromZeros, IntoBytes};

const TIME: Duration = Duration::from_secs(2);
/// TCP payload of a full frame and of a packet to be cut, in bytes.
const SMALL: usize = 1448;
const LARGE: usize = 44 * 1448;
/// Bytes of the headers in front of it.
const HEADERS: usize = 54;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Tx,
    Rx,
}

struct Row {
    name: &'static str,
    way: Way,
    payload: usize,
    /// What the receiver of the packets can do.
    can: Offloads,
}

const ROWS: [Row; 8] = [
    row("tx-1500-offload", Way::Tx, SMALL, Offloads::all()),
    row("tx-1500-software", Way::Tx, SMALL, Offloads::empty()),
    row("tx-gso-offload", Way::Tx, LARGE, Offloads::all()),
    row("tx-gso-software", Way::Tx, LARGE, Offloads::empty()),
    row("rx-1500-offload", Way::Rx, SMALL, Offloads::all()),
    row("rx-1500-software", Way::Rx, SMALL, Offloads::empty()),
    row("rx-gso-offload", Way::Rx, LARGE, Offloads::all()),
    row("rx-gso-software", Way::Rx, LARGE, Offloads::empty()),
];

const fn row(name: &'static str, way: Way, payload: usize, can: Offloads) -> Row {
    Row {
        name,
        way,
        payload,
        can,
    }
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// CPU time of all threads but this one.
fn backend_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime).saturating_sub(cpu(ClockId::ThreadCPUTime))
}

/// A TCP packet over IPv4, its checksum blank.
fn packet(payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    let [high, low] = ((40 + payload) as u16).to_be_bytes();
    frame.extend([8, 0, 0x45, 0, high, low, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend((0..payload).map(|at| at as u8));
    frame
}

/// The requests of one packet, whose pages stay granted.
struct Packet {
    slots: Vec<Vec<u8>>,
    _pages: Vec<GrantedPage>,
}

impl Packet {
    fn new(front: &MockNetfront, frame: &[u8]) -> Self {
        let domain = front.frontend.domain();
        let parts: Vec<&[u8]> = frame.chunks(4096).collect();
        let (mut slots, mut pages) = (Vec::new(), Vec::new());
        for (index, part) in parts.iter().enumerate() {
            let page = domain.granted_page(Access::Read);
            page.put(0, part);
            let mut request = NetifTxRequest {
                gref: page.gref(),
                offset: 0,
                flags: 0,
                id: 0,
                size: part.len() as u16,
            };
            if index + 1 < parts.len() {
                request.flags |= NETTXF_MORE_DATA;
            }
            let gso = frame.len() > HEADERS + SMALL;
            if index == 0 {
                request.size = frame.len() as u16;
                request.flags |= NETTXF_CSUM_BLANK;
                request.flags |= if gso { NETTXF_EXTRA_INFO } else { 0 };
            }
            slots.push(request.as_bytes().to_vec());
            if index == 0 && gso {
                let extra = gso_extra(GsoKind::TcpV4, SMALL as u16);
                slots.push(extra.as_bytes().to_vec());
            }
            pages.push(page);
        }
        Self {
            slots,
            _pages: pages,
        }
    }
}

/// Keeps the transmit ring full.
fn transmit(front: &mut MockNetfront, payload: usize) {
    let packet = Packet::new(front, &packet(payload));
    let queue = &mut front.queues[0];
    let begin = Instant::now();
    let mut response = NetifTxResponse::new_zeroed();
    while begin.elapsed() < TIME {
        while queue.tx.free() as usize >= packet.slots.len() {
            for slot in &packet.slots {
                queue.tx.put_request(slot);
            }
        }
        queue.push_tx();
        queue
            .tx
            .wait_response(&queue.tx_port, response.as_mut_bytes());
        while queue.tx.next_response(response.as_mut_bytes()) {}
    }
    while queue.tx.in_flight() > 0 {
        queue
            .tx
            .wait_response(&queue.tx_port, response.as_mut_bytes());
    }
}

/// Gives every page back as soon as it is filled.
fn receive(front: &mut MockNetfront, end: &MockEnd, payload: usize) {
    let large = payload > SMALL;
    let offload = Offload {
        checksum: Checksum::Blank {
            start: 34,
            offset: 16,
        },
        gso: large.then_some(Gso {
            kind: GsoKind::TcpV4,
            size: SMALL as u16,
            header_len: HEADERS as u16,
        }),
    };
    let domain = front.frontend.domain().clone();
    let pages: Vec<GrantedPage> = (0..front.queues[0].rx.size())
        .map(|_| domain.granted_page(Access::Write))
        .collect();
    let queue = &mut front.queues[0];
    end.flood(Some((offload, packet(payload))));
    let begin = Instant::now();
    let mut response = NetifRxResponse::new_zeroed();
    while begin.elapsed() < TIME {
        while queue.rx.free() > 0 {
            let id = queue.rx.req_prod() % queue.rx.size();
            let request = NetifRxRequest {
                id: id as u16,
                pad: 0,
                gref: pages[id as usize].gref(),
            };
            queue.rx.put_request(request.as_bytes());
        }
        if queue.rx.push_requests() {
            queue.rx_port.send();
        }
        queue
            .rx
            .wait_response(&queue.rx_port, response.as_mut_bytes());
        while queue.rx.next_response(response.as_mut_bytes()) {}
    }
    end.flood(None);
    // The pages must outlive the backend's use of them.
    front.frontend.close();
}

fn run(row: &Row) {
    let end = MockEnd::new(row.can);
    end.set_keep(false);
    let mut setup = Setup::default();
    if row.way == Way::Rx && row.can.is_empty() {
        setup = setup.with("feature-no-csum-offload", "1");
    }
    let mut front = MockNetfront::connected(std::slice::from_ref(&end), &setup);
    let (begin, used) = (Instant::now(), backend_cpu());
    match row.way {
        Way::Tx => transmit(&mut front, row.payload),
        Way::Rx => receive(&mut front, &end, row.payload),
    }
    let (time, used) = (begin.elapsed(), backend_cpu().saturating_sub(used));
    let stats = front.control.stats();
    let count = match row.way {
        Way::Tx => stats.tx,
        Way::Rx => stats.rx,
    };
    // A host end that gets segments counts them; the guest's packets are what is compared.
    let whole = (row.payload + HEADERS) as f64;
    let segments = row.payload.div_ceil(SMALL) as f64;
    let cut = row.can.is_empty() && row.payload > SMALL;
    let packets = count.packets as f64 / if cut { segments } else { 1.0 };
    let mib = packets * whole / f64::from(1 << 20);
    println!(
        "{:18} {:9.0} MiB/s {:9.0} packets/s {:8.3} us CPU/packet {:7.3} ns CPU/byte {:7.3} events/packet",
        row.name,
        mib / time.as_secs_f64(),
        packets / time.as_secs_f64(),
        used.as_secs_f64() * 1e6 / packets,
        used.as_secs_f64() * 1e9 / (packets * whole),
        count.events as f64 / packets,
    );
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    for row in ROWS
        .iter()
        .filter(|row| words.iter().all(|word| row.name.contains(word.as_str())))
    {
        run(row);
    }
}
