//! Reading and writing a disk past the page cache. One operation is one request.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use crate::aio::{Aio, Operation};
use crate::timed;

/// The disk to use, which is written to.
pub static DISK: OnceLock<String> = OnceLock::new();
/// The buffers of the benchmark that this process makes: to prepare them is no part of a request.
static KEPT: Mutex<Option<Aio>> = Mutex::new(None);
/// Where the next sequential request goes.
static NEXT: AtomicU64 = AtomicU64::new(0);

const MIB: usize = 1 << 20;
const SMALL: usize = 4096;

#[derive(Clone, Copy)]
struct Load {
    operation: Operation,
    size: usize,
    depth: usize,
    random: bool,
}

const fn sequential(operation: Operation) -> Load {
    Load {
        operation,
        size: MIB,
        depth: 4,
        random: false,
    }
}

const fn random(operation: Operation, depth: usize) -> Load {
    Load {
        operation,
        size: SMALL,
        depth,
        random: true,
    }
}

/// 1 MiB reads in a row, four in flight.
pub fn read_large(n: u64) -> Duration {
    run(n, sequential(Operation::Read))
}

/// 1 MiB writes in a row, four in flight.
pub fn write_large(n: u64) -> Duration {
    run(n, sequential(Operation::Write))
}

/// 4 KiB reads all over the disk, one after the other.
pub fn read_random(n: u64) -> Duration {
    run(n, random(Operation::Read, 1))
}

/// 4 KiB reads all over the disk, 32 in flight.
pub fn read_random_deep(n: u64) -> Duration {
    run(n, random(Operation::Read, 32))
}

/// 4 KiB writes all over the disk, one after the other.
pub fn write_random(n: u64) -> Duration {
    run(n, random(Operation::Write, 1))
}

/// 4 KiB writes all over the disk, 32 in flight.
pub fn write_random_deep(n: u64) -> Duration {
    run(n, random(Operation::Write, 32))
}

/// A 4 KiB write and the flush that makes it safe.
pub fn write_flush(n: u64) -> Duration {
    let disk = std::fs::File::options().write(true).open(path());
    let disk = disk.expect("the disk can be opened");
    timed(|| {
        for i in 0..n {
            let offset = (i % 1024) * SMALL as u64;
            disk.write_all_at(&[0x5a; SMALL], offset).expect("a write");
            disk.sync_data().expect("a flush");
        }
    })
}

fn path() -> &'static str {
    DISK.get().map_or("", String::as_str)
}

fn run(n: u64, load: Load) -> Duration {
    let file = std::fs::File::open(path()).expect("the disk can be opened");
    let bytes = std::io::Seek::seek(&mut &file, std::io::SeekFrom::End(0)).expect("its size");
    let places = (bytes / load.size as u64).max(1);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64 ^ n;
    let mut offset = || {
        let place = if load.random {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        } else {
            NEXT.fetch_add(1, Ordering::Relaxed)
        };
        place % places * load.size as u64
    };
    let mut kept = KEPT.lock().expect("one thread");
    let open = || Aio::open(path(), load.depth, load.size).expect("asynchronous I/O");
    let aio = kept.get_or_insert_with(open);
    timed(|| {
        let first = n.min(load.depth as u64);
        for slot in 0..first {
            aio.submit(load.operation, slot as usize, offset())
                .expect("a request");
        }
        for i in 0..n {
            let slot = aio.wait().expect("an answer");
            if i + first < n {
                aio.submit(load.operation, slot, offset())
                    .expect("a request");
            }
        }
    })
}
