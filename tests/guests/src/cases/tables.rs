//! Trap table, callbacks, descriptor tables, debug registers: what a kernel
//! registers for a vCPU.

use super::t;
use crate::arch::entry::{STUB_EVENT, STUB_FAILSAFE, STUB_SYSCALL, stub};
use crate::arch::hypercall::call;
use crate::arch::memory::{get_struct, write64};
use crate::arch::probe::Probe;
use crate::harness::machine::{hosted, mfn_of};
use crate::harness::paging::{self, maddr};
use crate::harness::runner::{Result, Test, a_page, paged};
use crate::harness::xen::*;
use crate::{check, code, same};
use xenner_xen_abi::arch_x86_64::*;
use xenner_xen_abi::callback::*;
use xenner_xen_abi::errno::*;
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("set-callbacks", set_callbacks),
    t("callback-op", callback_op),
    t("set-trap-table", trap_table),
    t("set-gdt", set_gdt),
    t("update-descriptor", update_descriptor),
    t("set-ldt", set_ldt),
    t("debug-registers", debug_registers),
    t("set-segment-base-errors", segment_base),
];

fn callback_op() -> Result {
    same!(
        callback(CALLBACKTYPE_EVENT, 0, 1 << 47),
        -EINVAL,
        "event callback at 2^47"
    );
    same!(
        callback(CALLBACKTYPE_EVENT, 0, stub(STUB_EVENT)),
        0,
        "event callback"
    );
    same!(
        callback(CALLBACKTYPE_FAILSAFE, 0, stub(STUB_FAILSAFE)),
        0,
        "failsafe callback"
    );
    same!(
        callback(
            CALLBACKTYPE_SYSCALL,
            CALLBACKF_MASK_EVENTS,
            stub(STUB_SYSCALL)
        ),
        0,
        "syscall callback"
    );
    same!(callback(CALLBACKTYPE_NMI, 0, stub(2)), 0, "nmi callback");
    for kind in [
        CALLBACKTYPE_EVENT,
        CALLBACKTYPE_FAILSAFE,
        CALLBACKTYPE_SYSCALL,
    ] {
        let mut u = CallbackUnregister { kind, unused: 0 };
        same!(
            op2(HYPERVISOR_CALLBACK_OP, CALLBACKOP_UNREGISTER, &mut u),
            -EINVAL,
            "unregister {kind}"
        );
    }
    Ok(())
}

fn trap_table() -> Result {
    let bad = TrapInfo {
        vector: 0x90,
        flags: 1,
        cs: FLAT_KERNEL_CS,
        pad: 0,
        address: 1 << 47,
    };
    same!(
        set_trap_table(&[bad, TrapInfo::default()]),
        -EINVAL,
        "handler at 2^47"
    );
    let good = TrapInfo {
        address: stub(0x90),
        ..bad
    };
    same!(
        set_trap_table(&[good, TrapInfo::default()]),
        0,
        "handler for 0x90"
    );
    // vectors that are not in the list keep their handlers
    let o = Probe::kernel(code!("ud2")).run();
    same!(o.trap.number, 6, "trap of ud2");
    let o = Probe::kernel(code!("int 0x90")).run();
    same!(o.trap.number, 0x90, "trap of int 0x90");
    same!(call(HYPERVISOR_SET_TRAP_TABLE, [0; 5]), 0, "empty table");
    same!(
        set_trap_table(&crate::harness::runner::traps()),
        0,
        "whole table"
    );
    Ok(())
}

/// A flat data descriptor with a base, and with privilege 0.
const DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

fn set_gdt() -> Result {
    same!(
        call(HYPERVISOR_SET_GDT, [at(&0u64), 7169, 0, 0, 0]),
        -EINVAL,
        "7169 entries"
    );
    let gdt = a_page()?;
    write64(gdt + 16, DESCRIPTOR | 0x60 << 40);
    write64(gdt + 24, DESCRIPTOR);
    let frames = [mfn_of(gdt)];
    let set = |n: u64| call(HYPERVISOR_SET_GDT, [at(&frames), n, 0, 0, 0]);
    same!(set(16), -EINVAL, "a writable page");
    same!(paging::set_ro(gdt), 0, "read-only");
    same!(set(16), 0, "a read-only page");
    check!(
        get_struct::<u64>(gdt + 24) >> 45 & 3 == 3,
        "DPL of descriptor 3 was not raised: {:#x}",
        get_struct::<u64>(gdt + 24)
    );
    let o = Probe::kernel(code!(
        "mov ds, ebx",
        "mov eax, ds",
        "lsl ecx, ebx",
        "mov ds, edx"
    ))
    .rbx(0x13)
    .run();
    check!(o.done(), "loading selector 0x13: {:x?}", o.trap);
    check!(
        o.regs().rax & 0xffff == 0x13 || hosted(),
        "ds: {:#x}",
        o.regs().rax
    );
    let limit = o.regs().rcx & 0xffff_ffff;
    check!(
        limit == 0xffff_ffff || hosted(),
        "limit of 0x13: {limit:#x}"
    );
    same!(paging::set_rw(gdt), -EBUSY, "writable while it is the GDT");
    same!(
        call(HYPERVISOR_SET_GDT, [at(&frames), 0, 0, 0, 0]),
        0,
        "no GDT"
    );
    same!(paging::set_rw(gdt), 0, "writable again");
    let o = Probe::kernel(code!("mov ds, ebx")).rbx(0x13).run();
    same!(o.trap.number, 13, "trap of loading 0x13 without GDT");
    same!(o.trap.error, 0x10, "its error code");
    Ok(())
}

fn update_descriptor() -> Result {
    let gdt = a_page()?;
    let set = |i: u64, d: u64| {
        call(
            HYPERVISOR_UPDATE_DESCRIPTOR,
            [maddr(gdt) + i * 8, d, 0, 0, 0],
        )
    };
    same!(
        set(1, DESCRIPTOR | 0x60 << 40),
        0,
        "data descriptor into an ordinary page"
    );
    same!(
        get_struct::<u64>(gdt + 8),
        DESCRIPTOR | 0x60 << 40,
        "what was stored"
    );
    same!(
        call(HYPERVISOR_UPDATE_DESCRIPTOR, [maddr(gdt) + 4, 0, 0, 0, 0]),
        -EINVAL,
        "address not in 8"
    );
    // a TSS, an interrupt gate
    for (d, what) in [
        (0x0000_8900_0000_0067, "TSS"),
        (0x0000_8e00_0000_0000, "interrupt gate"),
        (0x0000_8200_0000_0fff, "LDT"),
    ] {
        same!(set(2, d), -EINVAL, "{what}");
    }
    same!(set(2, 0), 0, "empty descriptor");
    let l1 = paged("pinned", paging::pinned(1, &[]))?;
    let r = call(HYPERVISOR_UPDATE_DESCRIPTOR, [maddr(l1), 0, 0, 0, 0]);
    paging::unpin(l1);
    same!(r, -EINVAL, "into a page table");
    Ok(())
}

fn set_ldt() -> Result {
    let ldt = a_page()?;
    write64(ldt + 8, DESCRIPTOR | 0x60 << 40);
    same!(
        mmuext(MMUEXT_SET_LDT, ldt + 8, 4),
        -EINVAL,
        "address not in a page"
    );
    same!(mmuext(MMUEXT_SET_LDT, ldt, 8193), -EINVAL, "8193 entries");
    same!(paging::set_ro(ldt), 0, "read-only");
    same!(mmuext(MMUEXT_SET_LDT, ldt, 4), 0, "4 entries");
    // entry 1, table indicator, RPL 3
    let o = Probe::kernel(code!("mov ds, ebx", "mov eax, ds", "mov ds, edx"))
        .rbx(0xf)
        .run();
    check!(o.done(), "loading selector 0xf: {:x?}", o.trap);
    let bad = Probe::kernel(code!("mov ds, ebx")).rbx(0x27).run();
    same!(mmuext(MMUEXT_SET_LDT, 0, 0), 0, "no LDT");
    same!(bad.trap.number, 13, "trap of a selector above the limit");
    same!(bad.trap.error, 0x24, "its error code");
    same!(paging::set_rw(ldt), 0, "writable again");

    Ok(())
}

fn debug_registers() -> Result {
    let set = |r: u64, v: u64| call(HYPERVISOR_SET_DEBUGREG, [r, v, 0, 0, 0]);
    let get = |r: u64| call(HYPERVISOR_GET_DEBUGREG, [r, 0, 0, 0, 0]);
    same!(set(0, 0x1234_5000), 0, "set dr0");
    same!(get(0), 0x1234_5000, "dr0");
    same!(
        set(0, HYPERVISOR_VIRT_START + 0x3000_0000_0000 / 16),
        -EPERM,
        "dr0 in Xen's hole"
    );
    same!(set(6, 1 << 32), -EINVAL, "dr6 above 32 bits");
    same!(set(7, 1 << 32), -EINVAL, "dr7 above 32 bits");
    same!(set(7, 1 << 13), -EPERM, "dr7.GD");
    same!(set(8, 0), -ENODEV, "set dr8");
    same!(get(8), -ENODEV, "dr8");
    same!(set(6, 0), 0, "set dr6");
    same!(get(6) & 0xffff_0ff0, 0xffff_0ff0, "fixed bits of dr6");
    for r in [0, 1, 2, 3, 6, 7] {
        same!(set(r, 0), 0, "clear dr{r}");
    }
    Ok(())
}

fn segment_base() -> Result {
    let set = |w: u64, b: u64| call(HYPERVISOR_SET_SEGMENT_BASE, [w, b, 0, 0, 0]);
    for w in 0..3 {
        same!(set(w, 1 << 47), -EINVAL, "base {w} at 2^47");
        same!(set(w, 0), 0, "base {w}");
    }
    same!(set(3, 0), 0, "null selector");
    same!(set(3, 0x7b), 0, "bad selector");
    same!(set(4, 0), -EINVAL, "base 4");
    Ok(())
}

/// The old call for all three callbacks.
fn set_callbacks() -> Result {
    let all = [
        stub(STUB_EVENT),
        stub(STUB_FAILSAFE),
        stub(STUB_SYSCALL),
        0,
        0,
    ];
    same!(call(HYPERVISOR_SET_CALLBACKS, all), 0, "set_callbacks");
    let bad = [1 << 47, stub(STUB_FAILSAFE), stub(STUB_SYSCALL), 0, 0];
    // Xen does not register it, but says nothing
    let r = call(HYPERVISOR_SET_CALLBACKS, bad);
    check!(r == 0 || r == -EINVAL, "event callback at 2^47: {r}");
    same!(call(HYPERVISOR_SET_CALLBACKS, all), 0, "set_callbacks");
    let flags = CALLBACKF_MASK_EVENTS;
    same!(
        callback(CALLBACKTYPE_SYSCALL, flags, stub(STUB_SYSCALL)),
        0,
        "syscall callback"
    );
    Ok(())
}
