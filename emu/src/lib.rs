//! The emulator: the half of xenner that runs in the guest's ring 0.
//!
//! A PV kernel runs in ring 3. Its system calls and exceptions, its hypercalls and its
//! page-table updates are answered here, without leaving the guest; what needs the host goes
//! to the VMM through a mailbox (`vmm`). Built twice: as the image for ring 0 (target
//! `x86_64-unknown-none`), and as an ordinary library for the host, where the page-table,
//! descriptor and decoding rules are unit-tested.
#![no_std]

#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod boot;
pub mod decode;
pub mod descriptors;
#[cfg(target_os = "none")]
pub mod event;
#[cfg(target_os = "none")]
pub mod hypercall;
pub mod mem;
pub mod mmu;
#[cfg(target_os = "none")]
pub mod percpu;
#[cfg(target_os = "none")]
pub mod smp;
#[cfg(target_os = "none")]
pub mod time;
#[cfg(target_os = "none")]
pub mod time_area;
#[cfg(target_os = "none")]
pub mod trap;
#[cfg(target_os = "none")]
pub mod vmm;

/// Spins until `done`, serving other vcpus' requests meanwhile.
#[cfg(target_os = "none")]
pub(crate) fn spin(done: impl Fn() -> bool) {
    smp::spin(done);
}
#[cfg(not(target_os = "none"))]
pub(crate) fn spin(_done: impl Fn() -> bool) {
    #[cfg(test)]
    mmu::race_tests::wait();
    #[cfg(not(test))]
    core::hint::spin_loop();
}

/// Marks a place where another vcpu may come between two steps; the unit tests make it so.
#[inline(always)]
pub(crate) fn race_window() {
    #[cfg(test)]
    mmu::race_tests::let_others_run();
}

/// After an entry of an upper-level table went away or changed.
pub(crate) fn flush_all_after_upper_change() {
    #[cfg(target_os = "none")]
    smp::flush_tlb(smp::Targets::All);
}

/// Takes the ordinary entries of an L1 table from the first on, with the help of the process where
/// ring 0 is slow; the index of the first entry that is left.
pub(crate) fn take_many(_mfn: u64) -> usize {
    #[cfg(target_os = "none")]
    if mem::boot_info().flags & xenner_emu_abi::boot::FLAG_RING0_SLOW != 0 {
        return vmm::take_ordinary(_mfn);
    }
    0
}

/// After writable mappings went away without a flush. Where KVM shadows the guest's tables its
/// own follow every change at once, and no TLB is behind.
pub(crate) fn flush_stale_mappings() {
    #[cfg(target_os = "none")]
    if mem::boot_info().flags & xenner_emu_abi::boot::FLAG_RING0_SLOW == 0 {
        smp::flush_tlb(smp::Targets::All);
    }
}
