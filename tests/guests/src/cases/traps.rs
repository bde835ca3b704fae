//! Bounce frames: which traps, with what frame, from kernel and user mode.

use super::t;
use crate::arch::entry::{KERNEL_SP_TOP, SNIPPET_STACK_TOP, stack_base};
use crate::arch::probe::{Outcome, Probe};
use crate::arch::trap::{Action, FRAME_KERNEL_CS, FRAME_KERNEL_SS, Regs, Trap};
use crate::arch::vcpu::this;
use crate::harness::machine::hosted;
use crate::harness::runner::{Result, Test, need_user};
use crate::harness::user;
use crate::{check, code, same, skip};
use xenner_xen_abi::arch_x86_64::*;
use xenner_xen_abi::vcpu::VCPUOP_SEND_NMI;
use xenner_xen_abi::xen::HYPERVISOR_VCPU_OP;

pub const TESTS: &[Test] = &[
    t("trap-exceptions", exceptions),
    t("trap-exceptions-user", exceptions_user),
    t("trap-frame-kernel", frame_kernel),
    t("trap-frame-user", frame_user),
    t("trap-upcall-mask", upcall_mask),
    t("trap-page-fault", page_fault),
    t("trap-page-fault-user", page_fault_user),
    t("trap-non-canonical", non_canonical),
    t("trap-single-step", single_step),
    t("trap-single-step-user", single_step_user),
    t("trap-icebp", icebp),
    t("trap-int-n", int_n),
    t("trap-int-n-user", int_n_user),
    t("trap-alignment-check", alignment),
    t("trap-watchpoint", watchpoint),
    t("trap-resume", resume),
    t("trap-segment-load", segment_load),
    t("trap-iretq", iretq),
    t("trap-nmi", nmi),
];

/// A snippet, its vector, the offset of the frame's rip, its error code.
type Case = (&'static str, &'static [u8], u16, u64, u64);

fn cases() -> [Case; 9] {
    [
        (
            "div by zero",
            code!("nop", "xor ecx, ecx", "div ecx"),
            0,
            3,
            0,
        ),
        ("int3", code!("nop", "int3"), 3, 2, 0),
        ("ud2", code!("nop", "ud2"), 6, 1, 0),
        ("hlt", code!("nop", "hlt"), 13, 1, 0),
        ("lgdt", code!("nop", "lgdt [rsp]"), 13, 1, 0),
        ("swapgs", code!("nop", "swapgs"), 13, 1, 0),
        ("invlpg", code!("nop", "invlpg [rsp]"), 13, 1, 0),
        (
            "mov ds, bad",
            code!("nop", "mov eax, 0xabc8", "mov ds, eax"),
            13,
            6,
            0xabc8,
        ),
        ("ltr", code!("nop", "ltr ax"), 13, 1, 0),
    ]
}

fn judge(case: &Case, o: &Outcome) -> Result {
    let (what, _, vector, offset, error) = case;
    same!(o.trap.number, *vector, "{what}: vector");
    same!(o.offset(), *offset, "{what}: rip");
    same!(o.trap.error, *error, "{what}: error code");
    Ok(())
}

fn exceptions() -> Result {
    for c in cases() {
        let o = Probe::kernel(c.1).run();
        judge(&c, &o)?;
        check!(!o.trap.is_user(), "{}: cs {:#x}", c.0, o.trap.cs_word);
    }
    Ok(())
}

fn exceptions_user() -> Result {
    need_user()?;
    for c in cases() {
        let o = Probe::user(c.1).run();
        judge(&c, &o)?;
        check!(o.trap.is_user(), "{}: cs {:#x}", c.0, o.trap.cs_word);
    }
    for c in [
        ("cli", code!("nop", "cli"), 13, 1, 0),
        ("in", code!("nop", "in al, 0x80"), 13, 1, 0),
        ("mov cr0", code!("nop", "mov rax, cr0"), 13, 1, 0),
        ("rdmsr", code!("nop", "rdmsr"), 13, 1, 0),
        ("mov dr7", code!("nop", "mov rax, dr7"), 13, 1, 0),
    ] {
        judge(&c, &Probe::user(c.1).run())?;
    }
    Ok(())
}

/// All registers with a value of their own.
fn marked() -> Regs {
    Regs {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rbp: 7,
        r8: 8,
        r9: 9,
        r10: 10,
        r11: 11,
        r12: 12,
        r13: 13,
        r14: 14,
        r15: 15,
        rsp: 0,
    }
}

fn frame_kernel() -> Result {
    for low in 0..16 {
        let sp = stack_base(0) + SNIPPET_STACK_TOP - 0x200 + low;
        let regs = Regs {
            rsp: sp,
            ..marked()
        };
        for (bytes, words) in [(code!("ud2"), 7), (code!("hlt"), 8)] {
            let t = Probe::kernel(bytes).regs(regs).run().trap;
            check!(t.regs == regs, "registers {:x?}, not {regs:x?}", t.regs);
            same!(
                t.frame,
                (sp & !15) - words * 8,
                "frame address, rsp {sp:#x}"
            );
            same!(t.cs_word & 0xffff, FRAME_KERNEL_CS, "cs");
            same!(t.ss & 0xffff, FRAME_KERNEL_SS, "ss");
            same!(t.cs_word >> 40, 0, "upper bits of cs ({:#x})", t.cs_word);
            same!(t.rflags & 0x3000, 0, "IOPL ({:#x})", t.rflags);
            same!(t.handler_rflags & 0x6_7300, 0x200, "flags of the handler");
        }
    }
    Ok(())
}

fn frame_user() -> Result {
    need_user()?;
    let regs = Regs {
        rsp: user::STACK_TOP - 13,
        ..marked()
    };
    for (bytes, words) in [(code!("ud2"), 7), (code!("hlt"), 8)] {
        let mut p = Probe::user(bytes).regs(regs);
        if let Some(f) = p.user.as_mut() {
            f.rflags = 0x2 | 0x8d5 | 0x4_0000;
        }
        let t = p.run().trap;
        check!(t.regs == regs, "registers {:x?}, not {regs:x?}", t.regs);
        same!(
            t.frame,
            stack_base(0) + KERNEL_SP_TOP - words * 8,
            "frame address"
        );
        same!(t.cs_word & 0xffff, u64::from(FLAT_USER_CS), "cs");
        same!(t.ss & 0xffff, u64::from(FLAT_USER_SS), "ss");
        same!(
            t.rflags & 0x4_08d5,
            0x4_08d5,
            "flags of the user ({:#x})",
            t.rflags
        );
        // TF, AC, NT are clear in the handler
        same!(t.handler_rflags & 0x5_4100, 0, "flags of the handler");
    }
    Ok(())
}

fn upcall_mask() -> Result {
    // vector 6 masks events, 0x80 does not
    for (mask, what) in [(0, "open"), (1, "masked")] {
        let t = Probe::kernel(code!("ud2")).mask(mask).run().trap;
        same!(t.saved_mask(), mask, "saved mask, {what}");
        same!(
            t.rflags >> 9 & 1,
            u64::from(mask == 0),
            "IF of the frame, {what}"
        );
        same!(t.mask, 1, "mask in a handler that masks, {what}");
        let t = Probe::kernel(code!("int 0x80")).mask(mask).run().trap;
        same!(t.number, 0x80, "vector of int 0x80");
        same!(t.saved_mask(), mask, "saved mask of int 0x80, {what}");
        same!(t.mask, mask, "mask in a handler that does not, {what}");
    }
    Ok(())
}

fn page_fault() -> Result {
    let none = 0xffff_9a00_0000_0000;
    let ro = crate::harness::machine::info().pt_base;
    for (what, bytes, va, error) in [
        ("read", code!("mov rax, [rbx]"), none, 0),
        ("write", code!("mov [rbx], rax"), none, 2),
        ("write read-only", code!("mov [rbx], rax"), ro, 3),
        ("read low", code!("mov rax, [rbx]"), 0x1000, 0),
    ] {
        let t = Probe::kernel(bytes).rbx(va).run().trap;
        same!(t.number, 14, "{what}: vector");
        same!(t.cr2, va, "{what}: cr2");
        same!(t.error, error, "{what}: error code");
    }
    let t = Probe::kernel(code!("jmp rbx")).rbx(none).run().trap;
    same!(t.number, 14, "fetch: vector");
    same!(t.rip, none, "fetch: rip");
    same!(t.error & !0x10, 0, "fetch: error code");
    same!(t.cr2, none, "fetch: cr2");
    Ok(())
}

fn page_fault_user() -> Result {
    need_user()?;
    for (what, bytes, va, error) in [
        ("read", code!("mov rax, [rbx]"), user::NONE, 4),
        ("write", code!("mov [rbx], rax"), user::NONE, 6),
        ("write read-only", code!("mov [rbx], rax"), user::RO, 7),
        (
            "read kernel",
            code!("mov rax, [rbx]"),
            crate::arch::entry::VIRT_BASE,
            4,
        ),
    ] {
        let t = Probe::user(bytes).rbx(va).run().trap;
        same!(t.number, 14, "{what}: vector");
        same!(t.cr2, va, "{what}: cr2");
        same!(t.error, error, "{what}: error code");
        check!(t.is_user(), "{what}: cs {:#x}", t.cs_word);
    }
    let t = Probe::user(code!("jmp rbx")).rbx(user::NOEXEC).run().trap;
    same!(t.number, 14, "fetch from a page with NX: vector");
    same!(t.error, 0x15, "fetch from a page with NX: error code");
    let o = Probe::user(code!("mov rax, [rbx]", "mov [rbx], rax"))
        .rbx(user::DATA + 64)
        .run();
    check!(o.done(), "data access: {:x?}", o.trap);
    Ok(())
}

fn non_canonical() -> Result {
    let t = Probe::kernel(code!("mov rax, [rbx]"))
        .rbx(1 << 47)
        .run()
        .trap;
    same!(t.number, 13, "vector");
    same!(t.error, 0, "error code");
    let t = Probe::kernel(code!("jmp rbx")).rbx(1 << 47).run().trap;
    same!(t.number, 13, "vector of a jump");
    Ok(())
}

fn single_step() -> Result {
    let o = Probe::kernel(code!(
        "pushfq",
        "or qword ptr [rsp], 0x100",
        "popfq",
        "nop",
        "nop",
        "nop"
    ))
    .run();
    same!(o.trap.number, 1, "vector");
    same!(o.offset(), 11, "rip, after the first nop");
    same!(o.trap.rflags & 0x100, 0x100, "TF of the frame");
    same!(o.trap.handler_rflags & 0x100, 0, "TF of the handler");
    let dr6 = crate::arch::hypercall::call(9, [6, 0, 0, 0, 0]);
    same!(dr6 & 0x4000, 0x4000, "dr6.BS ({dr6:#x})");
    crate::arch::hypercall::call(8, [6, 0, 0, 0, 0]);
    Ok(())
}

fn single_step_user() -> Result {
    need_user()?;
    let mut p = Probe::user(code!("nop", "nop", "nop")).hook(|t| {
        if t.number == 1 && this().resumed.get() < 2 {
            Action::Resume
        } else {
            Action::End
        }
    });
    this().resumed.set(0);
    if let Some(f) = p.user.as_mut() {
        f.rflags = 0x102;
    }
    let o = p.run();
    same!(o.trap.number, 1, "vector");
    same!(o.offset(), 3, "rip after three steps");
    same!(this().resumed.get(), 2, "steps before");
    crate::arch::hypercall::call(8, [6, 0, 0, 0, 0]);
    Ok(())
}

fn icebp() -> Result {
    let o = Probe::kernel(code!("nop", ".byte 0xf1")).run();
    same!(o.trap.number, 1, "vector");
    same!(o.offset(), 2, "rip");
    crate::arch::hypercall::call(8, [6, 0, 0, 0, 0]);
    Ok(())
}

fn int_n() -> Result {
    for (what, bytes, number, offset, error) in [
        ("int 0x80", code!("nop", "int 0x80"), 0x80, 3, 0),
        ("int 0x81", code!("nop", "int 0x81"), 0x81, 3, 0),
        ("int 3, long form", code!("nop", ".byte 0xcd, 3"), 3, 3, 0),
        ("int 4", code!("nop", "int 4"), 4, 3, 0),
        (
            "int 0x90, no handler",
            code!("nop", "int 0x90"),
            13,
            1,
            0x90 << 3 | 2,
        ),
        (
            "int 0x82, DPL 0",
            code!("nop", "int 0x82"),
            13,
            1,
            0x82 << 3 | 2,
        ),
    ] {
        let o = Probe::kernel(bytes).run();
        same!(o.trap.number, number, "{what}: vector");
        same!(o.offset(), offset, "{what}: rip");
        same!(o.trap.error, error, "{what}: error code");
    }
    Ok(())
}

fn int_n_user() -> Result {
    need_user()?;
    for (what, bytes, number, offset, error) in [
        ("int 0x80", code!("nop", "int 0x80"), 0x80, 3, 0),
        (
            "int 0x81, kernel only",
            code!("nop", "int 0x81"),
            13,
            1,
            0x81 << 3 | 2,
        ),
        ("int 14", code!("nop", "int 14"), 13, 1, 14 << 3 | 2),
        ("int 4", code!("nop", "int 4"), 4, 3, 0),
    ] {
        let o = Probe::user(bytes).run();
        same!(o.trap.number, number, "{what}: vector");
        same!(o.offset(), offset, "{what}: rip");
        same!(o.trap.error, error, "{what}: error code");
        check!(o.trap.is_user(), "{what}: cs {:#x}", o.trap.cs_word);
    }
    Ok(())
}

fn alignment() -> Result {
    need_user()?;
    let mut p = Probe::user(code!("mov rax, [rbx + 1]")).rbx(user::DATA);
    if let Some(f) = p.user.as_mut() {
        f.rflags = 0x4_0002;
    }
    let o = p.run();
    if o.done() {
        skip!("no alignment check: CR0.AM is off or the machine lacks it");
    }
    same!(o.trap.number, 17, "vector");
    same!(o.trap.error, 0, "error code");
    Ok(())
}

fn watchpoint() -> Result {
    let set = |r: u64, v: u64| crate::arch::hypercall::call(8, [r, v, 0, 0, 0]);
    let va = crate::harness::runner::a_page()?;
    same!(set(0, va), 0, "set dr0");
    same!(set(7, 0xd_0003 | 0x400), 0, "set dr7: writes of 4 bytes");
    let o = Probe::kernel(code!("nop", "mov [rbx], eax", "nop"))
        .rbx(va)
        .run();
    let dr6 = crate::arch::hypercall::call(9, [6, 0, 0, 0, 0]);
    for r in [7, 0, 6] {
        same!(set(r, 0), 0, "clear dr{r}");
    }
    if o.done() && hosted() {
        skip!("breakpoints do not reach ring 3 on this machine");
    }
    same!(o.trap.number, 1, "vector");
    same!(o.offset(), 3, "rip");
    same!(dr6 & 0xf, 1, "dr6 ({dr6:#x})");
    Ok(())
}

fn resume() -> Result {
    // the handler changes rax and skips the ud2; everything else stays
    let o = Probe::kernel(code!("ud2", "nop"))
        .regs(Regs { rax: 1, ..marked() })
        .hook(|t: &mut Trap| {
            if t.number != 6 {
                return Action::End;
            }
            t.rip += 2;
            t.regs.rax = 99;
            Action::Resume
        })
        .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    let want = Regs {
        rax: 99,
        rsp: o.regs().rsp,
        ..marked()
    };
    check!(*o.regs() == want, "registers {:x?}", o.regs());
    Ok(())
}

fn segment_load() -> Result {
    for (what, sel, ok) in [
        ("null", 0, true),
        ("null with RPL 3", 3, true),
        ("flat", FLAT_RING3_DS32, true),
        ("code of Xen", 0xe008, false),
        ("TSS", 0xe040, false),
    ] {
        let o = Probe::kernel(code!("mov ds, ebx", "mov eax, ds", "mov ds, edx"))
            .rbx(sel.into())
            .run();
        if ok {
            check!(o.done(), "{what}: {:x?}", o.trap);
            let ds = o.regs().rax & 0xffff;
            check!(ds == u64::from(sel) || hosted(), "{what}: ds {ds:#x}");
        } else {
            same!(o.trap.number, 13, "{what}: vector");
            same!(o.trap.error, u64::from(sel), "{what}: error code");
        }
    }
    Ok(())
}

fn iretq() -> Result {
    // IRETQ within ring 3 is not a hypercall: plain hardware
    let o = Probe::kernel(code!(
        "mov rax, rsp",
        "mov ecx, ss",
        "push rcx",
        "push rax",
        "pushfq",
        "mov ecx, cs",
        "push rcx",
        "lea rcx, [rip + 2f]",
        "push rcx",
        "iretq",
        "ud2",
        "2:",
        "nop"
    ))
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rsp, o.regs().rax, "rsp");
    Ok(())
}

/// An NMI to itself comes at once, whatever the upcall mask, and not twice.
fn nmi() -> Result {
    let o = Probe::kernel(code!("syscall", "nop"))
        .rax(HYPERVISOR_VCPU_OP)
        .rdi(VCPUOP_SEND_NMI.into())
        .run();
    same!(o.trap.number, 2, "vector ({:x?})", o.trap);
    same!(o.offset(), 2, "rip");
    same!(o.regs().rax, 0, "result of send_nmi");
    same!(o.trap.saved_mask(), 1, "saved mask");
    // the handler left without iret: only an iret opens NMIs again
    let o = Probe::kernel(code!("ud2"))
        .hook(|t| {
            t.rip += 2;
            if t.number == 6 {
                Action::Resume
            } else {
                Action::End
            }
        })
        .run();
    check!(o.trap.number == 3, "after the NMI: {:x?}", o.trap);
    Ok(())
}
