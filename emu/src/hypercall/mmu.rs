//! mmu_update and update_va_mapping.

use core::sync::atomic::Ordering::Relaxed;

use xenner_emu_abi::layout::DOMID;
use xenner_xen_abi::errno::{EFAULT, EINVAL, ENOSYS, EPERM, ESRCH};
use xenner_xen_abi::xen::{
    DOMID_IO, DOMID_SELF, MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD, MMU_UPDATE_PREEMPTED, UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG,
    UVMF_TLB_FLUSH,
};

use crate::arch::cpu;
use crate::mem::{boot_info, current, m2p_entry, read_guest, read_guest_words, write_guest_u32};
use crate::mmu::update::{self, Store};
use crate::mmu::{rules, walk};
use crate::smp::{self, Targets};
use crate::vmm;

/// Checks the domain that an operation is for.
///
/// # Errors
/// EPERM for I/O memory, ESRCH for any other domain.
pub fn own_domain(domid: u64) -> Result<(), i64> {
    let (foreground, owner) = (domid as u16, (domid >> 16) as u16);
    if owner != 0 && owner - 1 != DOMID && owner - 1 != DOMID_SELF {
        return Err(ESRCH);
    }
    match foreground {
        DOMID_SELF | DOMID => Ok(()),
        DOMID_IO => Err(EPERM),
        _ => Err(ESRCH),
    }
}

/// mmu_update(requests, count, done, domid).
pub extern "C" fn mmu_update(req: u64, count: u64, done: u64, dom: u64, _: u64, _: u64) -> i64 {
    if dom != u64::from(DOMID_SELF)
        && let Err(e) = own_domain(dom)
    {
        return -e;
    }
    let count = count & 0xffff_ffff & !MMU_UPDATE_PREEMPTED;
    let mut at = req;
    let mut n = 0;
    let mut result = 0;
    while n < count {
        let request = read_guest_words(at).map_err(|_| EFAULT);
        match request.and_then(one) {
            Ok(()) => n += 1,
            Err(e) => {
                report(request, e);
                result = -e;
                break;
            }
        }
        at = at.wrapping_add(16);
    }
    if done != 0 && write_guest_u32(done, n as u32).is_err() {
        return -EFAULT;
    }
    result
}

#[cold]
fn report(request: Result<[u64; 2], i64>, e: i64) {
    if let Ok([ptr, val]) = request {
        vmm::log_refusal(format_args!(
            "mmu_update of {ptr:#x} to {val:#x} refused with {e}"
        ));
    }
}

#[inline]
fn one([ptr, val]: [u64; 2]) -> Result<(), i64> {
    let how = match ptr & 7 {
        MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_NO_TRANSLATE => Store::Plain,
        MMU_PT_UPDATE_PRESERVE_AD => Store::PreserveAd,
        MMU_MACHPHYS_UPDATE => return machphys(ptr >> 12, val),
        _ => return Err(ENOSYS),
    };
    update::entry(ptr & !7, val, how).map(|_| ())
}

fn machphys(mfn: u64, pfn: u64) -> Result<(), i64> {
    if !rules::owned(mfn) {
        return Err(EINVAL);
    }
    m2p_entry(mfn).ok_or(EINVAL)?.store(pfn, Relaxed);
    Ok(())
}

/// update_va_mapping(va, entry, flags).
pub extern "C" fn update_va_mapping(va: u64, val: u64, flags: u64, _: u64, _: u64, _: u64) -> i64 {
    let me = current();
    let Some(at) = walk::l1_entry(me.kernel_cr3.get(), va) else {
        return -EINVAL;
    };
    if let Err(e) = update::entry(at, val, Store::Plain) {
        return -e;
    }
    let kind = flags & UVMF_FLUSHTYPE_MASK;
    if kind == 0 {
        return 0;
    }
    let targets = match flags & !UVMF_FLUSHTYPE_MASK {
        0 => Targets::Local,
        UVMF_ALL => Targets::All,
        bitmap => match vcpu_mask(bitmap) {
            Ok(m) => Targets::Mask(m),
            Err(e) => return -e,
        },
    };
    match kind {
        UVMF_TLB_FLUSH => smp::flush_tlb(targets),
        UVMF_INVLPG => invlpg(va, targets),
        _ => return -EINVAL,
    }
    0
}

/// Drops one address from the TLBs of `targets`.
pub fn invlpg(va: u64, targets: Targets) {
    if matches!(targets, Targets::Local) {
        cpu::invlpg(va);
    } else {
        smp::flush_tlb(targets);
    }
}

/// Reads a guest's bitmap of vcpus.
///
/// # Errors
/// EFAULT.
pub fn vcpu_mask(va: u64) -> Result<[u64; 2], i64> {
    let low = read_guest(va).map_err(|_| EFAULT)?;
    let high = if boot_info().nr_vcpus > 64 {
        read_guest(va.wrapping_add(8)).map_err(|_| EFAULT)?
    } else {
        0
    };
    Ok([low, high])
}
