//! FPU and vector registers: the virtual TS flag, #NM, what survives.

use super::t;
use crate::arch::hypercall::call;
use crate::arch::probe::Probe;
use crate::arch::trap::Action;
use crate::harness::machine::hosted;
use crate::harness::runner::{Result, Test, a_page, need_user};
use crate::harness::user;
use crate::{check, code, same, skip};
use xenner_xen_abi::xen::HYPERVISOR_FPU_TASKSWITCH;

pub const TESTS: &[Test] = &[
    t("fpu-usable", usable),
    t("fpu-taskswitch", taskswitch),
    t("fpu-nm-resume", nm_resume),
    t("fpu-nm-user", nm_user),
    t("fpu-survives-hypercalls", hypercalls),
    t("fpu-survives-traps", traps),
    t("fpu-survives-user", from_user),
    t("fpu-avx-survives", avx),
    t("fpu-simd-exception", simd),
];

fn set_ts(v: u64) -> i64 {
    call(HYPERVISOR_FPU_TASKSWITCH, [v, 0, 0, 0, 0])
}

fn usable() -> Result {
    let o = Probe::kernel(code!(
        "fninit",
        "fld1",
        "fadd st(0), st(0)",
        "sub rsp, 8",
        "fistp qword ptr [rsp]",
        "pop rax",
        "movq xmm3, rbx",
        "movq rcx, xmm3"
    ))
    .rbx(0x1234)
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rax, 2, "1 + 1");
    same!(o.regs().rcx, 0x1234, "xmm3");
    Ok(())
}

fn taskswitch() -> Result {
    same!(set_ts(1), 0, "set");
    let o = Probe::kernel(code!("nop", "movq xmm0, rax")).run();
    if o.done() && hosted() {
        skip!("CR0.TS does not reach ring 3 on this machine");
    }
    same!(o.trap.number, 7, "vector");
    same!(o.offset(), 1, "rip");
    // the flag is clear when the handler runs
    let o = Probe::kernel(code!("movq xmm0, rax")).run();
    check!(o.done(), "after #NM: {:x?}", o.trap);
    same!(set_ts(1), 0, "set");
    same!(set_ts(0), 0, "clear");
    let o = Probe::kernel(code!("fld1", "fstp st(0)")).run();
    check!(o.done(), "after clearing: {:x?}", o.trap);
    Ok(())
}

/// What is in the registers must not change by the trap.
fn nm_resume() -> Result {
    let nm = |t: &mut crate::arch::trap::Trap| {
        if t.number == 7 {
            Action::Resume
        } else {
            Action::End
        }
    };
    let o = Probe::kernel(code!(
        "movq xmm5, rbx",
        "mov eax, 5",
        "mov edi, 1",
        "syscall",
        "movq rdx, xmm5"
    ))
    .rbx(0xabcd)
    .hook(nm)
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rdx, 0xabcd, "xmm5");
    Ok(())
}

fn nm_user() -> Result {
    need_user()?;
    set_ts(1);
    let o = Probe::user(code!("nop", "movq xmm0, rax")).run();
    set_ts(0);
    if o.done() && hosted() {
        skip!("CR0.TS does not reach ring 3 on this machine");
    }
    same!(o.trap.number, 7, "vector");
    check!(o.trap.is_user(), "cs {:#x}", o.trap.cs_word);
    Ok(())
}

/// Loads all 16 vector registers from [rbx], runs the middle, stores to [rbx + 256].
macro_rules! around {
    ($($middle:literal),+) => {
        code!(
            "movdqu xmm0, [rbx]", "movdqu xmm1, [rbx + 16]", "movdqu xmm7, [rbx + 112]", "movdqu xmm8, [rbx + 128]",
            "movdqu xmm14, [rbx + 224]", "movdqu xmm15, [rbx + 240]",
            $($middle),+,
            "movdqu [rbx + 256], xmm0", "movdqu [rbx + 272], xmm1", "movdqu [rbx + 368], xmm7", "movdqu [rbx + 384], xmm8",
            "movdqu [rbx + 480], xmm14", "movdqu [rbx + 496], xmm15"
        )
    };
}

fn fill(va: u64) {
    for i in 0..32 {
        crate::arch::memory::write64(va + i * 8, 0x0101_0101_0101_0101 * (i + 1));
    }
}

fn judge(va: u64) -> Result {
    for reg in [0, 1, 7, 8, 14, 15] {
        for half in 0..2 {
            let at = va + reg * 16 + half * 8;
            same!(
                crate::arch::memory::read64(at + 256),
                crate::arch::memory::read64(at),
                "xmm{reg}"
            );
        }
    }
    Ok(())
}

fn hypercalls() -> Result {
    let page = a_page()?;
    fill(page);
    let o = Probe::kernel(around!(
        "mov eax, 17",
        "xor edi, edi",
        "xor esi, esi",
        "syscall",
        "mov eax, 29",
        "xor edi, edi",
        "syscall",
        "mov eax, 63",
        "syscall"
    ))
    .rbx(page)
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    judge(page)
}

fn traps() -> Result {
    let page = a_page()?;
    fill(page);
    let skip = |t: &mut crate::arch::trap::Trap| match t.number {
        6 => {
            t.rip += 2;
            Action::Resume
        }
        13 => {
            t.rip += 1;
            Action::Resume
        }
        _ => Action::End,
    };
    let o = Probe::kernel(around!("ud2", "hlt", "ud2"))
        .rbx(page)
        .hook(skip)
        .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    judge(page)
}

fn from_user() -> Result {
    need_user()?;
    let va = user::alias(user::DATA);
    fill(va);
    let skip = |t: &mut crate::arch::trap::Trap| match t.number {
        6 => {
            t.rip += 2;
            Action::Resume
        }
        crate::arch::entry::STUB_SYSCALL => Action::Resume,
        _ => Action::End,
    };
    let o = Probe::user(around!("ud2", "syscall", "ud2", "syscall"))
        .rbx(user::DATA)
        .hook(skip)
        .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    judge(va)
}

fn avx() -> Result {
    let c = Probe::kernel(&[0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2])
        .rax(1)
        .run();
    if c.regs().rcx >> 28 & 1 == 0 {
        skip!("no AVX");
    }
    let on = Probe::kernel(code!(
        "mov rax, cr4",
        "or eax, 0x40000",
        "mov cr4, rax",
        "xor ecx, ecx",
        "xor edx, edx",
        "mov eax, 7",
        "xsetbv"
    ))
    .run();
    check!(on.done(), "xcr0 = 7: {:x?}", on.trap);
    let page = a_page()?;
    fill(page);
    let o = Probe::kernel(code!(
        "vmovdqu ymm3, [rbx]",
        "vmovdqu ymm12, [rbx + 32]",
        "mov eax, 29",
        "xor edi, edi",
        "xor esi, esi",
        "syscall",
        "vmovdqu [rbx + 256], ymm3",
        "vmovdqu [rbx + 288], ymm12"
    ))
    .rbx(page)
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    for i in 0..8 {
        same!(
            crate::arch::memory::read64(page + 256 + i * 8),
            crate::arch::memory::read64(page + i * 8),
            "word {i}"
        );
    }
    Ok(())
}

fn simd() -> Result {
    // unmask division by zero in mxcsr, then divide
    let o = Probe::kernel(code!(
        "push 0x1d80",
        "ldmxcsr [rsp]",
        "mov eax, 1",
        "cvtsi2ss xmm0, eax",
        "xorps xmm1, xmm1",
        "divss xmm0, xmm1"
    ))
    .run();
    let back = Probe::kernel(code!("push 0x1f80", "ldmxcsr [rsp]", "pop rax")).run();
    check!(back.done(), "mxcsr: {:x?}", back.trap);
    if o.done() {
        skip!("the machine raises no SIMD exceptions");
    }
    same!(o.trap.number, 19, "vector");
    same!(o.trap.error, 0, "error code");
    Ok(())
}
