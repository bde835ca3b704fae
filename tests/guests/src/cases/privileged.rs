//! Privileged instructions that are emulated, MSRs, CPUID.

use super::t;
use crate::arch::probe::{Outcome, Probe};
use crate::harness::machine::info;
use crate::harness::runner::{Result, Test, need_user, running_l4};
use crate::harness::xen::op2;
use crate::{check, code, same};
use xenner_xen_abi::arch_x86_64::*;
use xenner_xen_abi::physdev::{PHYSDEVOP_SET_IOPL, PhysdevSetIopl};
use xenner_xen_abi::xen::HYPERVISOR_PHYSDEV_OP;

pub const TESTS: &[Test] = &[
    t("privileged-cli-sti", cli_sti),
    t("privileged-io", io),
    t("privileged-io-user", io_user),
    t("privileged-string-io", string_io),
    t("privileged-cr0", cr0),
    t("privileged-cr2-cr3", cr2_cr3),
    t("privileged-cr4", cr4),
    t("privileged-debug-registers", debug_registers),
    t("privileged-wbinvd", wbinvd),
    t("privileged-xcr0", xcr0),
    t("msr-bases", msr_bases),
    t("msr-read", msr_read),
    t("msr-write", msr_write),
    t("msr-unknown", msr_unknown),
    t("cpuid-forced", cpuid_forced),
    t("cpuid-forced-user", cpuid_forced_user),
    t("cpuid-xen-leaves", cpuid_xen),
    t("cpuid-features", cpuid_features),
    t("cpuid-not-forced", not_forced),
];

fn iopl(v: u32) -> i64 {
    op2(
        HYPERVISOR_PHYSDEV_OP,
        PHYSDEVOP_SET_IOPL,
        &mut PhysdevSetIopl { iopl: v },
    )
}

/// Run with virtual IOPL 1, then set it back to 0.
fn with_iopl1(code: &[u8]) -> Outcome {
    iopl(1);
    let o = Probe::kernel(code).run();
    iopl(0);
    o
}

fn cli_sti() -> Result {
    iopl(1);
    for mask in [0, 1] {
        for (what, c) in [("cli", code!("cli")), ("sti", code!("sti"))] {
            let o = Probe::kernel(c).mask(mask).run();
            check!(o.done(), "{what}: {:x?}", o.trap);
            same!(o.trap.saved_mask(), mask, "mask after {what}");
        }
        let o = Probe::kernel(code!("pushfq", "pop rax")).mask(mask).run();
        same!(o.regs().rax & 0x3200, 0x200, "flags that the kernel reads");
    }
    iopl(0);
    let o = Probe::kernel(code!("cli")).run();
    same!(o.trap.number, 13, "cli with IOPL 0");
    Ok(())
}

fn io() -> Result {
    for (what, c) in [
        ("in al", code!("xor eax, eax", "in al, 0x80")),
        (
            "in ax",
            code!("xor eax, eax", "mov edx, 0x300", "in ax, dx"),
        ),
        (
            "in eax",
            code!("xor eax, eax", "mov edx, 0x300", "in eax, dx"),
        ),
    ] {
        let o = with_iopl1(c);
        check!(o.done(), "{what}: {:x?}", o.trap);
        let ones = match what {
            "in al" => 0xff,
            "in ax" => 0xffff,
            _ => 0xffff_ffff,
        };
        same!(o.regs().rax, ones, "{what}");
    }
    let o = with_iopl1(code!(
        "mov eax, 0x12345678",
        "out 0x80, al",
        "mov edx, 0x300",
        "out dx, ax",
        "out dx, eax"
    ));
    check!(o.done(), "out: {:x?}", o.trap);
    let o = Probe::kernel(code!("in al, 0x80")).run();
    same!(o.trap.number, 13, "in with IOPL 0");
    same!(o.trap.error, 0, "its error code");
    Ok(())
}

fn io_user() -> Result {
    need_user()?;
    iopl(1);
    let o = Probe::user(code!("in al, 0x80")).run();
    iopl(3);
    let open = Probe::user(code!("mov eax, 0x1234", "in al, 0x80")).run();
    iopl(0);
    same!(o.trap.number, 13, "in from user mode with IOPL 1");
    check!(
        open.done(),
        "in from user mode with IOPL 3: {:x?}",
        open.trap
    );
    same!(open.regs().rax, 0x12ff, "what it read");
    Ok(())
}

fn string_io() -> Result {
    let page = crate::harness::runner::a_page()?;
    iopl(1);
    let o = Probe::kernel(code!("mov edx, 0x300", "mov ecx, 3", "cld", "rep insb"))
        .rdi(page)
        .run();
    iopl(0);
    check!(o.done(), "rep insb: {:x?}", o.trap);
    same!(o.regs().rcx, 0, "rcx");
    same!(o.regs().rdi, page + 3, "rdi");
    same!(crate::arch::memory::read64(page), 0xff_ffff, "bytes");
    Ok(())
}

fn cr0() -> Result {
    let o = Probe::kernel(code!(
        "mov rax, cr0",
        "mov rbx, rax",
        "or rax, 8",
        "mov cr0, rax",
        "mov rcx, cr0",
        "clts",
        "mov rdx, cr0"
    ))
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    let r = o.regs();
    same!(r.rbx & 0x8005_0033, 0x8005_0033, "cr0 ({:#x})", r.rbx);
    same!(r.rbx & 8, 0, "TS at first");
    same!(r.rcx, r.rbx | 8, "cr0 with TS");
    same!(r.rdx, r.rbx, "cr0 after clts");
    let o = Probe::kernel(code!("mov rax, cr0", "xor eax, 0x10000", "mov cr0, rax")).run();
    same!(o.trap.number, 13, "clearing WP");
    Ok(())
}

fn cr2_cr3() -> Result {
    let o = Probe::kernel(code!("mov rax, cr3", "mov cr3, rax", "mov rbx, cr3")).run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rax, running_l4() << 12, "cr3");
    same!(o.regs().rbx, running_l4() << 12, "cr3 after writing it");
    let o = Probe::kernel(code!("mov cr3, rbx"))
        .rbx(info().shared_info)
        .run();
    same!(o.trap.number, 13, "cr3 of shared_info");
    let fault = Probe::kernel(code!("mov rax, [rbx]")).rbx(0x5678).run();
    same!(fault.trap.cr2, 0x5678, "cr2 of the record");
    let o = Probe::kernel(code!("mov rax, cr2")).run();
    check!(o.done(), "mov cr2: {:x?}", o.trap);
    same!(o.regs().rax, 0x5678, "cr2");
    Ok(())
}

fn cr4() -> Result {
    let o = Probe::kernel(code!(
        "mov rax, cr4",
        "mov rbx, rax",
        "or rax, 0x80",
        "mov cr4, rax",
        "mov rcx, cr4",
        "mov cr4, rbx"
    ))
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    let r = o.regs();
    same!(
        r.rbx & 0x620,
        0x620,
        "PAE, OSFXSR, OSXMMEXCPT ({:#x})",
        r.rbx
    );
    same!(
        r.rbx & 0x0030_2090,
        0,
        "PSE, PGE, VMXE, SMEP, SMAP ({:#x})",
        r.rbx
    );
    check!(r.rcx == r.rbx, "cr4 after setting PGE: {:#x}", r.rcx);
    let o = Probe::kernel(code!(
        "mov rax, cr4",
        "mov rbx, rax",
        "or rax, 4",
        "mov cr4, rax",
        "mov rcx, cr4",
        "rdtsc",
        "mov cr4, rbx",
        "mov rsi, cr4"
    ))
    .run();
    check!(o.done(), "TSD: {:x?}", o.trap);
    same!(o.regs().rcx & 4, 4, "TSD");
    same!(o.regs().rsi & 4, 0, "TSD cleared");
    let d = Probe::kernel(code!(
        "mov rax, cr4",
        "or rax, 8",
        "mov cr4, rax",
        "mov rcx, cr4",
        "xor rax, 8",
        "mov cr4, rax"
    ))
    .run();
    check!(d.done(), "DE: {:x?}", d.trap);
    same!(d.regs().rcx & 8, 8, "DE");
    Ok(())
}

fn debug_registers() -> Result {
    let o = Probe::kernel(code!(
        "mov dr0, rbx",
        "mov rax, dr0",
        "xor ebx, ebx",
        "mov dr0, rbx",
        "mov rcx, dr7",
        "mov rdx, dr6"
    ))
    .rbx(0x7000)
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rax, 0x7000, "dr0");
    same!(o.regs().rcx & 0xffff, 0x400, "dr7");
    same!(o.regs().rdx & 0xffff_0ff0, 0xffff_0ff0, "dr6");
    let o = Probe::kernel(code!("mov dr0, rbx"))
        .rbx(HYPERVISOR_VIRT_START)
        .run();
    same!(o.trap.number, 13, "dr0 in Xen's hole");
    Ok(())
}

fn wbinvd() -> Result {
    let o = Probe::kernel(code!("wbinvd")).run();
    check!(o.done(), "ended by {:x?}", o.trap);
    // Xen skips INVD like WBINVD
    let o = Probe::kernel(code!("invd")).run();
    check!(o.done(), "invd: {:x?}", o.trap);
    Ok(())
}

fn xcr0() -> Result {
    let c = cpuid(1, 0);
    if c[2] >> 26 & 1 == 0 {
        crate::skip!("no XSAVE");
    }
    let o = Probe::kernel(code!(
        "mov rax, cr4",
        "or eax, 0x40000",
        "mov cr4, rax",
        "xor ecx, ecx",
        "xgetbv",
        "mov rsi, rax",
        "mov edi, edx",
        "xsetbv"
    ))
    .run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rsi & 1, 1, "xcr0");
    let o = Probe::kernel(code!(
        "xor ecx, ecx",
        "xor edx, edx",
        "mov eax, 2",
        "xsetbv"
    ))
    .run();
    same!(o.trap.number, 13, "xcr0 without x87");
    let o = Probe::kernel(code!("mov ecx, 1", "xor edx, edx", "mov eax, 1", "xsetbv")).run();
    same!(o.trap.number, 13, "xcr1");
    Ok(())
}

fn rdmsr(i: u32) -> Outcome {
    Probe::kernel(code!("rdmsr", "shl rdx, 32", "or rax, rdx"))
        .rcx(i.into())
        .run()
}

fn wrmsr(i: u32, v: u64) -> Outcome {
    Probe::kernel(code!("wrmsr"))
        .rcx(i.into())
        .rax(v & 0xffff_ffff)
        .rdx(v >> 32)
        .run()
}

fn msr_bases() -> Result {
    let page = crate::harness::runner::a_page()?;
    for (i, what) in [
        (0xc000_0100, "FS"),
        (0xc000_0101, "GS"),
        (0xc000_0102, "KERNEL_GS"),
    ] {
        let o = wrmsr(i, page);
        check!(o.done(), "write {what}: {:x?}", o.trap);
        let o = rdmsr(i);
        check!(o.done(), "read {what}: {:x?}", o.trap);
        same!(o.regs().rax, page, "{what}");
        same!(wrmsr(i, 1 << 47).trap.number, 13, "{what} not canonical");
        check!(wrmsr(i, 0).done(), "clear {what}");
    }
    crate::arch::memory::write64(page + 8, 0x77);
    wrmsr(0xc000_0101, page);
    let o = Probe::kernel(code!("mov rax, gs:[8]")).run();
    wrmsr(0xc000_0101, 0);
    same!(o.regs().rax, 0x77, "gs:[8]");
    Ok(())
}

fn msr_read() -> Result {
    let o = rdmsr(0xc000_0080);
    check!(o.done(), "EFER: {:x?}", o.trap);
    same!(o.regs().rax & 0x501, 0x501, "EFER, SCE LME LMA");
    let o = rdmsr(0x277);
    check!(o.done(), "PAT: {:x?}", o.trap);
    same!(o.regs().rax, 0x0000_0501_0007_0406, "PAT");
    let o = rdmsr(0x1b);
    check!(o.done(), "APIC_BASE: {:x?}", o.trap);
    same!(o.regs().rax & 0xfff0_0800, 0xfee0_0800, "APIC_BASE");
    let o = rdmsr(0x10);
    check!(o.done() && o.regs().rax != 0, "TSC: {:x?}", o.trap);
    for i in [0x1a0, 0x8b] {
        check!(rdmsr(i).done(), "MSR {i:#x}: {:x?}", rdmsr(i).trap);
    }
    Ok(())
}

fn msr_write() -> Result {
    let efer = rdmsr(0xc000_0080).regs().rax;
    check!(wrmsr(0xc000_0080, efer).done(), "same EFER");
    for (i, v, what) in [
        (0xc000_0080, efer ^ 0x800, "EFER without NX"),
        (0xc000_0081, 0, "STAR"),
        (0xc000_0082, 0, "LSTAR"),
        (0x174, 0, "SYSENTER_CS"),
        (0x277, 0x0007_0406_0007_0406, "PAT"),
        (0x10, 0, "TSC"),
    ] {
        same!(wrmsr(i, v).trap.number, 13, "write {what}");
    }
    Ok(())
}

fn msr_unknown() -> Result {
    for i in [0x1234_5678, 0xc000_0081, 0xc000_0082, 0x176] {
        same!(rdmsr(i).trap.number, 13, "read MSR {i:#x}");
    }
    same!(rdmsr(0x1234_5678).trap.error, 0, "error code");
    same!(
        wrmsr(0x1234_5678, 0).trap.number,
        13,
        "write MSR 0x12345678"
    );
    Ok(())
}

const FORCED: &[u8] = &[0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];

/// A leaf by the forced form.
fn cpuid(leaf: u32, sub: u32) -> [u64; 4] {
    let o = Probe::kernel(FORCED).rax(leaf.into()).rcx(sub.into()).run();
    let r = o.regs();
    [r.rax, r.rbx, r.rcx, r.rdx]
}

fn cpuid_forced() -> Result {
    let o = Probe::kernel(FORCED).rax(0xffff_ffff_0000_0000).run();
    check!(o.done(), "ended by {:x?}", o.trap);
    let r = o.regs();
    check!(r.rax >= 7 && r.rax < 0x100, "highest leaf {:#x}", r.rax);
    for (v, n) in [(r.rbx, "rbx"), (r.rcx, "rcx"), (r.rdx, "rdx")] {
        same!(v >> 32, 0, "upper half of {n}");
    }
    Ok(())
}

fn cpuid_forced_user() -> Result {
    need_user()?;
    let o = Probe::user(FORCED).rax(0x4000_0000).run();
    check!(o.done(), "ended by {:x?}", o.trap);
    same!(o.regs().rbx, u64::from(XEN_CPUID_SIGNATURE_EBX), "ebx");
    Ok(())
}

fn cpuid_xen() -> Result {
    let c = cpuid(XEN_CPUID_FIRST_LEAF, 0);
    check!(
        c[0] >= 0x4000_0002 && c[0] < 0x4000_0100,
        "highest Xen leaf {:#x}",
        c[0]
    );
    same!(c[1], u64::from(XEN_CPUID_SIGNATURE_EBX), "ebx");
    same!(c[2], u64::from(XEN_CPUID_SIGNATURE_ECX), "ecx");
    same!(c[3], u64::from(XEN_CPUID_SIGNATURE_EDX), "edx");
    same!(
        cpuid(0x4000_0001, 0)[0] as i64,
        crate::harness::xen::version(),
        "version"
    );
    let c = cpuid(0x4000_0002, 0);
    same!(c[0], 1, "hypercall pages");
    same!(c[2] & 1, 1, "PRESERVE_AD");
    let plain = Probe::kernel(code!("cpuid")).rax(0x4000_0000).run();
    if plain.done() && plain.regs().rbx != u64::from(XEN_CPUID_SIGNATURE_EBX) {
        crate::harness::console::line(format_args!(
            "# plain CPUID gives ebx {:#x}",
            plain.regs().rbx
        ));
    }
    Ok(())
}

fn cpuid_features() -> Result {
    let c = cpuid(1, 0);
    // FPU TSC MSR PAE CX8 CMOV MMX FXSR SSE SSE2
    let want =
        1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 15 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26;
    same!(c[3] & want, want, "leaf 1 edx ({:#x})", c[3]);
    // PSE PGE PSE36 MTRR
    same!(
        c[3] & (1 << 3 | 1 << 13 | 1 << 17 | 1 << 12),
        0,
        "PSE, PGE, PSE36, MTRR of leaf 1 edx ({:#x})",
        c[3]
    );
    same!(c[2] >> 31, 1, "hypervisor bit ({:#x})", c[2]);
    // VMX, PCID, MONITOR
    same!(
        c[2] & (1 << 5 | 1 << 17 | 1 << 3),
        0,
        "VMX, PCID, MONITOR of leaf 1 ecx ({:#x})",
        c[2]
    );
    let c = cpuid(7, 0);
    same!(
        c[1] & (1 << 7 | 1 << 10 | 1 << 20),
        0,
        "SMEP, INVPCID, SMAP of leaf 7 ebx ({:#x})",
        c[1]
    );
    let c = cpuid(0x8000_0001, 0);
    // SYSCALL NX LM
    same!(
        c[3] & (1 << 11 | 1 << 20 | 1 << 29),
        1 << 11 | 1 << 20 | 1 << 29,
        "leaf 80000001 edx ({:#x})",
        c[3]
    );
    same!(c[3] >> 26 & 1, 0, "1 GiB pages");
    Ok(())
}

fn not_forced() -> Result {
    let o = Probe::kernel(&[0x90, 0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0x31]).run();
    same!(o.trap.number, 6, "the prefix before rdtsc");
    same!(o.offset(), 1, "rip");
    Ok(())
}
