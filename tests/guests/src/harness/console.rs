//! Output: the PV console ring, `console_io`, or both (`out=ring|hv|both`).

use super::machine::{info, va_of};
use super::xen::{sched0, send};
use crate::arch::hypercall::call;
use crate::arch::memory::{fence, read32, write8, write32};
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use xenner_test_guests::text::Text;
use xenner_xen_abi::sched::SCHEDOP_YIELD;
use xenner_xen_abi::xen::{CONSOLEIO_WRITE, HYPERVISOR_CONSOLE_IO};

static OUT: AtomicU8 = AtomicU8::new(0);
static PAGE: AtomicU64 = AtomicU64::new(0);
const RING: u8 = 1;
const HV: u8 = 2;

/// Choose the output by the command line's word.
pub fn init(out: &str) {
    OUT.store(
        match out {
            "hv" => HV,
            "both" => RING | HV,
            _ => RING,
        },
        Relaxed,
    );
    PAGE.store(va_of(info().console_mfn), Relaxed);
}

/// Address of the ring page.
pub fn page() -> u64 {
    PAGE.load(Relaxed)
}

/// Write a line.
pub fn line(args: fmt::Arguments<'_>) {
    let mut t = Text::<600>::format(args);
    t.push(b"\n");
    let out = OUT.load(Relaxed);
    if out & HV != 0 || page() == 0 {
        call(
            HYPERVISOR_CONSOLE_IO,
            [
                CONSOLEIO_WRITE.into(),
                t.as_bytes().len() as u64,
                t.as_bytes().as_ptr() as u64,
                0,
                0,
            ],
        );
    }
    if out & RING != 0 && page() != 0 {
        for &b in t.as_bytes() {
            if b == b'\n' {
                put(b'\r');
            }
            put(b);
        }
        flush();
    }
}

/// Put a byte into the ring, waiting for room.
fn put(b: u8) {
    let p = page();
    let prod = read32(p + 3084);
    while prod.wrapping_sub(read32(p + 3080)) >= 2048 {
        kick();
    }
    write8(p + 1024 + u64::from(prod % 2048), b);
    fence();
    write32(p + 3084, prod.wrapping_add(1));
}

/// Wait until the backend has taken everything.
pub fn flush() {
    send(info().console_evtchn);
    while read32(page() + 3084) != read32(page() + 3080) {
        sched0(SCHEDOP_YIELD);
    }
}

fn kick() {
    send(info().console_evtchn);
    sched0(SCHEDOP_YIELD);
}
