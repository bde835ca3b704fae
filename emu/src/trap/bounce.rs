//! Bounce frames: entering the guest kernel at one of its handlers.
//!
//! The frame, from low to high addresses: rcx, r11, \[error code or data selectors\], rip,
//! cs with the saved event mask in bits 32-39, rflags, rsp, ss (64-bit Xen's
//! `create_bounce_frame`). cs shows privilege 0 for guest kernel mode.

use xenner_emu_abi::layout::HOLE_SHIFT;
use xenner_emu_abi::mailbox::{CrashReason, Regs};
use xenner_xen_abi::arch_x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};

use crate::arch::cpu;
use crate::event;
use crate::hypercall::misc;
use crate::mem::{Fault, write_guest_words};
use crate::percpu::{Handler, MASK_EVENTS, Vcpu};
use crate::vmm;

const IF: u64 = 1 << 9;
const IOPL: u64 = 3 << 12;
/// Cleared on entry to a handler: TF, NT, RF, VM, AC.
const CLEARED: u64 = 1 << 8 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 18;

/// What stands between r11 and rip.
#[derive(Clone, Copy, Debug)]
pub enum Extra {
    /// Nothing.
    None,
    /// An error code.
    Code(u32),
    /// es, ds, fs, gs as read; the failsafe frame wants ds, es, fs, gs.
    Selectors([u16; 4]),
}

/// Delivers an exception to the handler in the guest's trap table.
pub fn exception(me: &Vcpu, regs: &mut Regs, vector: u32, code: Option<u32>) {
    let handler = me.traps[vector as usize & 255].get();
    to(me, regs, handler, code.map_or(Extra::None, Extra::Code));
}

/// Makes `regs` enter the guest kernel at `handler`, with a frame of what they were.
pub fn to(me: &Vcpu, regs: &mut Regs, handler: Handler, extra: Extra) {
    if handler.rip == 0 {
        vmm::crash(CrashReason::NoHandler, regs);
    }
    let from_user = me.kernel_mode.get() == 0;
    let cs = if from_user {
        regs.cs & 0xffff
    } else {
        regs.cs & 0xfffc
    };
    let sp = if from_user {
        enter_kernel(me);
        me.kernel_sp()
    } else {
        regs.rsp & !15
    };
    let masked = event::masked(me);
    let mut rflags = regs.rflags & !(IF | IOPL) | misc::frame_iopl(me);
    if !masked {
        rflags |= IF;
    }
    let frame = Frame {
        sp,
        regs,
        cs: cs | u64::from(masked) << 32,
        rflags,
    };
    match frame.push(extra) {
        Ok(sp) => regs.rsp = sp,
        Err(Fault) => vmm::crash(CrashReason::BadStack, regs),
    }
    regs.rip = handler.rip;
    regs.cs = u64::from(FLAT_KERNEL_CS);
    regs.ss = u64::from(FLAT_KERNEL_SS);
    regs.rflags = regs.rflags & !(CLEARED | IOPL) | IF;
    if handler.flags & MASK_EVENTS != 0 {
        event::set_masked(me, true);
    }
}

/// From guest user to guest kernel mode: address space, GS base, the mode itself.
pub fn enter_kernel(me: &Vcpu) {
    cpu::write_cr3(me.kernel_cr3.get());
    cpu::swapgs();
    me.kernel_mode.set(1);
}

struct Frame<'a> {
    sp: u64,
    regs: &'a Regs,
    cs: u64,
    rflags: u64,
}

impl Frame<'_> {
    /// Writes the frame below `sp`; returns the new stack pointer.
    fn push(&self, extra: Extra) -> Result<u64, Fault> {
        let r = self.regs;
        let (rip, cs, rflags, rsp, ss) = (r.rip, self.cs, self.rflags, r.rsp, r.ss & 0xffff);
        match extra {
            Extra::None => self.write(&[r.rcx, r.r11, rip, cs, rflags, rsp, ss]),
            Extra::Code(code) => {
                let code = u64::from(code);
                self.write(&[r.rcx, r.r11, code, rip, cs, rflags, rsp, ss])
            }
            Extra::Selectors(selectors) => {
                // es, ds, fs, gs as they come; the frame has ds first
                let [es, ds, fs, gs] = selectors.map(u64::from);
                self.write(&[r.rcx, r.r11, ds, es, fs, gs, rip, cs, rflags, rsp, ss])
            }
        }
    }

    fn write(&self, words: &[u64]) -> Result<u64, Fault> {
        let sp = self.sp.wrapping_sub(words.len() as u64 * 8);
        write_guest_words(sp, words).map(|()| sp)
    }
}

/// Whether a stack pointer given by the guest may be used for frames.
pub fn stack_allowed(sp: u64) -> bool {
    // frames grow down: the page below must be outside the hole as well
    sp.wrapping_sub(1) >> HOLE_SHIFT != xenner_emu_abi::layout::HOLE_TAG
        && sp.wrapping_sub(256) >> HOLE_SHIFT != xenner_emu_abi::layout::HOLE_TAG
}
