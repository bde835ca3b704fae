//! Direct stores to page tables (the `writable_pagetables` assist): every
//! operand size and the instructions that kernels use, and what is refused.

use super::t;
use crate::arch::hypercall::call;
use crate::arch::memory::read64;
use crate::arch::probe::{Outcome, Probe};
use crate::harness::machine::mfn_of;
use crate::harness::paging::*;
use crate::harness::runner::{Result, Test, a_page, paged};
use crate::harness::xen::mmu_update1;
use crate::{check, code, same};
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("ptwr-off", off),
    t("ptwr-mov", mov),
    t("ptwr-sizes", sizes),
    t("ptwr-xchg", xchg),
    t("ptwr-cmpxchg", cmpxchg),
    t("ptwr-and-or", and_or),
    t("ptwr-bits", bits),
    t("ptwr-invalid", invalid),
    t("ptwr-user", user),
    t("ptwr-upper-levels", upper_levels),
];

const SLOT: u64 = 301;

fn assist(on: bool) -> i64 {
    let cmd = if on {
        VMASST_CMD_ENABLE
    } else {
        VMASST_CMD_DISABLE
    };
    call(
        HYPERVISOR_VM_ASSIST,
        [cmd.into(), VMASST_TYPE_WRITABLE_PAGETABLES.into(), 0, 0, 0],
    )
}

/// Run `f` with a live L1 and a page for it to map.
fn with_l1(f: fn(&Region, u64) -> Result) -> Result {
    let page = a_page()?;
    let r = paged("region", Region::new(SLOT))?;
    same!(assist(true), 0, "assist");
    let result = f(&r, entry(mfn_of(page), DATA));
    assist(false);
    for i in 0..8 {
        mmu_update1(maddr(r.l1) + i * 8, 0);
    }
    let removed = r.remove();
    result?;
    same!(removed, 0, "remove the region");
    Ok(())
}

/// A snippet with rbx at an entry and rax a value.
fn store(code: &[u8], va: u64, v: u64) -> Outcome {
    Probe::kernel(code).rbx(va).rax(v).run()
}

/// An entry without the bits that Xen or the processor add.
fn plain(e: u64) -> u64 {
    e & (FRAME | P | RW)
}

fn off() -> Result {
    let page = a_page()?;
    let r = paged("region", Region::new(SLOT))?;
    let o = store(code!("mov [rbx], rax"), r.l1, entry(mfn_of(page), DATA));
    same!(r.remove(), 0, "remove the region");
    same!(o.trap.number, 14, "store without the assist");
    same!(o.trap.error, 3, "its error code");
    same!(o.trap.cr2, r.l1, "its cr2");
    Ok(())
}

fn mov() -> Result {
    with_l1(|r, e| {
        let o = store(code!("mov [rbx], rax", "nop"), r.l1, e);
        check!(o.done(), "store: {:x?}", o.trap);
        same!(plain(read64(r.l1)), plain(e), "entry");
        crate::arch::memory::write64(r.va, 5);
        let o = store(code!("mov qword ptr [rbx], 0"), r.l1, 0);
        check!(o.done(), "store of an immediate: {:x?}", o.trap);
        same!(read64(r.l1), 0, "entry after clearing");
        Ok(())
    })
}

fn sizes() -> Result {
    with_l1(|r, e| {
        let at = r.l1 + 8;
        let o = store(code!("mov [rbx], rax"), at, e & !P);
        check!(o.done(), "8 bytes: {:x?}", o.trap);
        same!(read64(at), e & !P, "8 bytes");
        let o = store(code!("mov [rbx], al"), at, e & 0xff);
        check!(o.done(), "1 byte: {:x?}", o.trap);
        same!(plain(read64(at)), plain(e), "1 byte");
        let o = store(code!("mov [rbx], ax"), at, (e & 0xffff) & !RW);
        check!(o.done(), "2 bytes: {:x?}", o.trap);
        same!(plain(read64(at)), plain(e & !RW), "2 bytes");
        let o = store(code!("mov [rbx], eax"), at, e & 0xffff_ffff);
        check!(o.done(), "4 bytes: {:x?}", o.trap);
        same!(plain(read64(at)), plain(e), "4 bytes");
        let o = store(code!("mov [rbx + 4], eax"), at, e >> 32 | 1 << 31);
        check!(o.done(), "upper 4 bytes: {:x?}", o.trap);
        same!(read64(at) >> 63, 1, "NX by the upper 4 bytes");
        Ok(())
    })
}

fn xchg() -> Result {
    with_l1(|r, e| {
        let o = store(code!("xchg [rbx], rax"), r.l1, e);
        check!(o.done(), "xchg: {:x?}", o.trap);
        same!(o.regs().rax, 0, "old entry");
        let o = store(code!("xchg [rbx], rax"), r.l1, 0);
        check!(o.done(), "xchg back: {:x?}", o.trap);
        same!(plain(o.regs().rax), plain(e), "old entry");
        same!(read64(r.l1), 0, "entry");
        Ok(())
    })
}

fn cmpxchg() -> Result {
    with_l1(|r, e| {
        let run = |old, new| {
            Probe::kernel(code!("lock cmpxchg [rbx], rcx", "setz dl"))
                .rbx(r.l1)
                .rax(old)
                .rcx(new)
                .run()
        };
        let o = run(0, e);
        check!(o.done(), "cmpxchg: {:x?}", o.trap);
        same!(o.regs().rdx & 1, 1, "ZF of a match");
        let now = read64(r.l1);
        same!(plain(now), plain(e), "entry");
        let o = run(0, 0x1000);
        check!(o.done(), "cmpxchg without match: {:x?}", o.trap);
        same!(o.regs().rdx & 1, 0, "ZF without match");
        same!(o.regs().rax, now, "rax without match");
        same!(read64(r.l1), now, "entry without match");
        Ok(())
    })
}

fn and_or() -> Result {
    with_l1(|r, e| {
        same!(mmu_update1(maddr(r.l1), e), 0, "entry");
        let o = store(code!("lock and byte ptr [rbx], 0xfd"), r.l1, 0);
        check!(o.done(), "lock and byte: {:x?}", o.trap);
        same!(plain(read64(r.l1)), plain(e & !RW), "entry without RW");
        let o = store(code!("lock or byte ptr [rbx], 2"), r.l1, 0);
        check!(o.done(), "lock or byte: {:x?}", o.trap);
        same!(plain(read64(r.l1)), plain(e), "entry with RW");
        // the lock prefix patched to a ds prefix
        let o = store(&[0x3e, 0x80, 0x23, 0xfd], r.l1, 0);
        check!(o.done(), "and byte with a ds prefix: {:x?}", o.trap);
        same!(plain(read64(r.l1)), plain(e & !RW), "entry without RW");
        let o = store(code!("and [rbx], rax"), r.l1, !P);
        check!(o.done(), "and 8 bytes: {:x?}", o.trap);
        same!(read64(r.l1) & P, 0, "entry without P");
        let o = store(code!("or [rbx], rax", "sets cl"), r.l1, P);
        check!(o.done(), "or 8 bytes: {:x?}", o.trap);
        same!(read64(r.l1) & P, P, "entry with P");
        Ok(())
    })
}

fn bits() -> Result {
    with_l1(|r, e| {
        same!(mmu_update1(maddr(r.l1), e), 0, "entry");
        let o = store(code!("lock btr qword ptr [rbx], 1", "setc cl"), r.l1, 0);
        check!(o.done(), "btr: {:x?}", o.trap);
        same!(o.regs().rcx & 1, 1, "CF of btr");
        same!(read64(r.l1) & RW, 0, "entry after btr");
        let o = store(code!("lock bts qword ptr [rbx], 1", "setc cl"), r.l1, 0);
        check!(o.done(), "bts: {:x?}", o.trap);
        same!(o.regs().rcx & 1, 0, "CF of bts");
        same!(read64(r.l1) & RW, RW, "entry after bts");
        Ok(())
    })
}

fn invalid() -> Result {
    with_l1(|r, e| {
        same!(mmu_update1(maddr(r.l1), e), 0, "entry");
        for (bad, what) in [
            (entry(mfn_of(r.l1), DATA), "a page table, writable"),
            (entry(1 << 36, DATA), "a frame beyond memory"),
        ] {
            let o = store(code!("nop", "mov [rbx], rax"), r.l1, bad);
            same!(o.trap.number, 14, "{what}: vector");
            same!(o.trap.error, 3, "{what}: error code");
            same!(o.trap.cr2, r.l1, "{what}: cr2");
            same!(o.offset(), 1, "{what}: rip");
            same!(plain(read64(r.l1)), plain(e), "{what}: entry");
        }
        Ok(())
    })
}

/// Not for user mode.
fn user() -> Result {
    crate::harness::runner::need_user()?;
    same!(assist(true), 0, "assist");
    let o = Probe::user(code!("mov [rbx], rax"))
        .rbx(crate::harness::user::RO)
        .run();
    assist(false);
    same!(o.trap.number, 14, "vector");
    same!(o.trap.error, 7, "error code");
    Ok(())
}

/// Only L1 tables can be written directly.
fn upper_levels() -> Result {
    with_l1(|r, e| {
        for (va, what) in [(r.l2, "L2"), (r.l3, "L3")] {
            let o = store(code!("mov [rbx + 8], rax"), va, e);
            same!(o.trap.number, 14, "{what}");
        }
        Ok(())
    })
}
