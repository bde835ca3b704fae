//! The console ring: whatever a domain writes into the page, in whatever order, the backend moves no
//! more than one call may, keeps to the page, and closes the console exactly when the indices cannot
//! be. Each step is an operation byte and its operands.
#![no_main]

use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use xenner_pvdevices::consback::{ConsoleEnd, ConsoleRing};
use xenner_pvdevices::domain::{Notify, SharedPage};

const IN_SIZE: u32 = 1024;
const OUT_SIZE: u32 = 2048;
const IN_CONS: usize = 3072;
const OUT_PROD: usize = 3084;

/// A page that panics on any access outside of it or off its alignment.
#[derive(Clone)]
struct Page(Arc<Mutex<[u8; 4096]>>);

impl SharedPage for Page {
    fn load_u32(&self, off: usize) -> u32 {
        assert!(off.is_multiple_of(4));
        let mut value = [0; 4];
        self.read(off, &mut value);
        u32::from_le_bytes(value)
    }

    fn store_u32(&self, off: usize, value: u32) {
        assert!(off.is_multiple_of(4));
        self.write(off, &value.to_le_bytes());
    }

    fn read(&self, off: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0.lock().unwrap()[off..off + buf.len()]);
    }

    fn write(&self, off: usize, data: &[u8]) {
        self.0.lock().unwrap()[off..off + data.len()].copy_from_slice(data);
    }
}

struct Silent;

impl Notify for Silent {
    fn notify(&self) {}
}

/// A user with so many bytes of patience and so many to type.
#[derive(Default)]
struct User {
    patience: usize,
    typing: usize,
    seen: usize,
}

impl ConsoleEnd for User {
    fn write(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.patience);
        self.patience -= count;
        self.seen += count;
        count
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.typing);
        self.typing -= count;
        buf[..count].fill(b'k');
        count
    }
}

fuzz_target!(|data: &[u8]| {
    let page = Page(Arc::new(Mutex::new([0; 4096])));
    let mut user = User::default();
    let (mut out_cons, mut in_prod) = (0u32, 0u32);
    let mut ring = ConsoleRing::new(Box::new(page.clone()), Box::new(Silent));
    for step in data.chunks_exact(5) {
        let value = u32::from_le_bytes([step[1], step[2], step[3], step[4]]);
        match step[0] % 8 {
            0 => page.store_u32(IN_CONS + 4 * (usize::from(step[0] / 8) % 4), value),
            1 => page.store_u32(OUT_PROD, out_cons.wrapping_add(value % (OUT_SIZE + 2))),
            2 => page.store_u32(IN_CONS, in_prod.wrapping_sub(value % (IN_SIZE + 2))),
            3 => user.typing = value as usize % 5000,
            4 => user.patience = value as usize % 50_000,
            5 => page.write(value as usize % 4096, &step[..1]),
            6 if !ring.is_closed() => {
                // A restored domain: the ring goes on from what the page says.
                drop(ring);
                (in_prod, out_cons) = (page.load_u32(IN_CONS + 4), page.load_u32(IN_CONS + 8));
                ring = ConsoleRing::new(Box::new(page.clone()), Box::new(Silent));
            }
            _ => pump(&mut ring, &page, &mut user, &mut out_cons, &mut in_prod),
        }
    }
});

fn pump(
    ring: &mut ConsoleRing,
    page: &Page,
    user: &mut User,
    out_cons: &mut u32,
    in_prod: &mut u32,
) {
    let was_closed = ring.is_closed();
    let waiting = page.load_u32(OUT_PROD).wrapping_sub(*out_cons);
    let unread = in_prod.wrapping_sub(page.load_u32(IN_CONS));
    let result = ring.pump(user);
    let broken = waiting > OUT_SIZE || unread > IN_SIZE;
    assert_eq!(result.is_err(), broken && !was_closed);
    let seen = std::mem::take(&mut user.seen) as u32;
    assert!(seen <= waiting.min(OUT_SIZE));
    assert!(seen == 0 || !was_closed);
    *out_cons = out_cons.wrapping_add(seen);
    if let Ok(pumped) = result {
        assert_eq!(pumped.to_user, seen as usize);
        assert!(was_closed || pumped.to_domain as u32 <= IN_SIZE - unread);
        *in_prod = in_prod.wrapping_add(pumped.to_domain as u32);
        assert_eq!(pumped.stalled, !was_closed && seen < waiting);
    }
}
