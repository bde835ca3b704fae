//! Changing page tables by hypercall, flushes, the M2P table.

use super::t;
use crate::arch::memory::{PAGE, alloc_pages, read64, write64};
use crate::arch::probe::Probe;
use crate::arch::trap::Regs;
use crate::harness::machine::{info, m2p, mfn_of};
use crate::harness::paging::*;
use crate::harness::runner::{Result, Test, a_page, l1_entry, paged};
use crate::harness::xen::*;
use crate::{check, code, same};
use xenner_xen_abi::arch_x86_64::{HYPERVISOR_VIRT_START, INVALID_M2P_ENTRY};
use xenner_xen_abi::errno::*;
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("paging-accessed-dirty", accessed_dirty),
    t("paging-mmu-update", mmu_update_levels),
    t("paging-mmu-update-done", mmu_update_done),
    t("paging-mmu-update-plain", mmu_update_plain),
    t("paging-preserve-ad", preserve_ad),
    t("paging-update-va-mapping", va_mapping),
    t("paging-update-va-errors", va_mapping_errors),
    t("paging-machphys", machphys),
    t("paging-m2p-read-only", m2p_read_only),
    t("paging-clear-copy", clear_copy),
    t("paging-direction-flag", direction_flag),
    t("paging-flush", flush),
];

const SLOT: u64 = 300;

fn accessed_dirty() -> Result {
    let page = a_page()?;
    let e = l1_entry(page)?;
    same!(
        update_va_mapping(page, entry(mfn_of(page), P | RW), UVMF_INVLPG),
        0,
        "map without A, D"
    );
    same!(read64(e) & (A | D), 0, "A, D at first");
    read64(page);
    same!(read64(e) & (A | D), A, "A, D after a read");
    write64(page, 1);
    same!(read64(e) & (A | D), A | D, "A, D after a write");
    same!(set_rw(page), 0, "back");
    Ok(())
}

fn mmu_update_levels() -> Result {
    let r = paged("region", Region::new(SLOT))?;
    let page = a_page()?;
    write64(page, 0x1111);
    same!(
        mmu_update1(maddr(r.l1) + 5 * 8, entry(mfn_of(page), DATA)),
        0,
        "L1 entry"
    );
    same!(read64(r.va + 5 * PAGE), 0x1111, "what is read through it");
    write64(r.va + 5 * PAGE, 0x2222);
    same!(read64(page), 0x2222, "what was written through it");
    let l1 = paged("table", table(&[(7, entry(mfn_of(page), DATA))]))?;
    same!(
        mmu_update1(maddr(r.l2) + 8, entry(mfn_of(l1), TABLE)),
        0,
        "L2 entry"
    );
    same!(
        read64(r.va + (512 + 7) * PAGE),
        0x2222,
        "through the new L1"
    );
    check!(set_rw(l1) < 0, "a linked L1 is writable");
    same!(mmu_update1(maddr(r.l2) + 8, 0), 0, "clear L2 entry");
    same!(set_rw(l1), 0, "the L1 is free");
    let o = Probe::kernel(code!("mov rax, [rbx]"))
        .rbx(r.va + (512 + 7) * PAGE)
        .run();
    same!(o.trap.number, 14, "read where the L1 was");
    let l2 = paged("table", table(&[]))?;
    same!(
        mmu_update1(maddr(r.l3) + 8, entry(mfn_of(l2), TABLE)),
        0,
        "L3 entry"
    );
    same!(mmu_update1(maddr(r.l3) + 8, 0), 0, "clear L3 entry");
    same!(set_rw(l2), 0, "the L2 is free");
    same!(mmu_update1(maddr(r.l1) + 5 * 8, 0), 0, "clear L1 entry");
    same!(mmuext(MMUEXT_INVLPG_LOCAL, r.va + 5 * PAGE, 0), 0, "flush");
    let o = Probe::kernel(code!("mov rax, [rbx]"))
        .rbx(r.va + 5 * PAGE)
        .run();
    same!(o.trap.number, 14, "read of a cleared entry");
    same!(r.remove(), 0, "remove the region");
    Ok(())
}

fn mmu_update_done() -> Result {
    let page = a_page()?;
    let l1 = paged("pin L1", pinned(1, &[]))?;
    let good = |i: u64| MmuUpdate {
        ptr: maddr(l1) + i * 8,
        val: entry(mfn_of(page), DATA),
    };
    let bad = MmuUpdate {
        ptr: maddr(l1),
        val: entry(1 << 36, DATA),
    };
    let (r, done) = mmu_update(&mut [good(1), good(2), bad, good(3)]);
    check!(r < 0, "a list with a bad entry: {r}");
    same!(done, 2, "entries done");
    check!(
        read64(l1 + 16) & P != 0 && read64(l1 + 24) == 0,
        "entries {:#x} {:#x}",
        read64(l1 + 16),
        read64(l1 + 24)
    );
    let (r, done) = mmu_update(&mut [good(4), good(5)]);
    same!(r, 0, "a good list");
    same!(done, 2, "its count");
    let none = crate::arch::hypercall::call(HYPERVISOR_MMU_UPDATE, [0, 0, 0, DOMID_SELF.into(), 0]);
    same!(none, 0, "an empty list without count");
    let other = crate::arch::hypercall::call(HYPERVISOR_MMU_UPDATE, [at(&good(1)), 1, 0, 1234, 0]);
    check!(other == -ESRCH || other == -EPERM, "domain 1234: {other}");
    same!(unpin(l1), 0, "unpin");
    Ok(())
}

/// A request on an ordinary page is a plain store.
fn mmu_update_plain() -> Result {
    let page = a_page()?;
    same!(
        mmu_update1(maddr(page) + 8, 0x1234_5678_9abc_def1),
        0,
        "update of a writable page"
    );
    same!(read64(page + 8), 0x1234_5678_9abc_def1, "what was stored");
    Ok(())
}

fn preserve_ad() -> Result {
    let r = paged("region", Region::new(SLOT))?;
    let page = a_page()?;
    let at = maddr(r.l1);
    same!(
        mmu_update1(at, entry(mfn_of(page), P | RW)),
        0,
        "entry without A, D"
    );
    write64(r.va, 1);
    same!(read64(r.l1) & (A | D), A | D, "A, D after a write");
    same!(
        mmu_update1(at | MMU_PT_UPDATE_PRESERVE_AD, entry(mfn_of(page), P)),
        0,
        "preserving update"
    );
    same!(read64(r.l1) & (A | D | RW), A | D, "A, D kept, RW cleared");
    same!(
        mmu_update1(at, entry(mfn_of(page), P | RW)),
        0,
        "ordinary update"
    );
    same!(read64(r.l1) & (A | D), 0, "A, D after it");
    same!(mmu_update1(at, 0), 0, "clear");
    same!(r.remove(), 0, "remove the region");
    Ok(())
}

fn va_mapping() -> Result {
    let pages = alloc_pages(2).unwrap_or(0);
    check!(pages != 0, "no pages");
    let (a, b) = (pages, pages + PAGE);
    write64(a, 0xaa);
    write64(b, 0xbb);
    for (flags, what) in [
        (UVMF_INVLPG, "INVLPG"),
        (UVMF_TLB_FLUSH, "TLB_FLUSH"),
        (UVMF_INVLPG | UVMF_ALL, "INVLPG, ALL"),
        (UVMF_TLB_FLUSH | UVMF_ALL, "TLB_FLUSH, ALL"),
    ] {
        same!(read64(a), 0xaa, "before, {what}");
        same!(
            update_va_mapping(a, entry(mfn_of(b), DATA), flags),
            0,
            "update, {what}"
        );
        same!(read64(a), 0xbb, "after, {what}");
        same!(
            update_va_mapping(a, entry(mfn_of(a), DATA), flags),
            0,
            "back, {what}"
        );
    }
    let mask = 1u64;
    same!(
        update_va_mapping(a, entry(mfn_of(b), DATA), at(&mask) | UVMF_INVLPG),
        0,
        "flush by mask"
    );
    same!(read64(a), 0xbb, "after a flush by mask");
    same!(update_va_mapping(a, 0, UVMF_INVLPG), 0, "clear");
    let o = Probe::kernel(code!("mov rax, [rbx]")).rbx(a).run();
    same!(o.trap.number, 14, "read of a cleared entry");
    same!(set_rw(a), 0, "back");
    same!(read64(a), 0xaa, "at last");
    Ok(())
}

fn va_mapping_errors() -> Result {
    let page = a_page()?;
    let e = entry(mfn_of(page), DATA);
    let r = update_va_mapping(0xffff_9a00_0000_0000, e, UVMF_INVLPG);
    same!(r, -EINVAL, "an address without L1");
    let r = update_va_mapping(HYPERVISOR_VIRT_START, e, UVMF_INVLPG);
    check!(r < 0, "an address in Xen's hole: {r}");
    let r = update_va_mapping(page, e, 3);
    check!(r == -EINVAL || r == -ENOSYS || r == 0, "flush kind 3: {r}");
    Ok(())
}

fn machphys() -> Result {
    let page = a_page()?;
    let mfn = mfn_of(page);
    let pfn = m2p(mfn);
    same!(
        mmu_update1(mfn << 12 | MMU_MACHPHYS_UPDATE, 0x123),
        0,
        "update"
    );
    let seen = m2p(mfn);
    same!(mmu_update1(mfn << 12 | MMU_MACHPHYS_UPDATE, pfn), 0, "back");
    same!(seen, 0x123, "m2p");
    let r = mmu_update1(1 << 50 | MMU_MACHPHYS_UPDATE, 1);
    check!(r < 0, "a frame that does not exist: {r}");
    Ok(())
}

fn m2p_read_only() -> Result {
    let base = crate::harness::machine::m2p_base();
    let o = Probe::kernel(code!("mov [rbx], rax"))
        .rbx(base + mfn_of(info().pt_base) * 8)
        .run();
    same!(o.trap.number, 14, "write to the M2P");
    same!(o.trap.error & 2, 2, "its error code");
    check!(
        m2p(0) == INVALID_M2P_ENTRY || m2p(0) < 1 << 40 || m2p(0) == INVALID_M2P_ENTRY - 1,
        "m2p of frame 0: {:#x}",
        m2p(0)
    );
    Ok(())
}

/// A hypercall does not take the caller's direction flag for its own, and leaves it as it was: a
/// table is looked through to its end.
fn direction_flag() -> Result {
    let nowhere = entry(1 << 28, RO);
    let l1 = paged("table", table(&[(300, nowhere)]))?;
    let op = a_page()?;
    write64(op, MMUEXT_PIN_L1_TABLE.into());
    write64(op + 8, mfn_of(l1));
    // twice: the first time at a place is not like the others everywhere
    let o = Probe::kernel(code!(
        "mov r12d, 2",
        "2:",
        "mov eax, 26",
        "std",
        "syscall",
        "dec r12d",
        "jnz 2b",
        "pushfq",
        "pop r8",
        "cld",
        "int3"
    ))
    .regs(Regs {
        rdi: op,
        rsi: 1,
        r10: DOMID_SELF.into(),
        ..Regs::default()
    })
    .run();
    same!(set_rw(l1), 0, "writable again");
    same!(o.trap.number, 3, "vector ({:x?})", o.trap);
    same!(
        o.regs().rax as i64,
        -EINVAL,
        "pin of a table that names no frame"
    );
    same!(o.regs().r8 >> 10 & 1, 1, "direction flag");
    Ok(())
}

fn clear_copy() -> Result {
    let (a, b) = (a_page()?, a_page()?);
    write64(a + 8, 0x77);
    same!(mmuext(MMUEXT_COPY_PAGE, mfn_of(b), mfn_of(a)), 0, "copy");
    same!(read64(b + 8), 0x77, "what was copied");
    same!(mmuext(MMUEXT_CLEAR_PAGE, mfn_of(b), 0), 0, "clear");
    same!(read64(b + 8), 0, "what was cleared");
    let l1 = paged("pin L1", pinned(1, &[]))?;
    same!(
        mmuext(MMUEXT_CLEAR_PAGE, mfn_of(l1), 0),
        -EINVAL,
        "clear a page table"
    );
    same!(
        mmuext(MMUEXT_COPY_PAGE, mfn_of(l1), mfn_of(a)),
        -EINVAL,
        "copy over a page table"
    );
    same!(unpin(l1), 0, "unpin");
    Ok(())
}

fn flush() -> Result {
    let mask = 1u64;
    for (cmd, arg1, arg2, what) in [
        (MMUEXT_TLB_FLUSH_LOCAL, 0, 0, "TLB_FLUSH_LOCAL"),
        (MMUEXT_INVLPG_LOCAL, info().pt_base, 0, "INVLPG_LOCAL"),
        (MMUEXT_TLB_FLUSH_MULTI, 0, at(&mask), "TLB_FLUSH_MULTI"),
        (
            MMUEXT_INVLPG_MULTI,
            info().pt_base,
            at(&mask),
            "INVLPG_MULTI",
        ),
        (MMUEXT_TLB_FLUSH_ALL, 0, 0, "TLB_FLUSH_ALL"),
        (MMUEXT_INVLPG_ALL, info().pt_base, 0, "INVLPG_ALL"),
    ] {
        same!(mmuext(cmd, arg1, arg2), 0, "{what}");
    }
    let r = mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, HYPERVISOR_VIRT_START + (3 << 40));
    check!(r == -EFAULT || r == -EINVAL, "mask in Xen's hole: {r}");
    let r = mmuext(MMUEXT_FLUSH_CACHE, 0, 0);
    check!(r == -EACCES || r == 0, "FLUSH_CACHE: {r}");
    Ok(())
}
