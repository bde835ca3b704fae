//! User mode: the `iret` hypercall both ways, SYSCALL, segment bases, the two
//! address spaces.

use super::t;
use crate::arch::entry::{KERNEL_SP_TOP, STUB_SYSCALL, stack_base, stub};
use crate::arch::hypercall::call;
use crate::arch::memory::{fill, read64, write64};
use crate::arch::probe::{Outcome, Probe};
use crate::arch::trap::{Action, Regs};
use crate::arch::vcpu::this;
use crate::harness::machine::{hosted, info, mfn_of};
use crate::harness::runner::{Result, Test, need_user};
use crate::harness::user;
use crate::harness::xen::{callback, mmuext};
use crate::{check, code, same, skip};
use xenner_xen_abi::arch_x86_64::*;
use xenner_xen_abi::callback::{CALLBACKF_MASK_EVENTS, CALLBACKTYPE_SYSCALL};
use xenner_xen_abi::errno::EINVAL;
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("user-registers", registers),
    t("user-syscall", syscall),
    t("user-syscall-flags", syscall_flags),
    t("user-syscall-mask", syscall_mask),
    t("user-iret-in-syscall", in_syscall),
    t("user-iret-kernel", iret_kernel),
    t("user-iret-mask", iret_mask),
    t("user-hypercalls-are-syscalls", not_hypercalls),
    t("user-kernel-stack", kernel_stack),
    t("user-address-spaces", address_spaces),
    t("user-baseptr", baseptr),
    t("segments-kernel", segments_kernel),
    t("segments-user", segments_user),
    t("segments-swap", segments_swap),
    t("segments-wrfsbase", wrfsbase),
    t("segments-gs-selector", gs_selector),
];

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
        rsp: user::STACK_TOP - 8,
    }
}

fn registers() -> Result {
    need_user()?;
    let o = Probe::user(code!("nop")).regs(marked()).run();
    check!(o.done(), "ended by {:x?}", o.trap);
    check!(*o.regs() == marked(), "registers {:x?}", o.regs());
    Ok(())
}

fn ended_by_syscall(o: &Outcome) -> Result {
    same!(o.trap.number, STUB_SYSCALL, "entry");
    check!(o.trap.is_user(), "cs {:#x}", o.trap.cs_word);
    Ok(())
}

fn syscall() -> Result {
    need_user()?;
    let o = Probe::user(code!("nop", "syscall")).regs(marked()).run();
    ended_by_syscall(&o)?;
    same!(o.offset(), 3, "rip");
    same!(o.trap.rflags & 0x2, 0x2, "flags");
    let want = Regs {
        rcx: o.trap.rip,
        r11: o.regs().r11,
        ..marked()
    };
    check!(*o.regs() == want, "registers {:x?}", o.regs());
    same!(o.regs().r11 & 0x8d5, o.trap.rflags & 0x8d5, "r11");
    same!(
        o.trap.frame,
        stack_base(0) + KERNEL_SP_TOP - 7 * 8,
        "frame address"
    );
    Ok(())
}

fn syscall_flags() -> Result {
    need_user()?;
    let o = Probe::user(code!("std", "stc", "syscall")).run();
    ended_by_syscall(&o)?;
    same!(o.trap.rflags & 0x401, 0x401, "DF and CF of the frame");
    same!(o.trap.handler_rflags & 0x400, 0, "DF of the handler");
    Ok(())
}

fn syscall_mask() -> Result {
    need_user()?;
    let run = || {
        let mut p = Probe::user(code!("syscall"));
        if let Some(f) = p.user.as_mut() {
            f.rflags = 0x202;
        }
        p.run()
    };
    let o = run();
    ended_by_syscall(&o)?;
    same!(o.trap.saved_mask(), 0, "mask of user mode");
    same!(o.trap.mask, 1, "mask in the handler");
    same!(
        callback(CALLBACKTYPE_SYSCALL, 0, stub(STUB_SYSCALL)),
        0,
        "callback without mask"
    );
    let o = run();
    same!(
        callback(
            CALLBACKTYPE_SYSCALL,
            CALLBACKF_MASK_EVENTS,
            stub(STUB_SYSCALL)
        ),
        0,
        "callback"
    );
    same!(o.trap.mask, 0, "mask in a handler that does not mask");
    Ok(())
}

/// With VGCF_IN_SYSCALL rcx and r11 become rip and flags.
fn in_syscall() -> Result {
    need_user()?;
    let mut p = Probe::user(code!("nop")).regs(Regs { rsp: 0, ..marked() });
    if let Some(f) = p.user.as_mut() {
        f.flags = VGCF_IN_SYSCALL;
        f.rflags = 0x202;
        f.rsp = user::STACK_TOP - 8;
    }
    let o = p.run();
    check!(o.done(), "ended by {:x?}", o.trap);
    let r = o.regs();
    let want = Regs {
        rcx: r.rcx,
        r11: r.r11,
        ..marked()
    };
    check!(*r == want, "registers {r:x?}");
    check!(r.rcx == o.start || r.rcx == 3, "rcx {:#x}", r.rcx);
    Ok(())
}

fn iret_kernel() -> Result {
    // a frame with kernel selectors goes to kernel mode: a syscall there is a hypercall
    let mut p = Probe::user(code!("nop"));
    let page = this().code_page.get();
    crate::arch::memory::put(
        page + 0x800,
        code!(
            "mov eax, 17",
            "xor edi, edi",
            "xor esi, esi",
            "syscall",
            "int3"
        ),
    );
    p.regs.rsp = stack_base(0) + 0x3000;
    let sp = p.regs.rsp;
    // leave by a hook: the first trap of the user snippet goes on in the kernel
    need_user()?;
    let o = p
        .hook(|t| {
            if !t.is_user() {
                return Action::End;
            }
            t.rip = this().code_page.get() + 0x800;
            t.cs_word = FLAT_KERNEL_CS as u64 & !3;
            t.ss = FLAT_KERNEL_SS.into();
            Action::Resume
        })
        .run();
    same!(o.trap.number, 3, "end");
    check!(!o.trap.is_user(), "cs {:#x}", o.trap.cs_word);
    check!(
        o.regs().rax >> 16 >= 3 && o.regs().rax < 1 << 32,
        "version {:#x}",
        o.regs().rax
    );
    same!(o.regs().rsp, sp, "rsp");
    Ok(())
}

fn iret_mask() -> Result {
    for (what, rflags, mask) in [("IF", 0x202, 0), ("no IF", 0x002, 1)] {
        need_user()?;
        let mut p = Probe::user(code!("nop"));
        if let Some(f) = p.user.as_mut() {
            f.rflags = rflags;
        }
        let o = p.run();
        same!(
            o.trap.saved_mask(),
            mask,
            "mask in user mode, frame with {what}"
        );
        same!(o.trap.rflags & 0x3000, 0, "IOPL");
    }
    Ok(())
}

fn not_hypercalls() -> Result {
    need_user()?;
    let o = Probe::user(code!("syscall"))
        .rax(HYPERVISOR_XEN_VERSION)
        .run();
    ended_by_syscall(&o)?;
    same!(o.regs().rax, HYPERVISOR_XEN_VERSION, "rax");
    let o = Probe::user(code!("syscall")).rax(23).run();
    ended_by_syscall(&o)
}

fn kernel_stack() -> Result {
    need_user()?;
    let page = crate::harness::runner::a_page()?;
    let _ = page;
    let other = stack_base(0) + KERNEL_SP_TOP - 0x800;
    let set = |sp: u64| {
        call(
            HYPERVISOR_STACK_SWITCH,
            [FLAT_KERNEL_SS.into(), sp, 0, 0, 0],
        )
    };
    same!(set(other), 0, "stack_switch");
    let o = Probe::user(code!("nop")).run();
    same!(set(stack_base(0) + KERNEL_SP_TOP), 0, "stack_switch back");
    same!(o.trap.frame, other - 7 * 8, "frame address");
    Ok(())
}

fn address_spaces() -> Result {
    need_user()?;
    write64(user::alias(user::DATA), 0x1234);
    let o = Probe::user(code!("mov rax, [rbx]", "inc qword ptr [rbx]"))
        .rbx(user::DATA)
        .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rax, 0x1234, "what user mode read");
    same!(
        read64(user::alias(user::DATA)),
        0x1235,
        "what user mode wrote"
    );
    let o = Probe::user(code!("mov rax, [rbx]"))
        .rbx(info().pt_base)
        .run();
    same!(o.trap.number, 14, "user mode reads kernel memory");
    // the user half is not in the kernel's tables
    let o = Probe::kernel(code!("mov rax, [rbx]")).rbx(user::DATA).run();
    same!(o.trap.number, 14, "kernel mode reads user memory");
    Ok(())
}

fn baseptr() -> Result {
    need_user()?;
    let page = crate::harness::runner::a_page()?;
    let writable = mmuext(MMUEXT_NEW_USER_BASEPTR, mfn_of(page), 0);
    let none = mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0);
    same!(user::load(), 0, "the user L4 again");
    check!(writable < 0, "a writable page as user L4: {writable}");
    same!(none, 0, "no user L4");
    let r = mmuext(MMUEXT_NEW_BASEPTR, mfn_of(page), 0);
    check!(r == -EINVAL || r < 0, "a writable page as kernel L4: {r}");
    same!(
        mmuext(MMUEXT_NEW_BASEPTR, mfn_of(info().pt_base), 0),
        0,
        "the same kernel L4"
    );
    fill(page, 0, 8);
    Ok(())
}

fn set_base(which: u32, base: u64) -> i64 {
    call(HYPERVISOR_SET_SEGMENT_BASE, [which.into(), base, 0, 0, 0])
}

fn segments_kernel() -> Result {
    let page = crate::harness::runner::a_page()?;
    write64(page + 8, 0xf5);
    write64(page + 16, 0x65);
    same!(set_base(SEGBASE_FS, page), 0, "set FS");
    same!(set_base(SEGBASE_GS_KERNEL, page + 8), 0, "set GS");
    let o = Probe::kernel(code!("mov rax, fs:[8]", "mov rbx, gs:[8]")).run();
    set_base(SEGBASE_FS, 0);
    set_base(SEGBASE_GS_KERNEL, 0);
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rax, 0xf5, "fs:[8]");
    same!(o.regs().rbx, 0x65, "gs:[8]");
    Ok(())
}

fn segments_user() -> Result {
    need_user()?;
    write64(user::alias(user::DATA) + 8, 0xf5);
    write64(user::alias(user::DATA) + 16, 0x65);
    same!(set_base(SEGBASE_FS, user::DATA), 0, "set FS");
    same!(set_base(SEGBASE_GS_USER, user::DATA + 8), 0, "set user GS");
    let o = Probe::user(code!("mov rax, fs:[8]", "mov rbx, gs:[8]")).run();
    set_base(SEGBASE_FS, 0);
    set_base(SEGBASE_GS_USER, 0);
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rax, 0xf5, "fs:[8]");
    same!(o.regs().rbx, 0x65, "gs:[8]");
    Ok(())
}

/// User GS and kernel GS are swapped on the way, and kept apart.
fn segments_swap() -> Result {
    need_user()?;
    let page = crate::harness::runner::a_page()?;
    write64(page, 0x6b);
    write64(user::alias(user::DATA), 0x75);
    set_base(SEGBASE_GS_KERNEL, page);
    set_base(SEGBASE_GS_USER, user::DATA);
    let o = Probe::user(code!("mov rax, gs:[0]")).run();
    let k = Probe::kernel(code!("mov rax, gs:[0]")).run();
    let again = Probe::user(code!("mov rax, gs:[0]")).run();
    let msr = Probe::kernel(code!("mov ecx, 0xc0000102", "rdmsr")).run();
    set_base(SEGBASE_GS_KERNEL, 0);
    set_base(SEGBASE_GS_USER, 0);
    same!(o.regs().rax, 0x75, "user GS");
    check!(k.done(), "kernel GS: {:x?}", k.trap);
    same!(k.regs().rax, 0x6b, "kernel GS");
    same!(again.regs().rax, 0x75, "user GS again");
    same!(
        msr.regs().rax,
        user::DATA,
        "MSR KERNEL_GS_BASE in kernel mode"
    );
    Ok(())
}

fn wrfsbase() -> Result {
    need_user()?;
    // the instructions are there once the kernel sets its CR4 bit
    let on = Probe::kernel(code!("mov rax, cr4", "or eax, 0x10000", "mov cr4, rax")).run();
    check!(on.done(), "CR4.FSGSBASE: {:x?}", on.trap);
    let o = Probe::user(code!("wrfsbase rbx", "rdfsbase rax", "mov rcx, fs:[0]"))
        .rbx(user::DATA + 24)
        .run();
    if o.trap.number == 6 {
        skip!("no FSGSBASE");
    }
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rax, user::DATA + 24, "FS base");
    let o = Probe::user(code!("wrgsbase rbx", "rdgsbase rax"))
        .rbx(user::DATA + 32)
        .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rax, user::DATA + 32, "GS base");
    let msr = Probe::kernel(code!("mov ecx, 0xc0000102", "rdmsr")).run();
    same!(
        msr.regs().rax,
        user::DATA + 32,
        "user GS base that the kernel sees"
    );
    let again = Probe::user(code!("rdgsbase rax", "rdfsbase rbx")).run();
    same!(
        again.regs().rax,
        user::DATA + 32,
        "GS base after kernel mode"
    );
    same!(
        again.regs().rbx,
        user::DATA + 24,
        "FS base after kernel mode"
    );
    set_base(SEGBASE_FS, 0);
    set_base(SEGBASE_GS_USER, 0);
    Ok(())
}

fn gs_selector() -> Result {
    need_user()?;
    same!(
        set_base(SEGBASE_GS_USER_SEL, FLAT_RING3_DS32.into()),
        0,
        "flat selector"
    );
    let o = Probe::user(code!("mov eax, gs")).run();
    let gs = o.regs().rax & 0xffff;
    check!(gs == u64::from(FLAT_RING3_DS32) || hosted(), "gs {gs:#x}");
    same!(set_base(SEGBASE_GS_USER_SEL, 0xabc8), 0, "bad selector");
    let o = Probe::user(code!("mov eax, gs")).run();
    same!(o.regs().rax & 0xfff8, 0, "gs after a bad selector");
    same!(set_base(SEGBASE_GS_USER_SEL, 0), 0, "null selector");
    Ok(())
}
