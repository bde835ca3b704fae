//! The network backend: whatever a frontend puts on its rings and a host sends, every slot gets one
//! answer or the device closes, no frame leaves its bounds, and everything that was granted is given
//! back. The first bytes choose the frontend; then each step is a packet, slots or a frame, mostly
//! plausible ones.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use xenner_pvdevices::netback::mock::{MockEnd, MockNetfront, Setup};
use xenner_pvdevices::netend::{Checksum, Gso, GsoKind, Offload, Offloads};

#[derive(Debug, Arbitrary)]
struct Frontend {
    host: u8,
    no_csum: bool,
    no_csum6: bool,
    no_gso: bool,
    no_sg: bool,
    multicast: bool,
    split: bool,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    Plain,
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

#[derive(Debug, Arbitrary)]
struct Frame {
    kind: Kind,
    payload: u16,
    tag: bool,
    changes: Vec<(u8, u8)>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// A packet, cut into pages as netfront does.
    Send {
        frame: Frame,
        flags: u8,
        gso: Option<(bool, u16)>,
    },
    /// Slots as they are; `gref` is of a page of the guest's, or not.
    Slots(Vec<(bool, [u8; 8])>),
    /// Free pages.
    Offer(u8),
    /// A frame from the host.
    Give {
        frame: Frame,
        blank: Option<(u16, u16)>,
        gso: Option<(bool, u16, u16)>,
    },
    /// The cable.
    Link(bool),
}

impl Frontend {
    fn connect(&self) -> (MockNetfront, MockEnd) {
        let end = MockEnd::new(Offloads::from_bits_truncate(self.host));
        let mut setup = Setup {
            split: self.split,
            ..Setup::default()
        };
        for (on, key, value) in [
            (self.no_csum, "feature-no-csum-offload", "1"),
            (self.no_csum6, "feature-ipv6-csum-offload", ""),
            (self.no_gso, "feature-gso-tcpv4", ""),
            (self.no_sg, "feature-sg", ""),
            (self.multicast, "request-multicast-control", "1"),
        ] {
            if on {
                setup = setup.with(key, value);
            }
        }
        (
            MockNetfront::connected(std::slice::from_ref(&end), &setup),
            end,
        )
    }
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![2; 12];
        if self.tag {
            frame.extend([0x81, 0, 0, 1]);
        }
        let payload = usize::from(self.payload);
        let tcp = matches!(self.kind, Kind::Tcp4 | Kind::Tcp6);
        let length = payload + if tcp { 20 } else { 8 };
        let protocol = if tcp { 6 } else { 17 };
        match self.kind {
            Kind::Plain => frame.extend([0x88, 0xb5]),
            Kind::Tcp4 | Kind::Udp4 => {
                let [high, low] = ((length + 20) as u16).to_be_bytes();
                frame.extend([8, 0, 0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0]);
                frame.extend([10; 8]);
            }
            Kind::Tcp6 | Kind::Udp6 => {
                let [high, low] = (length as u16).to_be_bytes();
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, high, low, protocol, 64]);
                frame.extend([0xfd; 32]);
            }
        }
        if tcp {
            frame.extend([
                0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
            ]);
        } else {
            let [high, low] = (length as u16).to_be_bytes();
            frame.extend([0, 1, 0, 2, high, low, 0, 0]);
        }
        frame.resize(frame.len() + payload, 0x5a);
        for (at, byte) in &self.changes {
            if let Some(place) = frame.get_mut(usize::from(*at)) {
                *place = *byte;
            }
        }
        // What the rings' sizes can say.
        frame.truncate(65535);
        frame
    }
}

fn kind(v6: bool) -> GsoKind {
    if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 }
}

fn is_closing(front: &MockNetfront) -> bool {
    matches!(front.frontend.backend("state").as_deref(), Some("5" | "6"))
}

/// Waits until the backend has answered everything or has given up.
fn settle(front: &mut MockNetfront) -> bool {
    loop {
        front.queues[0].reap_tx();
        if front.queues[0].tx.in_flight() == 0 {
            return true;
        }
        if is_closing(front) {
            return false;
        }
        std::thread::yield_now();
    }
}

fn step(
    u: &mut Unstructured<'_>,
    front: &mut MockNetfront,
    end: &MockEnd,
) -> arbitrary::Result<()> {
    let queue = &mut front.queues[0];
    match Step::arbitrary(u)? {
        Step::Send { frame, flags, gso } => {
            let gso = gso.map(|(v6, size)| (kind(v6), size));
            // More data and extra information are announced where they are.
            queue.send(&frame.bytes(), u16::from(flags & 3), gso);
        }
        Step::Slots(slots) => {
            for (granted, bytes) in slots.into_iter().take(64) {
                let mut slot = [0; 12];
                slot[4..].copy_from_slice(&bytes);
                if granted {
                    let request = queue.tx_page(0, &[0x77; 64]);
                    slot[..4].copy_from_slice(&request.gref.to_le_bytes());
                    slot[8..10].copy_from_slice(&request.id.to_le_bytes());
                } else {
                    slot[..4].copy_from_slice(&bytes[..4]);
                }
                queue.tx.put_request(&slot);
            }
            queue.push_tx();
        }
        Step::Offer(count) => {
            let free = queue.rx.free().min(u32::from(count));
            queue.offer(free as usize);
        }
        Step::Give { frame, blank, gso } => {
            let checksum = match blank {
                Some((start, offset)) => Checksum::Blank {
                    start: start % 256,
                    offset,
                },
                None => Checksum::InFrame,
            };
            let gso = gso.map(|(v6, size, header_len)| Gso {
                kind: kind(v6),
                size,
                header_len,
            });
            end.give(Offload { checksum, gso }, &frame.bytes());
        }
        Step::Link(up) => front.control.set_link(up),
    }
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let (mut front, end) = Frontend::arbitrary(u)?.connect();
    end.set_keep(false);
    while !u.is_empty() {
        let stepped = step(u, &mut front, &end);
        if !settle(&mut front) {
            // It has closed, and let go of everything.
            let _why = front.wait_broken();
            front.frontend.domain().assert_released();
            return stepped;
        }
        stepped?;
    }
    front.frontend.close();
    front.frontend.domain().assert_released();
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    // An input that ends early has done what it says until then.
    let _ = run(&mut Unstructured::new(data));
});
