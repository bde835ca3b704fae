//! Traps: what the CPU reports, and what the guest is told of it.
//!
//! Sources: docs/traps.md; frames and error codes as real Xen makes them.

pub mod bounce;
pub mod msr;
pub mod page_fault;
pub mod privileged;

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenner_emu_abi::boot::FLAG_RING0_SLOW;
use xenner_emu_abi::layout::TRAMPOLINE_VA;
use xenner_emu_abi::mailbox::{
    CrashReason, Regs, VECTOR_CALL, VECTOR_EVENT, VECTOR_NMI, VECTOR_TIMER,
};
use xenner_xen_abi::callback::{
    CALLBACKTYPE_EVENT, CALLBACKTYPE_FAILSAFE, CALLBACKTYPE_SYSCALL, CALLBACKTYPE_SYSCALL32,
    CALLBACKTYPE_SYSENTER,
};
use xenner_xen_abi::xen::HYPERVISOR_IRET;

use self::bounce::Extra;
use crate::arch::cpu;
use crate::hypercall::{self, vcpu_op};
use crate::mem::{
    boot_info, current, extable_fixup, interrupted_frame, read_guest_u8, return_frame,
};
use crate::percpu::{MASK_EVENTS, STATE_UP, Vcpu};
use crate::{event, smp, time, time_area, vmm};

/// Pseudo vectors of the entry code.
const SYSCALL: u32 = 256;
const SYSCALL32: u32 = 257;
const SYSENTER: u32 = 258;
/// The timer's short way stopped after it raised the VIRQ.
pub const TIMER_RAISED: u32 = 259;
/// The timer's short way stopped after it acknowledged the interrupt.
pub const TIMER_ACKNOWLEDGED: u32 = 260;

const X2APIC_EOI: u32 = 0x80b;
const DR6_TRAPS: u64 = 0xe00f;

const RFLAGS_DF: u64 = 1 << 10;

/// The CPU came from ring 3.
pub extern "C" fn from_guest(regs: &mut Regs) {
    let me = current();
    let vector = (regs.error >> 32) as u32;
    let code = regs.error as u32;
    match vector {
        14 => page_fault::handle(me, regs, code),
        13 => general_protection(me, regs, code),
        6 => privileged::invalid_opcode(me, regs),
        7 => device_not_available(me, regs),
        1 => debug_trap(me, regs),
        3 | 4 => bounce::exception(me, regs, vector, None),
        0x80 => software_interrupt(me, regs, 0x80, 0, (0x80 << 3) | 2),
        SYSCALL | SYSCALL32 | SYSENTER => system_call(me, regs, vector),
        TIMER_RAISED => event::wake_pollers(),
        TIMER_ACKNOWLEDGED => time::on_timer(me),
        0..32 => {
            let code = has_error_code(vector).then_some(code);
            bounce::exception(me, regs, vector, code);
        }
        _ => interrupt(me, vector),
    }
    finish(me, regs);
}

fn debug_trap(me: &Vcpu, regs: &mut Regs) {
    const ICEBP: u8 = 0xf1;
    const CAUSES: u64 = 0x400f;
    let dr6 = cpu::read_dr(6);
    me.dr6.set(me.dr6.get() | dr6 & DR6_TRAPS);
    cpu::write_dr(6, 0xffff_0ff0);
    // where ring 0 is interpreted, ICEBP is reported at the instruction and not behind it
    let slow = boot_info().flags & FLAG_RING0_SLOW != 0;
    if slow && dr6 & CAUSES == 0 && read_guest_u8(regs.rip) == Ok(ICEBP) {
        regs.rip = regs.rip.wrapping_add(1);
    }
    bounce::exception(me, regs, 1, None);
}

/// Whether the CPU pushes an error code for an exception.
fn has_error_code(vector: u32) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

fn device_not_available(me: &Vcpu, regs: &mut Regs) {
    set_ts(me, false);
    bounce::exception(me, regs, 7, None);
}

/// Sets the virtual and the real CR0.TS.
pub fn set_ts(me: &Vcpu, on: bool) {
    const TS: u64 = 1 << 3;
    if me.ts.replace(on) != on {
        let cr0 = cpu::read_cr0();
        cpu::write_cr0(if on { cr0 | TS } else { cr0 & !TS });
    }
}

fn general_protection(me: &Vcpu, regs: &mut Regs, code: u32) {
    if code == 0 && regs.rip == TRAMPOLINE_VA {
        return hypercall::from_trampoline(me, regs);
    }
    if code & 2 != 0 {
        // INT n: the error code names the gate
        return software_interrupt(me, regs, (code >> 3) as u8, 2, code);
    }
    if code == 0 && privileged::emulate(me, regs) {
        return;
    }
    bounce::exception(me, regs, 13, Some(code));
}

/// INT n with n other than 3 and 4: `advance` bytes to the next instruction.
pub fn software_interrupt(me: &Vcpu, regs: &mut Regs, vector: u8, advance: u64, code: u32) {
    let handler = me.traps[usize::from(vector)].get();
    let dpl_needed = if me.kernel_mode.get() == 1 { 1 } else { 3 };
    if handler.rip != 0 && handler.flags & 3 >= dpl_needed {
        regs.rip = regs.rip.wrapping_add(advance);
        bounce::to(me, regs, handler, Extra::None);
    } else {
        if advance == 0 {
            regs.rip = regs.rip.wrapping_sub(2);
        }
        bounce::exception(me, regs, 13, Some(code));
    }
}

/// SYSCALL or SYSENTER of guest user mode, on the general path.
fn system_call(me: &Vcpu, regs: &mut Regs, vector: u32) {
    let kind = match vector {
        SYSCALL => CALLBACKTYPE_SYSCALL,
        SYSCALL32 => CALLBACKTYPE_SYSCALL32,
        _ => CALLBACKTYPE_SYSENTER,
    };
    let handler = me.callbacks[usize::from(kind)].get();
    if handler.rip != 0 {
        bounce::to(me, regs, handler, Extra::None);
        regs.rflags &= !RFLAGS_DF;
    } else if vector == SYSENTER {
        bounce::exception(me, regs, 13, Some(0));
    } else {
        regs.rip = regs.rip.wrapping_sub(2);
        bounce::exception(me, regs, 6, None);
    }
}

fn interrupt(me: &Vcpu, vector: u32) {
    match vector as u8 {
        VECTOR_TIMER => {
            cpu::wrmsr(X2APIC_EOI, 0);
            time::on_timer(me);
        }
        VECTOR_EVENT => cpu::wrmsr(X2APIC_EOI, 0),
        VECTOR_CALL => {
            cpu::wrmsr(X2APIC_EOI, 0);
            smp::serve_flush(me);
            vcpu_op::take_info(me);
            time_area::follow(me);
            if me.idle_rsp.get() == 0 || !me.idle.load(Relaxed) {
                vcpu_op::park_if_down(me);
            }
        }
        VECTOR_NMI => {
            cpu::wrmsr(X2APIC_EOI, 0);
            // one that is not there gets none when it comes
            if me.state.load(Relaxed) == STATE_UP {
                me.nmi_pending.store(true, SeqCst);
            }
        }
        // spurious interrupts want no EOI
        _ => {}
    }
}

/// Last look before the guest goes on: delivers an NMI or an upcall.
pub fn finish(me: &Vcpu, regs: &mut Regs) {
    if me.nmi_pending.load(Relaxed) && !me.nmi_blocked.get() && me.traps[2].get().rip != 0 {
        me.nmi_pending.store(false, SeqCst);
        me.nmi_blocked.set(true);
        bounce::to(me, regs, me.traps[2].get(), Extra::None);
        return;
    }
    if event::deliverable(me) {
        let handler = me.callbacks[usize::from(CALLBACKTYPE_EVENT)].get();
        if handler.rip != 0 {
            bounce::to(
                me,
                regs,
                crate::percpu::Handler {
                    flags: MASK_EVENTS,
                    ..handler
                },
                Extra::None,
            );
        }
    }
}

/// A hypercall ends with an upcall to be delivered.
pub extern "C" fn upcall_after_hypercall(regs: &mut Regs) {
    let me = current();
    finish(me, regs);
}

/// The iret hypercall where the short way does not do: `regs` is the context asked for,
/// with the frame's flags in the error slot and the event mask already set by its IF.
pub extern "C" fn iret_slow(regs: &mut Regs) {
    const VGCF_IN_SYSCALL: u64 = 1 << 8;
    let me = current();
    let to_user = regs.cs & 3 != 0;
    regs.cs |= 3;
    regs.ss |= 3;
    if regs.error & VGCF_IN_SYSCALL != 0 {
        regs.rcx = regs.rip;
        regs.r11 = regs.rflags;
    }
    if to_user {
        if me.user_cr3.get() == 0 {
            vmm::crash(CrashReason::NoUserBase, regs);
        }
        me.kernel_mode.set(0);
        cpu::swapgs();
        cpu::write_cr3(me.user_cr3.get());
    }
    finish(me, regs);
}

/// A hypercall by a way that has the whole frame: patches, the first SYSCALL of a site.
pub fn iret_general(me: &Vcpu, regs: &mut Regs) {
    use crate::mem::read_guest;
    let sp = regs.rsp;
    let mut frame = [0u64; 9];
    for (i, w) in frame.iter_mut().enumerate() {
        match read_guest(sp.wrapping_add(i as u64 * 8)) {
            Ok(v) => *w = v,
            Err(_) => vmm::crash(CrashReason::BadIretFrame, regs),
        }
    }
    let [rax, r11, rcx, flags, rip, cs, rflags, rsp, ss] = frame;
    event::set_masked(me, rflags & 0x200 == 0);
    me.nmi_blocked.set(false);
    *regs = Regs {
        rax,
        r11,
        rcx,
        rip,
        rsp,
        error: flags & 0xffff_ffff,
        cs: cs & 0xffff,
        ss: ss & 0xffff,
        rflags: rflags & 0x0024_4fd7 | 0x202,
        ..*regs
    };
    const { assert!(HYPERVISOR_IRET == 23) };
    iret_slow(regs);
}

/// The CPU came from ring 0: an interrupt ended `hlt`, or an access to guest memory faulted.
///
/// Returns 0 to go on in ring 0 where `regs` now says, an address with bit 0 set to enter the guest
/// with the frame there, or the stack pointer of the interrupted sleep.
pub extern "C" fn from_ring0(regs: &mut Regs) -> u64 {
    let me = current();
    let vector = (regs.error >> 32) as u32;
    if vector >= 32 {
        if (cpu::idle_open()..cpu::idle_resume()).contains(&regs.rip) {
            interrupt(me, vector);
            return me.idle_rsp.get();
        }
        // Interrupts are off here. QEMU's TCG delivers an injected one a second time now and then,
        // whatever IF says (helper_vmrun leaves its exception_index set): the first one is under
        // way, and nothing is owed to this one.
        return resume_at(regs, regs.rip);
    }
    if vector == 1 {
        // a guest's breakpoint on memory that the emulator touched for it: noted, not fatal
        me.dr6.set(me.dr6.get() | cpu::read_dr(6) & DR6_TRAPS);
        cpu::write_dr(7, 0x400);
        return resume_at(regs, regs.rip);
    }
    let Some(fixup) = extable_fixup(regs.rip) else {
        vmm::panic(format_args!(
            "trap {vector} (error {:#x}) in the emulator at {:#x}, cr2 {:#x}, rsp {:#x}",
            regs.error as u32,
            regs.rip,
            cpu::read_cr2(),
            regs.rsp
        ));
    };
    if fixup == cpu::fixup_bad_stack() {
        vmm::crash(CrashReason::BadStack, regs);
    }
    if fixup == cpu::fixup_bad_iret_frame() {
        vmm::crash(CrashReason::BadIretFrame, regs);
    }
    if fixup == cpu::fixup_iret_fault() {
        return refused_context(me, regs);
    }
    resume_at(regs, fixup)
}

fn resume_at(regs: &mut Regs, rip: u64) -> u64 {
    interrupted_frame(regs, rip);
    0
}

/// `iretq` faulted: the context that the guest asked for is not one. The failsafe callback
/// is told, or the domain crashes.
fn refused_context(me: &Vcpu, regs: &Regs) -> u64 {
    let mut wanted = crate::mem::iretq_frame(regs);
    let handler = me.callbacks[usize::from(CALLBACKTYPE_FAILSAFE)].get();
    if handler.rip == 0 {
        vmm::crash(CrashReason::BadContext, &wanted);
    }
    bounce::to(
        me,
        &mut wanted,
        handler,
        Extra::Selectors(cpu::data_selectors()),
    );
    finish(me, &mut wanted);
    return_frame(me, &wanted)
}

/// Fix-ups without registers end here.
pub extern "C" fn fatal(reason: u64) -> ! {
    let reason = if reason == 4 {
        CrashReason::NoUserBase
    } else {
        CrashReason::BadIretFrame
    };
    vmm::crash(reason, &Regs::default())
}
