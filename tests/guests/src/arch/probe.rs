//! Running snippets: load all registers, run some bytes of code in kernel or
//! user mode, and see by which trap and with which registers it ended.
//!
//! A snippet ends by a trap; an `int3` after its last byte makes a good end.

#![expect(unsafe_code)]
// UNSAFETY: switches stacks and registers in assembly.

use super::entry::{SNIPPET_STACK_TOP, stack_base};
use super::memory;
use super::trap::{Regs, Trap};
use super::vcpu::{self, Hook};
use core::arch::naked_asm;
use xenner_xen_abi::arch_x86_64::{FLAT_USER_CS, FLAT_USER_SS, IretContext};

/// Offset of snippets in their page.
const AT: u64 = 0x100;

/// A snippet and what to run it with.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    code: &'a [u8],
    /// Registers to load; `rsp` 0 means the default stack.
    pub regs: Regs,
    /// Upcall mask while it runs.
    pub mask: u8,
    /// In user mode, by this `iret` frame.
    pub user: Option<IretContext>,
    /// Hook while it runs.
    pub hook: Option<Hook>,
}

/// How a snippet ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The trap that ended it.
    pub trap: Trap,
    /// Where its code was.
    pub start: u64,
    /// Bytes of its code.
    pub len: u64,
}

impl<'a> Probe<'a> {
    /// A snippet for kernel mode.
    pub fn kernel(code: &'a [u8]) -> Self {
        Self {
            code,
            regs: Regs::default(),
            mask: 1,
            user: None,
            hook: None,
        }
    }

    /// A snippet for user mode, at `USER_CODE` with the default user stack.
    pub fn user(code: &'a [u8]) -> Self {
        let frame = IretContext {
            cs: FLAT_USER_CS.into(),
            ss: FLAT_USER_SS.into(),
            rflags: 2,
            rsp: crate::harness::user::STACK_TOP,
            rip: crate::harness::user::CODE,
            ..IretContext::default()
        };
        Self {
            user: Some(frame),
            ..Self::kernel(code)
        }
    }

    /// With these registers.
    pub fn regs(mut self, regs: Regs) -> Self {
        self.regs = regs;
        self
    }

    /// With rax.
    pub fn rax(mut self, v: u64) -> Self {
        self.regs.rax = v;
        self
    }

    /// With rbx.
    pub fn rbx(mut self, v: u64) -> Self {
        self.regs.rbx = v;
        self
    }

    /// With rcx.
    pub fn rcx(mut self, v: u64) -> Self {
        self.regs.rcx = v;
        self
    }

    /// With rdx.
    pub fn rdx(mut self, v: u64) -> Self {
        self.regs.rdx = v;
        self
    }

    /// With rdi.
    pub fn rdi(mut self, v: u64) -> Self {
        self.regs.rdi = v;
        self
    }

    /// With this upcall mask.
    pub fn mask(mut self, v: u8) -> Self {
        self.mask = v;
        self
    }

    /// With a hook.
    pub fn hook(mut self, h: Hook) -> Self {
        self.hook = Some(h);
        self
    }

    /// Run it on this vCPU.
    pub fn run(self) -> Outcome {
        let v = vcpu::this();
        let user = self.user.is_some();
        let page = if user {
            crate::harness::user::code_alias()
        } else {
            v.code_page.get()
        };
        memory::put(page + AT, self.code);
        memory::put(page + AT + self.code.len() as u64, &[0xcc, 0xcc]);
        let mut regs = self.regs;
        let start = if user {
            crate::harness::user::CODE
        } else {
            page
        } + AT;
        v.hook.set(self.hook);
        v.set_mask(self.mask);
        if let Some(mut f) = self.user {
            f.rip = start;
            if regs.rsp != 0 {
                f.rsp = regs.rsp;
            }
            (f.rax, f.rcx, f.r11) = (regs.rax, regs.rcx, regs.r11);
            // SAFETY: the frame leads to user mode; every trap comes back by `leave`.
            unsafe { run_user(&raw const regs, &raw const f, v.snippet_sp.as_ptr()) };
        } else {
            if regs.rsp == 0 {
                regs.rsp = stack_base(vcpu::id()) + SNIPPET_STACK_TOP - 0x100;
            }
            // SAFETY: the code ends by a trap, which comes back by `leave`.
            unsafe { run_kernel(&raw const regs, start, v.snippet_sp.as_ptr()) };
        }
        v.hook.set(None);
        v.set_mask(1);
        Outcome {
            trap: v.trap.get(),
            start,
            len: self.code.len() as u64,
        }
    }
}

impl Outcome {
    /// Whether it ran to its end.
    pub fn done(&self) -> bool {
        self.trap.number == 3 && self.trap.rip == self.start + self.len + 1
    }

    /// Offset of the trap's rip in the snippet.
    pub fn offset(&self) -> u64 {
        self.trap.rip.wrapping_sub(self.start)
    }

    /// The registers at its end.
    pub fn regs(&self) -> &Regs {
        &self.trap.regs
    }
}

/// Run a test so that an unexpected trap ends it; false if one did.
pub fn guarded(f: extern "C" fn()) -> bool {
    let v = vcpu::this();
    // SAFETY: `leave` comes back here with everything that the ABI preserves.
    let done = unsafe { run_guarded(f, v.test_sp.as_ptr()) };
    v.test_sp.set(0);
    done != 0
}

/// Saves what the ABI preserves, runs a function; 1 if it returned, 0 after `leave`.
#[unsafe(naked)]
unsafe extern "C" fn run_guarded(f: extern "C" fn(), save: *mut u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rsi], rsp",
        "sub rsp, 8",
        "call rdi",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "mov eax, 1",
        "ret",
    )
}

/// Saves what the ABI preserves, loads registers and jumps.
#[unsafe(naked)]
unsafe extern "C" fn run_kernel(regs: *const Regs, target: u64, save: *mut u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdx], rsp",
        "mov rsp, [rdi + 120]",
        "push rsi",
        "mov r15, [rdi]",
        "mov r14, [rdi + 8]",
        "mov r13, [rdi + 16]",
        "mov r12, [rdi + 24]",
        "mov rbp, [rdi + 32]",
        "mov rbx, [rdi + 40]",
        "mov r10, [rdi + 48]",
        "mov r9, [rdi + 56]",
        "mov r8, [rdi + 64]",
        "mov rax, [rdi + 72]",
        "mov rdx, [rdi + 80]",
        "mov rsi, [rdi + 88]",
        "mov rcx, [rdi + 104]",
        "mov r11, [rdi + 112]",
        "mov rdi, [rdi + 96]",
        "ret",
    )
}

/// Saves what the ABI preserves and leaves by `iret`.
#[unsafe(naked)]
unsafe extern "C" fn run_user(regs: *const Regs, frame: *const IretContext, save: *mut u64) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov [rdx], rsp",
        "jmp {iret}",
        iret = sym iret_asm,
    )
}

/// Back to where a snippet or test was started.
pub fn leave(sp: u64) -> ! {
    // SAFETY: `sp` was saved by one of the functions above, whose frame is alive.
    unsafe { leave_asm(sp) }
}

#[unsafe(naked)]
unsafe extern "C" fn leave_asm(sp: u64) -> ! {
    naked_asm!(
        "mov rsp, rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "xor eax, eax",
        "ret",
    )
}

/// Load registers and issue the `iret` hypercall.
pub fn iret(regs: &Regs, frame: &IretContext) -> ! {
    // SAFETY: leaves this context for good.
    unsafe { iret_asm(&raw const *regs, &raw const *frame) }
}

#[cfg(not(feature = "hypercall_page"))]
#[unsafe(naked)]
unsafe extern "C" fn iret_asm(regs: *const Regs, frame: *const IretContext) -> ! {
    naked_asm!(
        // the frame stays where it is: nothing is pushed below it
        "mov rsp, rsi",
        "mov r15, [rdi]",
        "mov r14, [rdi + 8]",
        "mov r13, [rdi + 16]",
        "mov r12, [rdi + 24]",
        "mov rbp, [rdi + 32]",
        "mov rbx, [rdi + 40]",
        "mov r10, [rdi + 48]",
        "mov r9, [rdi + 56]",
        "mov r8, [rdi + 64]",
        "mov rdx, [rdi + 80]",
        "mov rsi, [rdi + 88]",
        "mov rdi, [rdi + 96]",
        "mov eax, 23",
        "syscall",
        "ud2",
    )
}

#[cfg(feature = "hypercall_page")]
#[unsafe(naked)]
unsafe extern "C" fn iret_asm(regs: *const Regs, frame: *const IretContext) -> ! {
    naked_asm!(
        // the page's stub pushes rcx, r11 and rax itself
        "lea rsp, [rsi + 24]",
        "mov rax, [rsi]", "mov r11, [rsi + 8]", "mov rcx, [rsi + 16]",
        "mov r15, [rdi]", "mov r14, [rdi + 8]", "mov r13, [rdi + 16]", "mov r12, [rdi + 24]",
        "mov rbp, [rdi + 32]", "mov rbx, [rdi + 40]", "mov r10, [rdi + 48]", "mov r9, [rdi + 56]",
        "mov r8, [rdi + 64]", "mov rdx, [rdi + 80]", "mov rsi, [rdi + 88]", "mov rdi, [rdi + 96]",
        "jmp {page} + 23 * 32",
        page = sym super::entry::pvtest_hypercall_page,
    )
}
