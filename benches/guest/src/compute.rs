//! Work that never enters the kernel: what a guest should do at the speed of
//! the processor itself.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};
use std::hint::black_box;
use std::time::Duration;

use crate::{sys, timed};

/// Steps of a linear congruential generator (Knuth's MMIX constants).
fn step(x: u64) -> u64 {
    x.wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}

/// One operation: 1,000 dependent multiply-adds in registers.
pub fn alu(n: u64) -> Duration {
    timed(|| {
        let mut x = 1;
        for _ in 0..n {
            for _ in 0..1000 {
                // Opaque, or the compiler would fold many steps into one.
                x = sys::opaque(step(x));
            }
        }
    })
}

/// Bytes that one operation of [`hash_buffer`] hashes: within second-level caches.
const BUFFER_BYTES: usize = 256 << 10;

/// One operation: SipHash of 256 KiB in memory.
pub fn hash_buffer(n: u64) -> Duration {
    let buffer: Vec<u8> = (0..BUFFER_BYTES as u32).map(|i| (i * 7) as u8).collect();
    timed(|| {
        for _ in 0..n {
            let mut hasher = DefaultHasher::new();
            hasher.write(black_box(&buffer));
            black_box(hasher.finish());
        }
    })
}

/// Slots of the hash table: 16 MiB of keys, beyond most second-level caches.
const SLOTS: usize = 1 << 21;
/// Keys are drawn from half as many values as there are slots, so that the
/// table never fills and probing ends.
const KEYS: u64 = SLOTS as u64 / 2;

/// A table and the state of the generator that draws keys.
struct Lookups {
    table: Vec<u64>,
    x: u64,
}

thread_local! {
    static LOOKUPS: RefCell<Lookups> = RefCell::new(Lookups { table: full_table(), x: 1 });
    static BLOCKS: RefCell<(Vec<u8>, Vec<u8>)> =
        RefCell::new((vec![1; COPY_BYTES], vec![2; COPY_BYTES]));
}

/// A table that holds every key: however many operations a machine gets through,
/// each is the same work.
fn full_table() -> Vec<u64> {
    let mut table = black_box(vec![0; SLOTS]);
    for key in 1..=KEYS {
        insert(&mut table, key);
    }
    table
}

/// Find `key` (not 0) or put it in; linear probing.
fn insert(table: &mut [u64], key: u64) {
    let mut slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 43) as usize % SLOTS;
    while table[slot] != 0 && table[slot] != key {
        slot = (slot + 1) % SLOTS;
    }
    table[slot] = key;
}

/// One operation: 1,000 look-ups of random keys.
pub fn hash_table(n: u64) -> Duration {
    LOOKUPS.with_borrow_mut(|Lookups { table, x }| {
        timed(|| {
            for _ in 0..n {
                for _ in 0..1000 {
                    *x = step(*x);
                    insert(table, (*x >> 33) % KEYS + 1);
                }
            }
        })
    })
}

const COPY_BYTES: usize = 16 << 20;

/// One operation: a copy of 16 MiB.
pub fn memcpy(n: u64) -> Duration {
    BLOCKS.with_borrow_mut(|(to, from)| {
        timed(|| {
            for _ in 0..n {
                to.copy_from_slice(black_box(from));
                black_box(to.as_mut_slice());
            }
        })
    })
}

/// One operation: RDTSC.
pub fn rdtsc(n: u64) -> Duration {
    timed(|| {
        for _ in 0..n {
            sys::rdtsc();
        }
    })
}

/// One operation: CPUID, leaf 0.
pub fn cpuid(n: u64) -> Duration {
    timed(|| {
        for _ in 0..n {
            black_box(sys::cpuid(0));
        }
    })
}
