//! Two-level event channels, the guest's side: pending and mask bits, the upcall.

use super::machine::shared;
use crate::arch::memory::{atomic64, write8};
use crate::arch::vcpu::Vcpu;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

const PENDING: u64 = 2048;
const MASK: u64 = 2560;
/// Ports whose upcalls are counted.
pub const COUNTED: usize = 64;
static COUNTS: [AtomicU32; COUNTED] = [const { AtomicU32::new(0) }; COUNTED];

/// Mask all ports.
pub fn mask_all() {
    for i in 0..64 {
        atomic64(shared() + MASK + i * 8).store(u64::MAX, SeqCst);
    }
}

fn word(base: u64, port: u32) -> u64 {
    shared() + base + u64::from(port / 64) * 8
}

/// Whether a port is pending.
pub fn pending(port: u32) -> bool {
    atomic64(word(PENDING, port)).load(SeqCst) >> (port % 64) & 1 != 0
}

/// Clear a port's pending bit; whether it was set.
pub fn clear(port: u32) -> bool {
    let bit = 1 << (port % 64);
    atomic64(word(PENDING, port)).fetch_and(!bit, SeqCst) & bit != 0
}

/// Whether a port is masked.
pub fn masked(port: u32) -> bool {
    atomic64(word(MASK, port)).load(SeqCst) >> (port % 64) & 1 != 0
}

/// Set a port's mask bit.
pub fn mask(port: u32) {
    atomic64(word(MASK, port)).fetch_or(1 << (port % 64), SeqCst);
}

/// Clear a port's mask bit, without the hypercall.
pub fn unmask_bit(port: u32) {
    atomic64(word(MASK, port)).fetch_and(!(1 << (port % 64)), SeqCst);
}

/// Clear a vCPU's pending flag and selector.
pub fn reset_vcpu(v: &Vcpu) {
    write8(v.info.get(), 0);
    atomic64(v.info.get() + 8).store(0, SeqCst);
}

/// The upcall: clear and count every pending, unmasked port.
pub fn handle(v: &Vcpu) {
    write8(v.info.get(), 0);
    let mut sel = atomic64(v.info.get() + 8).swap(0, SeqCst);
    while sel != 0 {
        let i = sel.trailing_zeros();
        sel &= sel - 1;
        let mask = atomic64(word(MASK, i * 64)).load(SeqCst);
        let hits = atomic64(word(PENDING, i * 64)).fetch_and(mask, SeqCst) & !mask;
        for b in (0..64).filter(|b| hits >> b & 1 != 0) {
            if let Some(c) = COUNTS.get((i * 64 + b) as usize) {
                c.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Upcalls of a port so far.
pub fn count(port: u32) -> u32 {
    COUNTS.get(port as usize).map_or(0, |c| c.load(Relaxed))
}
