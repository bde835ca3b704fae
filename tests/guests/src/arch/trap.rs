//! Trap entry: bounce frames become `Trap` records, then go to the event
//! handler, a test's hook, the end of the snippet that runs, or the end of the
//! test.

#![expect(unsafe_code)]
// UNSAFETY: reads bounce frames off the stack, leaves by assembly.

use super::entry::{STUB_EVENT, STUB_FAILSAFE};
use super::probe;
use super::vcpu::{self, Vcpu};
use xenner_xen_abi::arch_x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, IretContext};

/// General registers, in the order in which the stubs push them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rcx: u64,
    pub r11: u64,
    pub rsp: u64,
}

/// A trap or callback, as the bounce frame told it.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// Vector, or `STUB_*`.
    pub number: u16,
    /// Registers at the trap.
    pub regs: Regs,
    /// Error code, 0 if the vector has none.
    pub error: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// The frame's word with cs and the saved upcall mask.
    pub cs_word: u64,
    /// Flags.
    pub rflags: u64,
    /// The frame's ss word.
    pub ss: u64,
    /// ds, es, fs, gs of a failsafe frame.
    pub segments: [u64; 4],
    /// Address of the frame.
    pub frame: u64,
    /// Upcall mask when the handler started.
    pub mask: u8,
    /// cr2 of the vCPU record when the handler started.
    pub cr2: u64,
    /// cs, ss that the handler ran with.
    pub handler_cs: u16,
    /// Its ss.
    pub handler_ss: u16,
    /// Its flags.
    pub handler_rflags: u64,
}

/// What to do with a trap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Go on where it happened, with the registers of the record.
    Resume,
    /// End the snippet.
    End,
}

/// Whether the vector pushes an error code.
pub fn has_error_code(number: u16) -> bool {
    matches!(number, 8 | 10..=14 | 17 | 21)
}

impl Trap {
    /// No trap.
    pub const NONE: Self = Self {
        number: 0,
        regs: Regs {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            rcx: 0,
            r11: 0,
            rsp: 0,
        },
        error: 0,
        rip: 0,
        cs_word: 0,
        rflags: 0,
        ss: 0,
        segments: [0; 4],
        frame: 0,
        mask: 0,
        cr2: 0,
        handler_cs: 0,
        handler_ss: 0,
        handler_rflags: 0,
    };

    /// Whether it came from user mode.
    pub fn is_user(&self) -> bool {
        self.cs_word & 3 == 3
    }

    /// Upcall mask that the frame saved.
    pub fn saved_mask(&self) -> u8 {
        (self.cs_word >> 32) as u8
    }

    /// Reads a frame: the stubs' pushes, then Xen's frame.
    fn read(raw: *const u64) -> Self {
        // SAFETY: `raw` is the stack pointer after the stub's pushes; the
        // frame above it is complete.
        let w = |i: usize| unsafe { raw.add(i).read() };
        let number = w(13) as u16;
        let mut at = 16;
        let mut t = Self {
            number,
            frame: raw as u64 + 14 * 8,
            ..Self::NONE
        };
        if number == STUB_FAILSAFE {
            t.segments = [w(16), w(17), w(18), w(19)];
            at += 4;
        } else if has_error_code(number) {
            t.error = w(16);
            at += 1;
        }
        (t.rip, t.cs_word, t.rflags, t.ss) = (w(at), w(at + 1), w(at + 2), w(at + 4));
        t.regs = Regs {
            r15: w(0),
            r14: w(1),
            r13: w(2),
            r12: w(3),
            rbp: w(4),
            rbx: w(5),
            r10: w(6),
            r9: w(7),
            r8: w(8),
            rax: w(9),
            rdx: w(10),
            rsi: w(11),
            rdi: w(12),
            rcx: w(14),
            r11: w(15),
            rsp: w(at + 3),
        };
        t
    }
}

/// Called by the stubs; never returns to them.
#[unsafe(no_mangle)]
extern "C" fn pvtest_trap(raw: *const u64) -> ! {
    let (cs, ss, flags): (u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        core::arch::asm!("mov {0:e}, cs", "mov {1:e}, ss", "pushfq", "pop {2}", out(reg) cs, out(reg) ss, out(reg) flags);
    }
    let v = vcpu::this();
    let mut t = Trap::read(raw);
    t.mask = v.mask();
    t.cr2 = super::memory::read64(v.info.get() + 16);
    (t.handler_cs, t.handler_ss, t.handler_rflags) = (cs as u16, ss as u16, flags);
    if let Some(hook) = v.hook.get() {
        if hook(&mut t) == Action::Resume {
            v.resumed.set(v.resumed.get() + 1);
            resume(&t)
        }
    } else if t.number == STUB_EVENT {
        v.upcalls.set(v.upcalls.get() + 1);
        crate::harness::events::handle(v);
        resume(&t)
    }
    end(v, t)
}

/// End the snippet, the test, or the kernel.
fn end(v: &Vcpu, t: Trap) -> ! {
    v.trap.set(t);
    v.set_mask(1);
    v.hook.set(None);
    if v.snippet_sp.get() != 0 {
        probe::leave(v.snippet_sp.replace(0))
    }
    if v.test_sp.get() != 0 {
        probe::leave(v.test_sp.replace(0))
    }
    crate::harness::runner::die(format_args!("trap outside of a test: {t:x?}"))
}

/// Go on where a trap happened, by the `iret` hypercall.
pub fn resume(t: &Trap) -> ! {
    let iret = IretContext {
        rax: t.regs.rax,
        r11: t.regs.r11,
        rcx: t.regs.rcx,
        flags: 0,
        rip: t.rip,
        cs: t.cs_word & 0xffff,
        rflags: t.rflags,
        rsp: t.regs.rsp,
        ss: t.ss & 0xffff,
    };
    probe::iret(&t.regs, &iret)
}

/// Kernel selectors as 16-bit words of a frame: cs with its RPL cleared.
pub const FRAME_KERNEL_CS: u64 = (FLAT_KERNEL_CS & !3) as u64;
/// The kernel's ss.
pub const FRAME_KERNEL_SS: u64 = FLAT_KERNEL_SS as u64;
