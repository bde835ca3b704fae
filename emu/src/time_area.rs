//! The second copy of a vcpu's time record, at a guest-virtual address of the guest's choice
//! (`VCPUOP_register_vcpu_time_memory_area`): Linux maps it into processes, which then read the
//! clock without a system call.
//!
//! KVM keeps one record a vcpu, that in vcpu_info. The copy follows it when the guest registers the
//! area, whenever the emulator meets a new version of the record as it programs a timer, and at each
//! interrupt of another vcpu or of the process. That is enough, because a guest uses the copy only if
//! the record says that it is stable: then its content changes at a restore alone, and whoever
//! restores a domain interrupts its vcpus with `VECTOR_CALL`, which they take before they go on.

use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use xenner_emu_abi::layout::{PAGE_SIZE, in_hole};
use xenner_emu_abi::mailbox::VECTOR_CALL;
use xenner_emu_abi::pte::RW;
use xenner_xen_abi::errno::EFAULT;

use crate::mem::{boot_info, word};
use crate::mmu::{rules, walk};
use crate::percpu::Vcpu;
use crate::{smp, time};

/// Bytes of `struct vcpu_time_info`.
const LEN: u64 = 32;

/// Takes up `va` as the area of `target`; 0 ends it.
///
/// # Errors
/// EFAULT for an address that is the hypervisor's, not aligned to 8 bytes, or across two pages.
pub fn register(me: &Vcpu, target: &Vcpu, va: u64) -> Result<(), i64> {
    if in_hole(va) || va & 7 != 0 || va % PAGE_SIZE > PAGE_SIZE - LEN {
        return Err(EFAULT);
    }
    target.time_area.store(va, SeqCst);
    target.time_area_stale.store(true, SeqCst);
    if me.id.get() == target.id.get() {
        follow(me);
    } else {
        smp::interrupt(target.id.get(), VECTOR_CALL);
    }
    Ok(())
}

/// Brings the calling vcpu's area up to date if its record has another version than the copy.
pub fn follow(me: &Vcpu) {
    let va = me.time_area.load(Relaxed);
    if va == 0 || me.kernel_cr3.get() == 0 {
        return;
    }
    let record = time::record(me);
    let stale = me.time_area_stale.swap(false, SeqCst);
    if stale || me.time_area_version.get() != record[0] as u32 {
        me.time_area_version.set(record[0] as u32);
        copy(me, va, record);
    }
}

/// Where the guest unmapped the area, or has it read-only, nothing is written.
fn copy(me: &Vcpu, va: u64, record: [u64; 4]) {
    let Some((ma, l1e)) = walk::translate(me.kernel_cr3.get(), va) else {
        return;
    };
    let mfn = ma >> 12;
    if l1e & RW == 0 || mfn >= boot_info().nr_frames || rules::take_writable(mfn).is_err() {
        return;
    }
    let [version, rest @ ..] = record;
    // readers go by the version: odd while the rest changes
    word(ma).store(version | 1, SeqCst);
    for (i, w) in rest.into_iter().enumerate() {
        word(ma + 8 + i as u64 * 8).store(w, Release);
    }
    word(ma).store(version, Release);
    rules::drop_writable(mfn);
}
