//! The calls that set up a vcpu: traps, callbacks, descriptors, segment bases, debug
//! registers, and the small ones.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenner_emu_abi::frame::{self, TYPE_NONE, TYPE_SEGDESC};
use xenner_emu_abi::layout::{HOLE_END, HOLE_START};
use xenner_emu_abi::pte::{A, D, NX, P, RW};
use xenner_xen_abi::arch_x86_64::{
    SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL,
};
use xenner_xen_abi::callback::*;
use xenner_xen_abi::errno::{EFAULT, EINVAL, ENODEV, ENOSYS, EPERM};
use xenner_xen_abi::physdev::{PHYSDEVOP_SET_IOBITMAP, PHYSDEVOP_SET_IOPL};
use xenner_xen_abi::xen::*;

use crate::arch::{cpu, descriptors as tables};
use crate::mem::{self, boot_info, current, entry, frame_record, read_guest, read_guest_u32};
use crate::mem::{read_guest_words, word};
use crate::mmu::{rules, types};
use crate::percpu::{Handler, MASK_EVENTS, Vcpu};
use crate::trap::bounce::stack_allowed;
use crate::trap::msr::{self, canonical};
use crate::trap::set_ts;
use crate::{descriptors, vmm};

/// The domain's vm_assist bits.
static VM_ASSIST: AtomicU64 = AtomicU64::new(0);

fn ok(r: Result<(), i64>) -> i64 {
    r.map_or_else(|e| -e, |()| 0)
}

// ---- traps and callbacks --------------------------------------------------------------

/// set_trap_table(list).
pub extern "C" fn set_trap_table(list: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    let me = current();
    if list == 0 {
        me.traps.iter().for_each(|t| t.set(Handler::default()));
        refresh_short_ways(me);
        return 0;
    }
    let mut result = Ok(());
    for i in 0..=256u64 {
        match read_guest_words(list.wrapping_add(i * 16)) {
            Err(_) => result = Err(EFAULT),
            Ok([_, 0]) => break,
            Ok([_, address]) if !canonical(address) => result = Err(EINVAL),
            Ok([head, address]) => {
                set_trap(me, head, address);
                continue;
            }
        }
        break;
    }
    refresh_short_ways(me);
    ok(result)
}

/// Sets one handler from the words of a `struct trap_info`.
pub fn set_trap(me: &Vcpu, head: u64, address: u64) {
    let (vector, flags) = (head as u8, (head >> 8) as u8);
    me.traps[usize::from(vector)].set(Handler {
        rip: address,
        flags,
    });
}

/// After a change of handlers: what the entry code may do on its own.
pub fn refresh_short_ways(me: &Vcpu) {
    let short = |h: Handler| if h.flags & MASK_EVENTS != 0 { h.rip } else { 0 };
    me.fast_pf.set(short(me.traps[14].get()));
    me.fast_syscall
        .set(short(me.callbacks[usize::from(CALLBACKTYPE_SYSCALL)].get()));
}

/// set_callbacks(event, failsafe, syscall).
pub extern "C" fn set_callbacks(
    ev: u64,
    failsafe: u64,
    syscall: u64,
    _: u64,
    _: u64,
    _: u64,
) -> i64 {
    let me = current();
    if ![ev, failsafe, syscall].into_iter().all(canonical) {
        return -EINVAL;
    }
    for (kind, rip) in [
        (CALLBACKTYPE_EVENT, ev),
        (CALLBACKTYPE_FAILSAFE, failsafe),
        (CALLBACKTYPE_SYSCALL, syscall),
    ] {
        let flags = me.callbacks[usize::from(kind)].get().flags;
        me.callbacks[usize::from(kind)].set(Handler { rip, flags });
    }
    refresh_short_ways(me);
    0
}

/// callback_op(cmd, arg).
pub extern "C" fn callback_op(cmd: u64, arg: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    let me = current();
    let register = match cmd as u32 {
        CALLBACKOP_REGISTER => true,
        CALLBACKOP_UNREGISTER => false,
        _ => return -ENOSYS,
    };
    let Ok(head) = read_guest_u32(arg) else {
        return -EFAULT;
    };
    let kind = head as u16;
    if !register {
        return match kind {
            CALLBACKTYPE_NMI => {
                me.traps[2].set(Handler::default());
                0
            }
            CALLBACKTYPE_EVENT
            | CALLBACKTYPE_FAILSAFE
            | CALLBACKTYPE_SYSCALL
            | CALLBACKTYPE_SYSENTER
            | CALLBACKTYPE_SYSCALL32 => -EINVAL,
            _ => -ENOSYS,
        };
    }
    let Ok(rip) = read_guest(arg.wrapping_add(8)) else {
        return -EFAULT;
    };
    let mask = (head >> 16) as u16 & CALLBACKF_MASK_EVENTS != 0;
    let handler = Handler {
        rip,
        flags: if mask { MASK_EVENTS } else { 0 },
    };
    match kind {
        _ if !canonical(rip) => return -EINVAL,
        CALLBACKTYPE_NMI => me.traps[2].set(handler),
        CALLBACKTYPE_EVENT
        | CALLBACKTYPE_FAILSAFE
        | CALLBACKTYPE_SYSCALL
        | CALLBACKTYPE_SYSENTER
        | CALLBACKTYPE_SYSCALL32 => {
            me.callbacks[usize::from(kind)].set(handler);
        }
        _ => return -ENOSYS,
    }
    refresh_short_ways(me);
    0
}

/// stack_switch(ss, sp).
pub extern "C" fn stack_switch(_ss: u64, sp: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    set_kernel_sp(current(), sp);
    0
}

/// Takes up the stack for traps from user mode. A stack in the hypervisor hole crashes the
/// domain when it is used, as an unmapped one does.
pub fn set_kernel_sp(me: &Vcpu, sp: u64) {
    me.set_kernel_sp(if stack_allowed(sp) { sp } else { 0x1000 });
}

// ---- descriptors ----------------------------------------------------------------------

/// The window's L1 entry for a page of a vcpu's GDT (0-13) or LDT (16-31).
pub fn window_entry(vcpu: u32, page: usize) -> &'static AtomicU64 {
    let slot = vcpu as usize * 32 + page;
    entry(boot_info().window_l1 + (slot / 512) as u64, slot % 512)
}

/// Whether a frame is the one that stands for an empty descriptor page.
pub fn is_zero_frame(mfn: u64) -> bool {
    mfn == boot_info().zero_frame
}

/// Maps a frame into a vcpu's window; None: the empty page.
pub fn window_map(vcpu: u32, page: usize, mfn: Option<u64>) {
    let e = match mfn {
        Some(mfn) => mfn << 12 | P | RW | A | D | NX,
        None => boot_info().zero_frame << 12 | P | A | NX,
    };
    window_entry(vcpu, page).store(e, SeqCst);
    cpu::invlpg(tables::gdt_window(vcpu) + page as u64 * 4096);
}

/// set_gdt(frames, entries).
pub extern "C" fn set_gdt(list: u64, entries: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    if entries > 7168 {
        return -EINVAL;
    }
    let mut frames = [0u64; 14];
    for (i, f) in frames
        .iter_mut()
        .take(entries.div_ceil(512) as usize)
        .enumerate()
    {
        match read_guest(list.wrapping_add(i as u64 * 8)) {
            Ok(v) => *f = v,
            Err(_) => return -EFAULT,
        }
    }
    ok(install_gdt(current(), &frames, entries as u32))
}

/// Makes `frames` the vcpu's GDT.
///
/// # Errors
/// EINVAL if a frame cannot be a descriptor page; the old GDT stays then.
pub fn install_gdt(me: &Vcpu, frames: &[u64; 14], entries: u32) -> Result<(), i64> {
    let lock = types::lock();
    let pages = entries.div_ceil(512) as usize;
    for (i, mfn) in frames.iter().take(pages).enumerate() {
        if types::get(&lock, *mfn, TYPE_SEGDESC).is_err() {
            frames
                .iter()
                .take(i)
                .for_each(|mfn| types::put(&lock, *mfn));
            return Err(EINVAL);
        }
    }
    let old_pages = me.gdt_entries.get().div_ceil(512) as usize;
    for (i, slot) in me.gdt_frames.iter().enumerate() {
        if i < old_pages {
            types::put(&lock, slot.get());
        }
        slot.set(frames[i]);
        if i < pages || i < old_pages {
            window_map(me.id.get(), i, (i < pages).then_some(frames[i]));
        }
    }
    me.gdt_entries.set(entries);
    Ok(())
}

/// update_descriptor(machine address, descriptor).
pub extern "C" fn update_descriptor(ma: u64, desc: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    let mfn = ma >> 12;
    if ma & 7 != 0 || !rules::owned(mfn) {
        return -EINVAL;
    }
    let _lock = types::lock();
    let kind = frame::kind(frame_record(mfn).load(Relaxed));
    if kind != TYPE_NONE && kind != TYPE_SEGDESC {
        return -EINVAL;
    }
    match descriptors::fix(desc) {
        Ok(d) => {
            word(ma).store(d, SeqCst);
            0
        }
        Err(e) => -e,
    }
}

/// set_segment_base(which, base).
pub extern "C" fn set_segment_base(which: u64, base: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    let msr = match which as u32 {
        SEGBASE_FS => msr::FS_BASE,
        SEGBASE_GS_USER => msr::KERNEL_GS_BASE,
        SEGBASE_GS_KERNEL => msr::GS_BASE,
        SEGBASE_GS_USER_SEL => {
            cpu::swapgs();
            if !cpu::load_gs_selector(base as u16) {
                cpu::load_gs_selector(0);
            }
            cpu::swapgs();
            return 0;
        }
        _ => return -EINVAL,
    };
    if !canonical(base) {
        return -EINVAL;
    }
    cpu::wrmsr(msr, base);
    0
}

// ---- debug registers, FPU -------------------------------------------------------------

/// fpu_taskswitch(set).
pub extern "C" fn fpu_taskswitch(set: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    set_ts(current(), set != 0);
    0
}

/// set_debugreg(register, value).
pub extern "C" fn set_debugreg_call(reg: u64, value: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    ok(set_debugreg(current(), reg, value))
}

/// get_debugreg(register).
pub extern "C" fn get_debugreg_call(reg: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    u8::try_from(reg)
        .ok()
        .and_then(|r| get_debugreg(current(), r))
        .map_or(-ENODEV, |v| v as i64)
}

const CR4_DE: u64 = 1 << 3;

/// The register that 4 and 5 stand for; none if the guest set CR4.DE.
fn debugreg_index(me: &Vcpu, reg: u64) -> Option<u8> {
    match reg {
        0..=3 | 6 | 7 => Some(reg as u8),
        4 | 5 if me.guest_cr4.get() & CR4_DE == 0 => Some(reg as u8 + 2),
        _ => None,
    }
}

/// Writes a debug register of the guest.
///
/// # Errors
/// ENODEV, EPERM or EINVAL.
pub fn set_debugreg(me: &Vcpu, reg: u64, value: u64) -> Result<(), i64> {
    const DR7_GD: u64 = 1 << 13;
    const DR7_ENABLED: u64 = 0xff;
    let reg = debugreg_index(me, reg).ok_or(ENODEV)?;
    match reg {
        0..=3 => {
            if (HOLE_START..HOLE_END).contains(&value) || !canonical(value) {
                return Err(EPERM);
            }
            cpu::write_dr(reg, value);
        }
        6 => {
            if value >> 32 != 0 {
                return Err(EINVAL);
            }
            me.dr6.set(value & 0xe00f | 0xffff_0ff0);
        }
        _ => {
            if value >> 32 != 0 {
                return Err(EINVAL);
            }
            // I/O breakpoints (type 2) need CR4.DE
            let io = (0..4).any(|i| value >> (16 + i * 4) & 3 == 2 && value >> (i * 2) & 3 != 0);
            if value & DR7_GD != 0 || io && me.guest_cr4.get() & CR4_DE == 0 {
                return Err(EPERM);
            }
            let value = value & 0xffff_23ff | 0x400;
            me.dr7.set(value);
            if value & DR7_ENABLED != 0 || cpu::read_dr(7) & DR7_ENABLED != 0 {
                cpu::write_dr(7, value);
            }
        }
    }
    Ok(())
}

/// Reads a debug register of the guest.
pub fn get_debugreg(me: &Vcpu, reg: u8) -> Option<u64> {
    Some(match debugreg_index(me, u64::from(reg))? {
        6 => me.dr6.get(),
        7 => me.dr7.get(),
        n => cpu::read_dr(n),
    })
}

// ---- the small ones -------------------------------------------------------------------

/// vm_assist(cmd, type).
pub extern "C" fn vm_assist(cmd: u64, kind: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    let kind = kind as u32;
    if !matches!(cmd as u32, VMASST_CMD_ENABLE | VMASST_CMD_DISABLE) {
        return -ENOSYS;
    }
    if !matches!(
        kind,
        VMASST_TYPE_4GB_SEGMENTS..=VMASST_TYPE_RUNSTATE_UPDATE_FLAG | VMASST_TYPE_M2P_STRICT
    ) {
        return -EINVAL;
    }
    if cmd as u32 == VMASST_CMD_ENABLE {
        VM_ASSIST.fetch_or(1 << kind, Relaxed);
    } else {
        VM_ASSIST.fetch_and(!(1 << kind), Relaxed);
    }
    0
}

/// Whether the guest asked for an assist (`VMASST_TYPE_*`).
pub fn assist(kind: u32) -> bool {
    VM_ASSIST.load(Relaxed) >> kind & 1 != 0
}

fn architectural_iopl() -> bool {
    assist(VMASST_TYPE_ARCHITECTURAL_IOPL)
}

/// The IOPL bits of a bounce frame's rflags.
pub fn frame_iopl(me: &Vcpu) -> u64 {
    if architectural_iopl() {
        u64::from(me.iopl.get()) << 12
    } else {
        0
    }
}

/// Whether the vcpu may use I/O instructions in its present mode. A guest kernel counts as
/// ring 1, or as ring 0 with architectural IOPL.
pub fn io_allowed(me: &Vcpu) -> bool {
    let cpl = match me.kernel_mode.get() {
        0 => 3,
        _ if architectural_iopl() => 0,
        _ => 1,
    };
    me.iopl.get() >= cpl
}

/// physdev_op(cmd, arg).
pub extern "C" fn physdev_op(cmd: u64, arg: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    match cmd as u32 {
        PHYSDEVOP_SET_IOPL => match read_guest_u32(arg) {
            Err(_) => -EFAULT,
            Ok(level @ 0..=3) => {
                current().iopl.set(level as u8);
                0
            }
            Ok(_) => -EINVAL,
        },
        PHYSDEVOP_SET_IOBITMAP => match read_guest_u32(arg.wrapping_add(8)) {
            // accepted: no port has anything behind it
            Err(_) => -EFAULT,
            Ok(0..=65536) => 0,
            Ok(_) => -EINVAL,
        },
        _ => vmm::hypercall(HYPERVISOR_PHYSDEV_OP, [cmd, arg, 0, 0, 0, 0]),
    }
}

/// xen_version(cmd, arg). The version itself is also how a guest asks for pending events.
pub extern "C" fn xen_version(cmd: u64, arg: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    if cmd == 0 {
        return boot_info().xen_version as i64;
    }
    vmm::hypercall(HYPERVISOR_XEN_VERSION, [cmd, arg, 0, 0, 0, 0])
}

const _: () = assert!(mem::MAX_INSN == 15);
