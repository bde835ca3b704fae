//! mmuext_op: pins, base pointers, TLB flushes, LDT.

use xenner_emu_abi::frame::{TYPE_L4, TYPE_SEGDESC};
use xenner_emu_abi::layout::WINDOW_LDT;
use xenner_emu_abi::pte;
use xenner_xen_abi::errno::{EACCES, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP};
use xenner_xen_abi::xen::*;

use core::sync::atomic::Ordering::Relaxed;

use super::misc;
use super::mmu::{invlpg, own_domain, vcpu_mask};
use crate::arch::{cpu, descriptors};
use crate::mem::{
    clear_frame, copy_frame, current, frame_record, read_guest_words, write_guest_u32,
};
use crate::mmu::{rules, types, walk};
use crate::percpu::Vcpu;
use crate::smp::{self, Targets};
use crate::vmm;

/// mmuext_op(ops, count, done, domid).
pub extern "C" fn mmuext_op(ops: u64, count: u64, done: u64, dom: u64, _: u64, _: u64) -> i64 {
    if dom != u64::from(DOMID_SELF)
        && let Err(e) = own_domain(dom)
    {
        return -e;
    }
    let count = count & 0xffff_ffff & !MMU_UPDATE_PREEMPTED;
    let me = current();
    let mut at = ops;
    let mut n = 0;
    let mut result = 0;
    while n < count {
        let op = read_guest_words(at).map_err(|_| EFAULT);
        match op.and_then(|[cmd, a, b]| one(me, cmd as u32, a, b)) {
            Ok(()) => n += 1,
            Err(e) => {
                report(op, e);
                result = -e;
                break;
            }
        }
        at = at.wrapping_add(24);
    }
    if done != 0 && write_guest_u32(done, n as u32).is_err() {
        return -EFAULT;
    }
    result
}

#[cold]
fn report(op: Result<[u64; 3], i64>, e: i64) {
    if let Ok([cmd, arg, _]) = op {
        let record = if rules::owned(arg) {
            frame_record(arg).load(Relaxed)
        } else {
            0
        };
        let cmd = cmd as u32;
        vmm::log_refusal(format_args!(
            "mmuext_op {cmd} of {arg:#x} refused with {e}; the frame's record is {record:#x}"
        ));
    }
}

fn one(me: &Vcpu, cmd: u32, arg1: u64, arg2: u64) -> Result<(), i64> {
    match cmd {
        MMUEXT_PIN_L1_TABLE..=MMUEXT_PIN_L4_TABLE => types::pin(&types::lock(), arg1, cmd + 1),
        MMUEXT_UNPIN_TABLE => types::unpin(&types::lock(), arg1),
        MMUEXT_NEW_BASEPTR => new_baseptr(me, arg1),
        MMUEXT_NEW_USER_BASEPTR => new_user_baseptr(me, arg1),
        MMUEXT_TLB_FLUSH_LOCAL => {
            smp::flush_local();
            Ok(())
        }
        MMUEXT_INVLPG_LOCAL => {
            cpu::invlpg(arg1);
            Ok(())
        }
        MMUEXT_TLB_FLUSH_MULTI => {
            smp::flush_tlb(Targets::Mask(vcpu_mask(arg2)?));
            Ok(())
        }
        MMUEXT_INVLPG_MULTI => {
            invlpg(arg1, Targets::Mask(vcpu_mask(arg2)?));
            Ok(())
        }
        MMUEXT_TLB_FLUSH_ALL => {
            smp::flush_tlb(Targets::All);
            Ok(())
        }
        MMUEXT_INVLPG_ALL => {
            invlpg(arg1, Targets::All);
            Ok(())
        }
        MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL => Err(EACCES),
        // the number of entries is 32 bits; what is above it is whatever the guest had there
        MMUEXT_SET_LDT => set_ldt(me, arg1, arg2 & 0xffff_ffff),
        MMUEXT_CLEAR_PAGE => {
            let _held = plain_frame(arg1)?;
            clear_frame(arg1);
            Ok(())
        }
        MMUEXT_COPY_PAGE => {
            let _held = plain_frame(arg1)?;
            if !rules::owned(arg2) {
                return Err(EINVAL);
            }
            copy_frame(arg1, arg2);
            Ok(())
        }
        MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => Err(EOPNOTSUPP),
        _ => Err(ENOSYS),
    }
}

/// A frame that is written as ordinary memory, and stays that for as long as this is there.
struct PlainFrame(u64);

impl Drop for PlainFrame {
    fn drop(&mut self) {
        rules::drop_writable(self.0);
    }
}

fn plain_frame(mfn: u64) -> Result<PlainFrame, i64> {
    if !rules::owned(mfn) {
        return Err(EINVAL);
    }
    rules::take_writable(mfn).map_err(|_| EINVAL)?;
    Ok(PlainFrame(mfn))
}

/// Takes a reference to an L4.
fn get_l4(mfn: u64) -> Result<(), i64> {
    if types::get_held(mfn, TYPE_L4) {
        return Ok(());
    }
    types::get(&types::lock(), mfn, TYPE_L4).map_err(|_| EINVAL)
}

/// Installs the L4 of guest kernel mode.
///
/// # Errors
/// EINVAL if the frame cannot be an L4.
pub fn new_baseptr(me: &Vcpu, mfn: u64) -> Result<(), i64> {
    get_l4(mfn)?;
    let old = me.kernel_cr3.replace(mfn << 12);
    cpu::write_cr3(mfn << 12);
    types::release(old >> 12);
    Ok(())
}

fn new_user_baseptr(me: &Vcpu, mfn: u64) -> Result<(), i64> {
    if mfn != 0 {
        get_l4(mfn)?;
    }
    let old = me.user_cr3.replace(mfn << 12);
    if old != 0 {
        types::release(old >> 12);
    }
    Ok(())
}

fn set_ldt(me: &Vcpu, base: u64, entries: u64) -> Result<(), i64> {
    if entries > 8192 || base & 0xfff != 0 {
        return Err(EINVAL);
    }
    install_ldt(me, me.kernel_cr3.get(), base, entries as u32);
    descriptors::set_ldt(me.id.get(), entries as u32);
    Ok(())
}

/// Puts the pages of an LDT into the vcpu's window. A page that is not there, or holds what no
/// LDT may hold, reads as empty.
pub fn install_ldt(me: &Vcpu, cr3: u64, base: u64, entries: u32) {
    let lock = types::lock();
    let id = me.id.get();
    for page in 0..me.ldt_pages.get() {
        let old = misc::window_entry(id, 16 + page as usize).load(Relaxed);
        misc::window_map(id, 16 + page as usize, None);
        if !misc::is_zero_frame(pte::mfn(old)) {
            types::put(&lock, pte::mfn(old));
        }
    }
    let pages = entries.div_ceil(512);
    me.ldt_pages.set(pages);
    for page in 0..pages {
        let mfn = walk::translate(cr3, base + u64::from(page) * 4096).map(|(ma, _)| ma >> 12);
        if let Some(mfn) = mfn
            && types::get(&lock, mfn, TYPE_SEGDESC).is_ok()
        {
            misc::window_map(id, 16 + page as usize, Some(mfn));
        }
    }
    const _: () = assert!(WINDOW_LDT == 16 * 4096);
}
