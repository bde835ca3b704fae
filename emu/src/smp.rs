//! vcpus among themselves: interrupts, TLB flushes, waiting for one another.
//!
//! A vcpu in ring 0 takes no interrupts, so whoever waits for another vcpu serves the
//! requests made to itself meanwhile ([`spin`]); two that wait for each other both get on.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use xenner_emu_abi::mailbox::VECTOR_CALL;

use crate::arch::cpu;
use crate::mem::{boot_info, current, vcpu};
use crate::percpu::{STATE_UP, Vcpu};
use crate::vmm;

const MSR_X2APIC_ICR: u32 = 0x830;
/// Turns of a wait loop before the host is told that it is a long one.
const SPINS: u32 = 200;

/// Which vcpus an operation is for; the caller is always included where it applies.
#[derive(Clone, Copy, Debug)]
pub enum Targets {
    /// The calling vcpu alone.
    Local,
    /// All vcpus.
    All,
    /// Those whose bit is set.
    Mask([u64; 2]),
}

impl Targets {
    fn has(self, id: u32) -> bool {
        match self {
            Targets::Local => id == current().id.get(),
            Targets::All => true,
            Targets::Mask(m) => m[(id as usize >> 6) & 1] >> (id & 63) & 1 != 0,
        }
    }
}

/// Sends an interrupt to a vcpu's local APIC.
pub fn interrupt(id: u32, vector: u8) {
    cpu::wrmsr(MSR_X2APIC_ICR, u64::from(id) << 32 | u64::from(vector));
}

/// Waits until `done`, serving TLB flush requests, yielding to the host when it takes long.
pub fn spin(done: impl Fn() -> bool) {
    let mut turns = 0;
    while !done() {
        serve_flush(current());
        cpu::pause();
        turns += 1;
        if turns % SPINS == 0 {
            vmm::yield_cpu();
        }
    }
}

/// Flushes the TLBs of the vcpus named and waits until it is done.
pub fn flush_tlb(targets: Targets) {
    let me = current();
    if targets.has(me.id.get()) {
        flush_local();
    }
    if matches!(targets, Targets::Local) || boot_info().nr_vcpus == 1 {
        return;
    }
    for id in 0..boot_info().nr_vcpus as u32 {
        if let Some(v) = other(id, targets) {
            v.flush_wanted.fetch_add(1, SeqCst);
            if !v.idle.load(SeqCst) {
                interrupt(id, VECTOR_CALL);
            }
        }
    }
    for id in 0..boot_info().nr_vcpus as u32 {
        if let Some(v) = other(id, targets) {
            let want = v.flush_wanted.load(Acquire);
            spin(|| v.flush_done.load(Acquire) >= want || v.idle.load(Acquire));
        }
    }
}

fn other(id: u32, targets: Targets) -> Option<&'static Vcpu> {
    if id == current().id.get() || !targets.has(id) {
        return None;
    }
    vcpu(id).filter(|v| v.state.load(Relaxed) == STATE_UP)
}

/// Does the TLB flush that others asked of this vcpu, if any.
pub fn serve_flush(me: &Vcpu) {
    let want = me.flush_wanted.load(Acquire);
    if me.flush_done.load(Relaxed) != want {
        flush_local();
        me.flush_done.store(want, Release);
    }
}

/// Drops this vcpu's cached translations.
pub fn flush_local() {
    cpu::write_cr3(cpu::read_cr3());
}
