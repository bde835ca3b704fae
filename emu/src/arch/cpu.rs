//! Privileged instructions, one function each.
//!
//! They are safe to call in the sense that each is either free of effects on Rust's
//! memory (ports, timestamps, flags) or only ever given values that keep the
//! emulator's own mappings in place; callers say which where it is not plain.

use core::arch::asm;

/// Reads a model-specific register.
pub fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reads a register that exists (callers pass constants); no memory effects.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi, options(nomem, nostack)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes a model-specific register.
pub fn wrmsr(msr: u32, value: u64) {
    // SAFETY: callers pass constants of registers whose values do not move the emulator's memory.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack))
    };
}

/// `out dx, eax`.
pub fn out32(port: u16, value: u32) {
    // SAFETY: the VMM may write the mailbox meanwhile, which is accessed volatile.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// Reads CR2, the address of the last page fault.
pub fn read_cr2() -> u64 {
    let v: u64;
    // SAFETY: no memory effects.
    unsafe { asm!("mov {}, cr2", out(reg) v, options(nomem, nostack)) };
    v
}

/// Reads CR0.
pub fn read_cr0() -> u64 {
    let v: u64;
    // SAFETY: no memory effects.
    unsafe { asm!("mov {}, cr0", out(reg) v, options(nomem, nostack)) };
    v
}

/// Writes CR0.
pub fn write_cr0(v: u64) {
    // SAFETY: callers change TS only.
    unsafe { asm!("mov cr0, {}", in(reg) v, options(nostack)) };
}

/// Reads CR4.
pub fn read_cr4() -> u64 {
    let v: u64;
    // SAFETY: no memory effects.
    unsafe { asm!("mov {}, cr4", out(reg) v, options(nomem, nostack)) };
    v
}

/// Writes CR4.
pub fn write_cr4(v: u64) {
    // SAFETY: callers change bits that do not alter paging of the emulator.
    unsafe { asm!("mov cr4, {}", in(reg) v, options(nostack)) };
}

/// Reads CR3.
pub fn read_cr3() -> u64 {
    let v: u64;
    // SAFETY: no memory effects.
    unsafe { asm!("mov {}, cr3", out(reg) v, options(nomem, nostack)) };
    v
}

/// Loads CR3; flushes the TLB but for global entries.
pub fn write_cr3(v: u64) {
    // SAFETY: every L4 that gets here was validated and holds the emulator's slots.
    unsafe { asm!("mov cr3, {}", in(reg) v, options(nostack)) };
}

/// Drops one address from the TLB.
pub fn invlpg(va: u64) {
    // SAFETY: loses only cached translations.
    unsafe { asm!("invlpg [{}]", in(reg) va, options(nostack)) };
}

/// Swaps the GS base with the one kept for the other guest mode.
pub fn swapgs() {
    // SAFETY: the emulator itself uses no GS.
    unsafe { asm!("swapgs", options(nomem, nostack)) };
}

/// Reads the time stamp counter.
pub fn rdtsc() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: no memory effects.
    unsafe { asm!("rdtsc", out("eax") lo, out("edx") hi, options(nomem, nostack)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Reads a debug register (0-3, 6, 7).
pub fn read_dr(n: u8) -> u64 {
    let v: u64;
    // SAFETY: no memory effects.
    unsafe {
        match n {
            0 => asm!("mov {}, dr0", out(reg) v, options(nomem, nostack)),
            1 => asm!("mov {}, dr1", out(reg) v, options(nomem, nostack)),
            2 => asm!("mov {}, dr2", out(reg) v, options(nomem, nostack)),
            3 => asm!("mov {}, dr3", out(reg) v, options(nomem, nostack)),
            6 => asm!("mov {}, dr6", out(reg) v, options(nomem, nostack)),
            _ => asm!("mov {}, dr7", out(reg) v, options(nomem, nostack)),
        }
    }
    v
}

/// Writes a debug register (0-3, 6, 7).
pub fn write_dr(n: u8, v: u64) {
    // SAFETY: breakpoints in the hypervisor hole were refused before; a breakpoint hit by
    // ring 0 on guest memory is handled (`trap::from_ring0`).
    unsafe {
        match n {
            0 => asm!("mov dr0, {}", in(reg) v, options(nostack)),
            1 => asm!("mov dr1, {}", in(reg) v, options(nostack)),
            2 => asm!("mov dr2, {}", in(reg) v, options(nostack)),
            3 => asm!("mov dr3, {}", in(reg) v, options(nostack)),
            6 => asm!("mov dr6, {}", in(reg) v, options(nostack)),
            _ => asm!("mov dr7, {}", in(reg) v, options(nostack)),
        }
    }
}

/// Loads GS with a selector; false if the CPU refuses it.
pub fn load_gs_selector(sel: u16) -> bool {
    let bad: u32;
    // SAFETY: faults are caught by the exception table; the emulator uses no GS.
    unsafe {
        asm!(
            "mov {bad:e}, 1",
            "2: mov gs, {sel:e}",
            "xor {bad:e}, {bad:e}",
            "3:",
            ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".popsection",
            bad = out(reg) bad, sel = in(reg) u32::from(sel), options(nostack)
        );
    }
    bad == 0
}

/// Reads the segment selectors es, ds, fs, gs.
pub fn data_selectors() -> [u16; 4] {
    let (es, ds, fs, gs): (u32, u32, u32, u32);
    // SAFETY: no memory effects.
    unsafe {
        asm!("mov {0:e}, es", "mov {1:e}, ds", "mov {2:e}, fs", "mov {3:e}, gs",
             out(reg) es, out(reg) ds, out(reg) fs, out(reg) gs, options(nomem, nostack));
    }
    [es as u16, ds as u16, fs as u16, gs as u16]
}

/// Lets the host know that the CPU spins.
pub fn pause() {
    core::hint::spin_loop();
}

/// Address of a symbol of the entry code.
macro_rules! entry_symbol {
    ($name:ident, $sym:literal, $doc:literal) => {
        #[doc = $doc]
        pub fn $name() -> u64 {
            let v: u64;
            // SAFETY: computes an address.
            unsafe {
                asm!(concat!("lea {}, [rip + ", $sym, "]"), out(reg) v, options(nomem, nostack))
            };
            v
        }
    };
}
entry_symbol!(syscall_entry, "syscall_entry", "SYSCALL's landing place.");
entry_symbol!(
    syscall32_entry,
    "syscall32_entry",
    "Compatibility-mode SYSCALL's landing place."
);
entry_symbol!(
    sysenter_entry,
    "sysenter_entry",
    "SYSENTER's landing place."
);
entry_symbol!(
    vector_stubs,
    "vector_stubs",
    "The first of 256 vector stubs, 16 bytes each."
);
entry_symbol!(gp_entry, "gp_entry", "Entry of #GP.");
entry_symbol!(pf_entry, "pf_entry", "Entry of #PF.");
entry_symbol!(timer_entry, "timer_entry", "Entry of the timer's vector.");
entry_symbol!(event_entry, "event_entry", "Entry of the event vector.");
entry_symbol!(
    fixup_bad_stack,
    "bad_stack",
    "Fix-up of writes to the guest's stack."
);
entry_symbol!(
    fixup_iret_fault,
    "iret_fault",
    "Fix-up of `iretq` to the guest."
);
entry_symbol!(
    fixup_bad_iret_frame,
    "bad_iret_frame",
    "Fix-up of reads of the iret frame."
);
entry_symbol!(
    idle_open,
    "idle_open",
    "First instruction of ring 0 that runs with interrupts on."
);
entry_symbol!(
    idle_resume,
    "idle_resume",
    "First instruction behind those that run with interrupts on."
);
entry_symbol!(
    extable_start,
    "__extable_start",
    "Start of the exception table."
);
entry_symbol!(extable_end, "__extable_end", "End of the exception table.");

unsafe extern "C" {
    fn idle_wait(save_rsp: *const u64);
}

/// Sleeps with interrupts on until one arrives; returns with interrupts off.
pub fn wait_for_interrupt(save_rsp: &core::cell::Cell<u64>) {
    // SAFETY: `idle_wait` saves the callee-saved registers and the stack pointer, and the
    // interrupt path of `from_ring0` returns to right behind its `hlt`.
    unsafe { idle_wait(save_rsp.as_ptr()) }
}

/// Leaves the start-up stack for the guest: loads `regs` and returns to ring 3.
pub fn enter_guest(regs: &xenner_emu_abi::mailbox::Regs) -> ! {
    // SAFETY: `regs` is a whole frame; `return_to_guest` pops it and leaves ring 0.
    unsafe { asm!("mov rsp, {}", "jmp return_to_guest", in(reg) regs, options(noreturn)) }
}

/// Stops for good.
pub fn dead_end() -> ! {
    loop {
        // SAFETY: interrupts are off; the vcpu sleeps for ever.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
