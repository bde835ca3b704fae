//! Page faults: writes to page tables are carried out, the rest is the guest's.

use xenner_emu_abi::boot::FLAG_SYSCALL_STAYS_USER;
use xenner_emu_abi::frame::{self, TYPE_L1};
use xenner_emu_abi::layout::{M2P_SLOT, slot_va};
use xenner_emu_abi::mailbox::Regs;
use xenner_emu_abi::pte::RW;

use core::sync::atomic::Ordering::Relaxed;

use xenner_xen_abi::xen::VMASST_TYPE_WRITABLE_PAGETABLES;

use super::bounce;
use crate::arch::cpu;
use crate::decode::{self, MemoryWrite};
use crate::event::CR2;
use crate::hypercall::misc;
use crate::mem::{boot_info, fetch, frame_record, info_u64, word};
use crate::mmu::update::{self, Store};
use crate::mmu::walk;
use crate::percpu::Vcpu;

/// Error code bits (AMD APM volume 2, "Page-Fault Exception").
const PRESENT: u32 = 1;
const WRITE: u32 = 2;
const USER: u32 = 4;
const RESERVED: u32 = 8;
const FETCH: u32 = 16;

/// Handles a page fault of the guest.
pub fn handle(me: &Vcpu, regs: &mut Regs, code: u32) {
    let va = cpu::read_cr2();
    let kernel = me.kernel_mode.get() == 1;
    if kernel {
        if code & (PRESENT | WRITE | FETCH) == PRESENT | WRITE
            && misc::assist(VMASST_TYPE_WRITABLE_PAGETABLES)
            && page_table_write(me, regs, va)
        {
            return;
        }
        if code & WRITE == 0 && m2p_read(regs, va) {
            return;
        }
    }
    info_u64(me.info.load(Relaxed), CR2).store(va, Relaxed);
    // ring 3 is not user mode to a guest kernel; reserved bits are the host's affair
    let code = code & !RESERVED & if kernel { !USER } else { !0 };
    bounce::exception(me, regs, 14, Some(code));
}

/// Gives the guest a page fault for an access that was made on its behalf.
pub fn reflect(me: &Vcpu, regs: &mut Regs, va: u64, write: bool) {
    let mapped = walk::translate(me.kernel_cr3.get(), va).is_some();
    let kernel = me.kernel_mode.get() == 1;
    let code = if mapped { PRESENT } else { 0 }
        | if write { WRITE } else { 0 }
        | if kernel { 0 } else { USER };
    info_u64(me.info.load(Relaxed), CR2).store(va, Relaxed);
    bounce::exception(me, regs, 14, Some(code));
}

/// A write to an L1 table that is mapped read-only: done for the guest if the entry is
/// allowed (Xen's writable page tables).
fn page_table_write(me: &Vcpu, regs: &mut Regs, va: u64) -> bool {
    let Some((ma, l1e)) = walk::translate(me.kernel_cr3.get(), va) else {
        return false;
    };
    let mfn = ma >> 12;
    if l1e & RW != 0
        || mfn >= boot_info().nr_frames
        || frame::kind(frame_record(mfn).load(Relaxed)) != TYPE_L1
    {
        return false;
    }
    let (code, n) = fetch(regs.rip);
    if va & 7 == 0
        && let Some((len, reg)) = decode::exchange64(&code[..n])
    {
        return exchange(regs, ma, len, reg);
    }
    let Some(insn) = decode::memory_write(&code[..n], regs) else {
        return false;
    };
    if va & (u64::from(insn.size) - 1) != 0 {
        return false;
    }
    write_entry(regs, ma, &insn)
}

/// XCHG of a whole entry with a register, which is how Linux takes entries out of live tables: what
/// `write_entry` does, without a look at the old value first.
fn exchange(regs: &mut Regs, ma: u64, len: u8, reg: u8) -> bool {
    let register = decode::gpr(regs, reg);
    match update::entry(ma, *register, Store::Plain) {
        Ok(old) => {
            *register = old;
            regs.rip = regs.rip.wrapping_add(u64::from(len));
            true
        }
        Err(_) => false,
    }
}

fn write_entry(regs: &mut Regs, ma: u64, insn: &MemoryWrite) -> bool {
    let at = ma & !7;
    let shift = (ma & 7) * 8;
    let field = decode::size_mask(insn.size) << shift;
    for _ in 0..64 {
        let whole = word(at).load(Relaxed);
        let done = insn.apply((whole & field) >> shift, regs);
        let new = whole & !field | (done.value << shift) & field;
        match update::entry(at, new, Store::IfEqual(whole)) {
            Ok(seen) if seen == whole => {
                insn.finish(&done, regs);
                return true;
            }
            // another vcpu or the CPU itself changed the entry meanwhile
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

/// A read of the M2P at its default place on a host where ring 3 cannot use that slot.
fn m2p_read(regs: &mut Regs, va: u64) -> bool {
    let info = boot_info();
    let default = slot_va(M2P_SLOT as u64);
    if info.flags & FLAG_SYSCALL_STAYS_USER == 0
        || info.m2p_va == default
        || !(default..default + info.m2p_entries * 8).contains(&va)
        || va & 7 != 0
    {
        return false;
    }
    let (code, n) = fetch(regs.rip);
    let Some((len, reg)) = decode::load64(&code[..n]) else {
        return false;
    };
    let Some(value) = crate::mem::m2p((va - default) / 8) else {
        return false;
    };
    *decode::gpr(regs, reg) = value;
    regs.rip = regs.rip.wrapping_add(u64::from(len));
    true
}
