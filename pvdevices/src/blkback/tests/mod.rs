//! The block backend against a frontend made for it.

mod control;
mod engine;
mod errors;
mod features;
mod grants;
mod malformed;
mod model;
mod protocol;

use std::sync::{Arc, Mutex};

use xenner_xen_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY};

use super::mock::{BlkFront, Connect, MemoryImage, Part, data};
use super::{Aio, DiskEvents, IoFault, VbdConfig};
use crate::image::{Discard, Geometry};
use crate::mock::GrantedPage;

/// Geometry of a small writable disk of so many sectors that can discard.
fn small(sectors: u64) -> Geometry {
    Geometry {
        size: sectors * 512,
        logical_block: 512,
        physical_block: 512,
        read_only: false,
        discard: Some(Discard {
            granularity: 512,
            alignment: 0,
            secure: false,
        }),
    }
}

fn config() -> VbdConfig {
    VbdConfig {
        persistent: true,
        ..VbdConfig::new(51712, "xvda")
    }
}

/// Events, written down.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<IoFault>>);

impl DiskEvents for Told {
    fn io_error(&self, fault: &IoFault) {
        self.0.lock().unwrap().push(*fault);
    }
}

impl Told {
    fn take(&self) -> Vec<IoFault> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Waits until something is told.
    fn wait(&self) -> Vec<IoFault> {
        for _ in 0..2000 {
            let told = self.take();
            if !told.is_empty() {
                return told;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("nothing is told");
    }
}

/// A connected disk in memory.
fn disk(config: VbdConfig, geometry: Geometry, connect: Connect) -> (BlkFront, Arc<MemoryImage>) {
    let image = MemoryImage::new(geometry);
    let told = Arc::new(Told::default());
    let mut front = BlkFront::publish(config, Some(image.clone()), told, 2048);
    front.connect(connect);
    (front, image)
}

/// Pages whole, one part each.
fn whole(pages: &[GrantedPage]) -> Vec<Part> {
    pages.iter().map(|page| (page.gref(), 0, 7)).collect()
}

/// Writes a pattern to a sector and reads it back into another page.
fn round_trip(front: &mut BlkFront, sector: u64, seed: u8) {
    let pages = front.pages(2);
    let pattern: Vec<u8> = (0..4096u32).map(|n| (n % 251) as u8 ^ seed).collect();
    pages[0].put(0, &pattern);
    pages[1].put(0, &[0xa5; 4096]);
    for queue in &mut front.queues {
        let write = data(BLKIF_OP_WRITE, sector, &whole(&pages[..1]));
        assert_eq!(queue.call(write), BLKIF_RSP_OKAY);
        let read = data(BLKIF_OP_READ, sector, &whole(&pages[1..]));
        assert_eq!(queue.call(read), BLKIF_RSP_OKAY);
        assert_eq!(pages[1].bytes(0, 4096), pattern);
    }
}

/// Every way to the host.
const WAYS: [Aio; 2] = [Aio::IoUring, Aio::Threads];
