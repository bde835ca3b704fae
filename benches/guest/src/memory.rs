//! Page faults and changes of the address space.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sys::{self, Mapping, PAGE};
use crate::timed;

/// Pages touched per mapping in the page fault benchmark.
const BATCH: u64 = 1024;
/// The size of the small mappings.
const SMALL: usize = 16 * PAGE;

/// One operation: the first touch of an anonymous page. Only the touching is timed.
pub fn page_fault(n: u64) -> Duration {
    let mut total = Duration::ZERO;
    let mut left = n;
    while left > 0 {
        let pages = left.min(BATCH) as usize;
        let mut mapping = Mapping::new(pages * PAGE);
        mapping.without_huge_pages();
        total += timed(|| mapping.touch());
        left -= pages as u64;
    }
    total
}

/// One operation: mmap and munmap of 64 KiB, untouched.
pub fn map_unmap(n: u64) -> Duration {
    timed(|| {
        for _ in 0..n {
            drop(Mapping::new(SMALL));
        }
    })
}

/// One operation: mmap of 64 KiB, every page touched, munmap.
pub fn map_touch_unmap(n: u64) -> Duration {
    timed(|| {
        for _ in 0..n {
            Mapping::new(SMALL).touch();
        }
    })
}

/// One operation: one mprotect of 16 present pages, by turns read-only and writable.
pub fn mprotect(n: u64) -> Duration {
    let mut mapping = Mapping::new(SMALL);
    mapping.without_huge_pages();
    mapping.touch();
    let start = Instant::now();
    for i in 0..n {
        mapping.protect(i % 2 == 1);
    }
    start.elapsed()
}

/// As [`mprotect`], while a thread of the process runs on another processor,
/// whose TLB each loss of rights must reach.
pub fn mprotect_shootdown(n: u64) -> Duration {
    let (up, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    sys::pin_to(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sys::pin_to(1);
            up.store(true, Ordering::Release);
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        while !up.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let took = mprotect(n);
        stop.store(true, Ordering::Relaxed);
        took
    })
}
