//! What the domain builder leaves: registers, start info, the initial mapping,
//! P2M and M2P; and the tests that only boot or crash.

use super::{named, t};
use crate::arch::entry::{VIRT_BASE, end_of_image, entry_regs};
use crate::arch::memory::{self, PAGE, read64};
use crate::harness::console::line;
use crate::harness::machine::{self, info, m2p, m2p_max, mfn_of, p2m};
use crate::harness::paging::{FRAME, P, RW, US, frame, kernel_entry_at};
use crate::harness::runner::{Result, Test, l1_entry, shutdown};
use crate::{check, code, fail, same, skip};
use xenner_xen_abi::arch_x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, SHARED_M2P_ENTRY};
use xenner_xen_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF};
use xenner_xen_abi::xen::{HYPERVISOR_SET_TRAP_TABLE, SIF_MOD_START_PFN, SIF_VIRT_P2M_4TOOLS};

pub const TESTS: &[Test] = &[
    named("boot", boot),
    named("crash", crash),
    named("crash-trap", crash_trap),
    t("boot-registers", registers),
    t("boot-start-info", start_info),
    t("boot-mapping", mapping),
    t("boot-page-tables-ro", tables_ro),
    t("boot-slack", slack),
    t("boot-p2m", p2m_list),
    t("boot-m2p", m2p_table),
    t("boot-console-page", rings),
];

/// One line, then power off.
fn boot() -> Result {
    line(format_args!("pvtest: booted"));
    shutdown(SHUTDOWN_POWEROFF)
}

/// One line, then a crash that the kernel reports itself.
fn crash() -> Result {
    line(format_args!("pvtest: crashes"));
    shutdown(SHUTDOWN_CRASH)
}

/// A trap without a handler: the hypervisor crashes the domain.
fn crash_trap() -> Result {
    line(format_args!("pvtest: crashes by a trap without a handler"));
    crate::arch::hypercall::call(HYPERVISOR_SET_TRAP_TABLE, [0; 5]);
    crate::arch::probe::Probe::kernel(code!("ud2")).run();
    fail!("still alive")
}

fn registers() -> Result {
    let r = entry_regs();
    same!(r.rsi, machine::info_va(), "rsi");
    let [_, _, ds, cs, ss] = r.r11_rcx_ds_cs_ss;
    same!(ds, 0, "ds");
    if cs & 0xffff != u64::from(FLAT_KERNEL_CS) || ss & 0xffff != u64::from(FLAT_KERNEL_SS) {
        line(format_args!(
            "# cs {cs:#x} ss {ss:#x}: read in ring 3, may be the host's"
        ));
    }
    for (i, v) in r.others.iter().enumerate() {
        same!(*v, 0, "register {i} of rbp rbx r15-r12 r10 r9 r8 rax rdx");
    }
    same!(r.rdi, 0, "rdi");
    same!(r.r11_rcx_ds_cs_ss[0], 0, "r11");
    same!(r.r11_rcx_ds_cs_ss[1], 0, "rcx");
    same!(r.rflags & !0x46, 0x200, "rflags");
    let i = info();
    let stack_end = i.pt_base + i.nr_pt_frames * PAGE + PAGE;
    same!(r.rsp, stack_end, "rsp, one page after the page tables");
    Ok(())
}

fn start_info() -> Result {
    let i = info();
    check!(
        i.magic.starts_with(b"xen-3.0-x86_64\0"),
        "magic {:x?}",
        i.magic
    );
    check!(i.nr_pages >= 1024, "nr_pages {}", i.nr_pages);
    same!(i.shared_info & 0xfff, 0, "shared_info offset");
    same!(
        i.flags & !(SIF_MOD_START_PFN | SIF_VIRT_P2M_4TOOLS),
        0,
        "flags"
    );
    check!(
        i.store_evtchn != 0 && i.console_evtchn != 0,
        "ports {} {}",
        i.store_evtchn,
        i.console_evtchn
    );
    check!(i.store_evtchn != i.console_evtchn, "ports are the same");
    check!(i.store_mfn != i.console_mfn, "frames are the same");
    let va = machine::info_va();
    same!(va & 0xfff, 0, "address of start info");
    check!(va >= end_of_image(), "start info lies in the kernel");
    check!(
        i.pt_base == va + 3 * PAGE,
        "page tables at {:#x}, not 3 pages after start info {va:#x}",
        i.pt_base
    );
    for off in (1168..4096).step_by(8) {
        same!(read64(va + off), 0, "word {off} after start info");
    }
    Ok(())
}

fn mapping() -> Result {
    // every page from pfn 0 to the stack is mapped in order
    let end = entry_regs().rsp;
    let i = info();
    let tables = i.pt_base..i.pt_base + i.nr_pt_frames * PAGE;
    let mut va = VIRT_BASE;
    while va < end {
        let e = read64(l1_entry(va)?);
        check!(e & P != 0, "{va:#x} is not mapped");
        if va != machine::shared() {
            same!(frame(e), mfn_of(va), "frame at {va:#x}");
        }
        let ro = tables.contains(&va);
        if !ro && e & RW == 0 {
            // our own user page tables are read-only by now, nothing else
            let pool = va >= VIRT_BASE + 0x10_0000 && va < end_of_image();
            check!(pool, "{va:#x} is read-only: entry {e:#x}");
        }
        va += PAGE;
    }
    Ok(())
}

fn tables_ro() -> Result {
    let i = info();
    for n in 0..i.nr_pt_frames {
        let va = i.pt_base + n * PAGE;
        let e = read64(l1_entry(va)?);
        same!(e & (P | RW), P, "entry of page table {n}");
    }
    for level in 2..=4 {
        let Some(at) = kernel_entry_at(VIRT_BASE, level) else {
            fail!("no entry of level {level}")
        };
        let e = read64(at);
        same!(
            e & (P | RW | US),
            P | RW | US,
            "entry of level {level} ({e:#x})"
        );
    }
    let first = read64(i.pt_base);
    if machine::p2m_is_apart() {
        check!(
            read64(i.pt_base + 8) & P != 0,
            "L4 slot 1 is empty, P2M not there"
        );
    } else {
        same!(first & P, 0, "L4 slot 0");
    }
    Ok(())
}

fn slack() -> Result {
    let start = entry_regs().rsp;
    let mut va = start;
    while let Some(e) = kernel_entry_at(va, 1).map(read64).filter(|e| e & P != 0) {
        same!(frame(e), mfn_of(va), "frame at {va:#x}");
        same!(e & RW, RW, "write permission at {va:#x}");
        va += PAGE;
    }
    check!(
        va - start >= 512 << 10,
        "only {} KiB after the stack",
        (va - start) >> 10
    );
    same!(va & 0x3f_ffff, 0, "end of the initial mapping in 4 MiB");
    Ok(())
}

fn p2m_list() -> Result {
    let i = info();
    let apart = cfg!(not(feature = "hypercall_page"));
    check!(machine::p2m_is_apart() == apart, "P2M at {:#x}", i.mfn_list);
    if machine::p2m_is_apart() {
        let pages = (i.nr_pages * 8).div_ceil(PAGE);
        check!(
            i.nr_p2m_frames > pages,
            "nr_p2m_frames {} for {pages} pages",
            i.nr_p2m_frames
        );
        check!(
            i.first_p2m_pfn < i.nr_pages,
            "first_p2m_pfn {:#x}",
            i.first_p2m_pfn
        );
    } else {
        same!(i.first_p2m_pfn, 0, "first_p2m_pfn");
        check!(
            i.mfn_list > VIRT_BASE && i.mfn_list < machine::info_va(),
            "mfn_list {:#x}",
            i.mfn_list
        );
    }
    Ok(())
}

fn m2p_table() -> Result {
    let i = info();
    for pfn in 0..i.nr_pages {
        let mfn = p2m(pfn);
        check!(
            mfn <= m2p_max(),
            "mfn {mfn:#x} of pfn {pfn:#x} is above the M2P"
        );
        same!(m2p(mfn), pfn, "m2p of mfn {mfn:#x}");
    }
    // invalid or shared: no page of ours
    let e = m2p(i.shared_info >> 12);
    check!(e >= SHARED_M2P_ENTRY, "m2p of shared_info: {e:#x}");
    same!(
        frame(read64(l1_entry(machine::shared())?)),
        (i.shared_info & FRAME) >> 12,
        "shared_info frame"
    );
    Ok(())
}

fn rings() -> Result {
    let i = info();
    for (mfn, n) in [(i.store_mfn, 1), (i.console_mfn, 2)] {
        let va = machine::va_of(mfn);
        same!(va, machine::info_va() + n * PAGE, "ring page {n}");
    }
    if memory::read32(machine::va_of(i.store_mfn) + 2072) != 0 {
        skip!("xenstore ring has an error set");
    }
    Ok(())
}
