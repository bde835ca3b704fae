//! Page-table rules: types, pinning, what entries may say, updates by
//! hypercall, flushes, M2P updates.

use super::t;
use crate::arch::memory::{PAGE, read64, write64};
use crate::arch::probe::Probe;
use crate::harness::machine::{info, m2p, mfn_of, p2m};
use crate::harness::paging::*;
use crate::harness::runner::{Result, Test, a_page, l1_entry, paged, running_l4};
use crate::harness::xen::*;
use crate::{check, code, same};
use xenner_xen_abi::errno::*;
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("paging-pin-levels", pin_levels),
    t("paging-pin-errors", pin_errors),
    t("paging-rw-of-table", rw_of_table),
    t("paging-writable-then-table", writable_then_table),
    t("paging-wrong-level", wrong_level),
    t("paging-bad-frames", bad_frames),
    t("paging-pse", pse),
    t("paging-reserved-flags", reserved_flags),
    t("paging-not-present", not_present),
    t("paging-visible-bits", visible_bits),
    t("paging-l4-xen-slots", xen_slots),
    t("paging-l4-switch", l4_switch),
    t("paging-unpin-running", unpin_running),
    t("paging-self-map", self_map),
    t("paging-table-reuse", table_reuse),
    t("paging-shared-l1", shared_l1),
];

const SLOT: u64 = 300;

fn pin_levels() -> Result {
    let page = a_page()?;
    let l1 = paged("pin L1", pinned(1, &[(0, entry(mfn_of(page), DATA))]))?;
    let l2 = paged("pin L2", pinned(2, &[(0, entry(mfn_of(l1), TABLE))]))?;
    let l3 = paged("pin L3", pinned(3, &[(0, entry(mfn_of(l2), TABLE))]))?;
    let l4 = paged("pin L4", pinned(4, &[(0, entry(mfn_of(l3), TABLE))]))?;
    for (va, what) in [(l4, "L4"), (l3, "L3"), (l2, "L2"), (l1, "L1")] {
        same!(unpin(va), 0, "unpin {what}");
    }
    // top first: the rest stays valid below the parents' references
    let l1 = paged("table", table(&[(0, entry(mfn_of(page), DATA))]))?;
    let l2 = paged("table", table(&[(0, entry(mfn_of(l1), TABLE))]))?;
    let l3 = paged(
        "pin L3 over unpinned tables",
        pinned(3, &[(511, entry(mfn_of(l2), TABLE))]),
    )?;
    check!(set_rw(l1) < 0, "an L1 under a pinned L3 is writable");
    same!(unpin(l3), 0, "unpin L3");
    same!(set_rw(l1), 0, "L1 writable");
    same!(set_rw(l2), 0, "L2 writable");
    Ok(())
}

fn pin_errors() -> Result {
    let page = a_page()?;
    same!(
        mmuext(MMUEXT_PIN_L1_TABLE, mfn_of(page), 0),
        -EINVAL,
        "pin a writable page"
    );
    let l1 = paged("pin L1", pinned(1, &[]))?;
    same!(
        mmuext(MMUEXT_PIN_L1_TABLE, mfn_of(l1), 0),
        -EINVAL,
        "pin twice"
    );
    let r = mmuext(MMUEXT_PIN_L2_TABLE, mfn_of(l1), 0);
    check!(r == -EINVAL || r == -EBUSY, "pin a pinned L1 as L2: {r}");
    same!(unpin(l1), 0, "unpin");
    same!(
        mmuext(MMUEXT_UNPIN_TABLE, mfn_of(l1), 0),
        -EINVAL,
        "unpin twice"
    );
    let r = mmuext(MMUEXT_PIN_L1_TABLE, u64::MAX >> 12, 0);
    check!(
        r == -EINVAL || r == -EPERM,
        "pin a frame that does not exist: {r}"
    );
    let mut done = 7u32;
    let mut ops = [
        MmuextOp {
            cmd: MMUEXT_TLB_FLUSH_LOCAL,
            ..MmuextOp::default()
        },
        MmuextOp {
            cmd: MMUEXT_UNPIN_TABLE,
            pad: 0,
            arg1: mfn_of(page),
            arg2: 0,
        },
        MmuextOp {
            cmd: MMUEXT_TLB_FLUSH_LOCAL,
            ..MmuextOp::default()
        },
    ];
    let args = [
        ops.as_mut_ptr() as u64,
        3,
        at_mut(&mut done),
        DOMID_SELF.into(),
        0,
    ];
    same!(
        crate::arch::hypercall::call(HYPERVISOR_MMUEXT_OP, args),
        -EINVAL,
        "a list with an error"
    );
    same!(done, 1, "operations done before the error");
    Ok(())
}

fn rw_of_table() -> Result {
    let l1 = paged("pin L1", pinned(1, &[]))?;
    let page = a_page()?;
    let r = update_va_mapping(page, entry(mfn_of(l1), DATA), UVMF_INVLPG);
    check!(
        r == -EBUSY || r == -EINVAL,
        "writable mapping of a pinned L1: {r}"
    );
    same!(
        update_va_mapping(page, entry(mfn_of(l1), RO), UVMF_INVLPG),
        0,
        "read-only mapping"
    );
    same!(
        update_va_mapping(page, entry(mfn_of(page), DATA), UVMF_INVLPG),
        0,
        "back"
    );
    let r = set_rw(info().pt_base);
    check!(
        r == -EBUSY || r == -EINVAL,
        "writable mapping of the running L4: {r}"
    );
    // a new L1 with such an entry cannot be pinned
    let r = pinned(1, &[(0, entry(mfn_of(l1), DATA))]);
    check!(r.is_err(), "pinned an L1 that maps a page table writable");
    same!(unpin(l1), 0, "unpin");
    Ok(())
}

fn writable_then_table() -> Result {
    // a second writable alias must go before a page can become a table
    let va = a_page()?;
    let alias = a_page()?;
    let own = mfn_of(alias);
    same!(
        update_va_mapping(alias, entry(mfn_of(va), DATA), UVMF_INVLPG),
        0,
        "alias"
    );
    same!(set_ro(va), 0, "read-only");
    same!(
        mmuext(MMUEXT_PIN_L1_TABLE, mfn_of(va), 0),
        -EINVAL,
        "pin with a writable alias"
    );
    same!(
        update_va_mapping(alias, entry(own, DATA), UVMF_INVLPG),
        0,
        "alias gone"
    );
    same!(mmuext(MMUEXT_PIN_L1_TABLE, mfn_of(va), 0), 0, "pin");
    same!(unpin(va), 0, "unpin");
    Ok(())
}

fn wrong_level() -> Result {
    let l1 = paged("pin L1", pinned(1, &[]))?;
    for level in 3..=4 {
        let r = pinned(level, &[(0, entry(mfn_of(l1), TABLE))]);
        check!(r.is_err(), "an L1 inside an L{level}");
    }
    let l2 = paged("pin L2", pinned(2, &[(0, entry(mfn_of(l1), TABLE))]))?;
    let r = mmu_update1(maddr(l2) + 8, entry(mfn_of(l2), TABLE));
    check!(r < 0, "an L2 inside itself");
    let page = a_page()?;
    let r = mmu_update1(maddr(l2) + 8, entry(mfn_of(page), TABLE));
    check!(r < 0, "a writable page as L1");
    same!(unpin(l2), 0, "unpin L2");
    same!(unpin(l1), 0, "unpin L1");
    Ok(())
}

fn bad_frames() -> Result {
    let page = a_page()?;
    let own = mfn_of(page);
    for (mfn, what) in [
        (FRAME >> 12, "the highest frame"),
        (1 << 36, "a frame beyond memory"),
        (0xfee00, "the local APIC"),
        (0, "frame 0"),
    ] {
        if mfn == 0 && p2m(0) == 0 {
            continue;
        }
        let r = update_va_mapping(page, entry(mfn, DATA), UVMF_INVLPG);
        check!(r == -EPERM || r == -EINVAL || r == -EBUSY, "{what}: {r}");
    }
    same!(
        frame(read64(l1_entry(page)?)),
        own,
        "the entry after the errors"
    );
    let r = mmu_update1(1 << 50, 0);
    check!(r < 0, "mmu_update at 2^50: {r}");
    Ok(())
}

fn pse() -> Result {
    let l1 = paged("pin L1", pinned(1, &[]))?;
    let l2 = paged("pin L2", pinned(2, &[(0, entry(mfn_of(l1), TABLE))]))?;
    let page = a_page()?;
    let big = entry(mfn_of(page) & !511, DATA | PSE);
    let r = mmu_update1(maddr(l2) + 8, big);
    same!(r, -EINVAL, "PSE in an L2");
    check!(pinned(2, &[(0, big)]).is_err(), "pinned an L2 with PSE");
    check!(pinned(3, &[(0, big)]).is_err(), "pinned an L3 with PSE");
    check!(
        pinned(4, &[(0, entry(mfn_of(l2), TABLE | PSE))]).is_err(),
        "pinned an L4 with PSE"
    );
    check!(
        mmuext(MMUEXT_MARK_SUPER, mfn_of(page) & !511, 0) < 0,
        "MARK_SUPER succeeds"
    );
    same!(unpin(l2), 0, "unpin L2");
    same!(unpin(l1), 0, "unpin L1");
    Ok(())
}

fn reserved_flags() -> Result {
    let page = a_page()?;
    let own = mfn_of(page);
    let try_one = |flags: u64| update_va_mapping(page, entry(own, DATA | flags), UVMF_INVLPG);
    // the grant marker of debug builds, else free
    let r = try_one(1 << 62);
    check!(r == -EINVAL || r == 0, "bit 62: {r}");
    for bit in [3, 4, 7] {
        let r = try_one(1 << bit);
        check!(r == -EINVAL || r == 0, "cache bit {bit}: {r}");
        if r == 0 {
            crate::harness::console::line(format_args!("# cache bit {bit} is allowed"));
        }
    }
    same!(try_one(NX), 0, "NX");
    for bit in [9, 10, 11] {
        same!(try_one(1 << bit), 0, "available bit {bit}");
        same!(
            read64(l1_entry(page)?) >> bit & 1,
            1,
            "available bit {bit} in the entry"
        );
    }
    same!(set_rw(page), 0, "back");
    Ok(())
}

fn not_present() -> Result {
    // frame and flags of an absent entry are free
    let l1 = paged("pin L1", pinned(1, &[(0, 0xffff_ffff_ffff_fffe)]))?;
    same!(
        mmu_update1(maddr(l1) + 8, 0x1234_5678_9abc_def0),
        0,
        "any bits without P"
    );
    same!(read64(l1 + 8), 0x1234_5678_9abc_def0, "the entry");
    same!(read64(l1), 0xffff_ffff_ffff_fffe, "the entry from before");
    same!(unpin(l1), 0, "unpin");
    Ok(())
}

fn visible_bits() -> Result {
    let page = a_page()?;
    let l1 = paged(
        "pin L1",
        pinned(
            1,
            &[
                (0, entry(mfn_of(page), P | RW)),
                (1, entry(mfn_of(page), P | US)),
            ],
        ),
    )?;
    let (kernel, user) = (read64(l1), read64(l1 + 8));
    same!(frame(kernel), mfn_of(page), "frame");
    same!(kernel & (P | RW), P | RW, "P and RW ({kernel:#x})");
    same!(
        user & (P | RW | US),
        P | US,
        "P and US of a user entry ({user:#x})"
    );
    crate::harness::console::line(format_args!(
        "# kernel entry {:#x}, user entry {:#x}",
        kernel & !FRAME,
        user & !FRAME
    ));
    // writing back what was read is allowed
    same!(mmu_update1(maddr(l1), kernel), 0, "the kernel entry again");
    same!(mmu_update1(maddr(l1) + 8, user), 0, "the user entry again");
    same!(unpin(l1), 0, "unpin");
    Ok(())
}

fn xen_slots() -> Result {
    let l3 = paged("pin L3", pinned(3, &[]))?;
    let l4 = maddr(info().pt_base);
    for slot in [256, 260, 271] {
        let r = mmu_update1(l4 + slot * 8, entry(mfn_of(l3), TABLE));
        check!(r == -EINVAL || r == -EPERM, "L4 slot {slot}: {r}");
    }
    // a new L4 may hold anything there
    let l4 = paged(
        "L4 with garbage in Xen's slots",
        pinned(4, &[(256, 0xffff_ffff_ffff_ffff), (262, 0x1001)]),
    )?;
    same!(unpin(l4), 0, "unpin");
    same!(unpin(l3), 0, "unpin L3");
    Ok(())
}

/// A copy of the kernel's L4 to run on.
fn copy_of_l4() -> core::result::Result<u64, i64> {
    let va = crate::arch::memory::alloc_page().ok_or(-ENOMEM)?;
    for i in (0..512).filter(|i| !(256..272).contains(i)) {
        write64(va + i * 8, read64(info().pt_base + i * 8));
    }
    match set_ro(va) {
        0 => Ok(va),
        e => Err(e),
    }
}

fn l4_switch() -> Result {
    let l4 = paged("copy", copy_of_l4())?;
    same!(mmuext(MMUEXT_PIN_L4_TABLE, mfn_of(l4), 0), 0, "pin");
    same!(mmuext(MMUEXT_NEW_BASEPTR, mfn_of(l4), 0), 0, "switch");
    let o = Probe::kernel(code!("mov rax, cr3")).run();
    same!(o.regs().rax >> 12, mfn_of(l4), "cr3");
    let m = m2p(mfn_of(l4));
    same!(
        mmuext(MMUEXT_NEW_BASEPTR, running_l4(), 0),
        0,
        "switch back"
    );
    same!(p2m(m), mfn_of(l4), "m2p in the other address space");
    same!(unpin(l4), 0, "unpin");
    // without a pin the switch validates by itself
    let l4 = paged("copy", copy_of_l4())?;
    same!(
        mmuext(MMUEXT_NEW_BASEPTR, mfn_of(l4), 0),
        0,
        "switch to an unpinned L4"
    );
    check!(set_rw(l4) < 0, "the running L4 is writable");
    same!(
        mmuext(MMUEXT_NEW_BASEPTR, running_l4(), 0),
        0,
        "switch back"
    );
    same!(set_rw(l4), 0, "writable again");
    Ok(())
}

fn unpin_running() -> Result {
    // the builder pinned the L4 that we run on
    same!(mmuext(MMUEXT_UNPIN_TABLE, running_l4(), 0), 0, "unpin");
    check!(set_rw(info().pt_base) < 0, "the running L4 is writable");
    same!(mmuext(MMUEXT_PIN_L4_TABLE, running_l4(), 0), 0, "pin again");
    Ok(())
}

fn self_map() -> Result {
    let l4 = info().pt_base;
    let r = mmu_update1(maddr(l4) + SLOT * 8, entry(running_l4(), P | US | A | D));
    if r == 0 {
        let va = 0xffff_0000_0000_0000 | SLOT << 39;
        // recursion: the L4 shows up as the page of the four same indices
        let top = va | SLOT << 30 | SLOT << 21 | SLOT << 12;
        let o = Probe::kernel(code!("mov rax, [rbx]"))
            .rbx(top + 511 * 8)
            .run();
        same!(mmu_update1(maddr(l4) + SLOT * 8, 0), 0, "clear");
        check!(o.done(), "read through the linear mapping: {:x?}", o.trap);
        same!(
            frame(o.regs().rax),
            frame(read64(l4 + 511 * 8)),
            "L4 entry 511"
        );
    } else {
        check!(
            r == -EINVAL || r == -EPERM,
            "a read-only linear mapping: {r}"
        );
        crate::harness::console::line(format_args!("# linear page tables are refused: {r}"));
    }
    let r = mmu_update1(maddr(l4) + SLOT * 8, entry(running_l4(), TABLE));
    check!(r < 0, "a writable linear mapping");
    Ok(())
}

/// A page goes through the types and is ordinary memory again each time.
fn table_reuse() -> Result {
    let va = a_page()?;
    for round in 0..3 {
        for level in 1..=4 {
            same!(set_ro(va), 0, "read-only, level {level}");
            same!(
                mmuext(MMUEXT_PIN_L1_TABLE + level - 1, mfn_of(va), 0),
                0,
                "pin as L{level}, round {round}"
            );
            same!(unpin(va), 0, "unpin L{level}");
            crate::arch::memory::fill(va, 0, 4096);
        }
    }
    Ok(())
}

/// One L1 in two places.
fn shared_l1() -> Result {
    let r = paged("region", Region::new(SLOT))?;
    let page = a_page()?;
    write64(page, 0x99);
    same!(
        mmu_update1(maddr(r.l2) + 3 * 8, entry(mfn_of(r.l1), TABLE)),
        0,
        "second L2 entry"
    );
    same!(
        mmu_update1(maddr(r.l1), entry(mfn_of(page), DATA)),
        0,
        "L1 entry"
    );
    same!(read64(r.va), 0x99, "first place");
    same!(read64(r.va + 3 * 512 * PAGE), 0x99, "second place");
    same!(mmu_update1(maddr(r.l2) + 3 * 8, 0), 0, "second gone");
    same!(read64(r.va), 0x99, "first place still");
    check!(set_rw(r.l1) < 0, "the L1 is writable");
    same!(mmu_update1(maddr(r.l1), 0), 0, "clear");
    same!(r.remove(), 0, "remove the region");
    Ok(())
}
