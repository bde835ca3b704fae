//! Hypercall numbers, error codes and register rules; the small calls.

use super::t;
use crate::arch::hypercall::call;
use crate::arch::memory::{get_struct, put_struct, write64};
use crate::arch::probe::Probe;
use crate::arch::trap::Regs;
use crate::harness::machine::{info, mfn_of};
use crate::harness::paging::{self, maddr};
use crate::harness::runner::{Result, Test, a_page, paged, running_l4};
use crate::harness::xen::*;
use crate::{check, code, same};
use xenner_xen_abi::arch_x86_64::*;
use xenner_xen_abi::callback::*;
use xenner_xen_abi::errno::*;
use xenner_xen_abi::event_channel::*;
use xenner_xen_abi::memory::*;
use xenner_xen_abi::physdev::*;
use xenner_xen_abi::sched::*;
use xenner_xen_abi::vcpu::*;
use xenner_xen_abi::version::*;
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("hypercall-unknown", unknown),
    t("hypercall-registers", registers),
    t("hypercall-subcommands", subcommands),
    t("hypercall-bad-pointers", bad_pointers),
    t("hypercall-privileged", privileged),
    t("multicall", multicall),
    t("multicall-errors", multicall_errors),
    t("xen-version", xen_version),
    t("xen-features", features),
    t("memory-reservations", memory_reservations),
    t("memory-map", memory_map),
    t("memory-balloon", balloon),
    t("physdev", physdev),
    t("vm-assist", vm_assist),
    t("vcpu-op-errors", vcpu_op_errors),
    t("sched-op", sched_op),
    t("sched-watchdog", watchdog),
];

/// An address in Xen's hole, one that is not canonical, one that is not mapped.
const BAD: [u64; 3] = [0xffff_8300_0000_0000, 0x8000_0000_0000, 0x10_0000];

fn unknown() -> Result {
    for nr in [11, 43, 47, 50, 55, 56, 63, 64, 127, 1000, u64::MAX, 1 << 32] {
        // by the instruction: not every number has a stub in the page
        let o = Probe::kernel(code!("syscall")).rax(nr).run();
        check!(o.done(), "hypercall {nr}: {:x?}", o.trap);
        same!(o.regs().rax as i64, -ENOSYS, "hypercall {nr}");
    }
    Ok(())
}

fn registers() -> Result {
    let regs = Regs {
        rax: HYPERVISOR_XEN_VERSION,
        rbx: 0xb1,
        rdx: 0xd1,
        rsi: 0,
        rdi: 0,
        rbp: 0xb2,
        r8: 8,
        r9: 9,
        r10: 10,
        r12: 12,
        r13: 13,
        r14: 14,
        r15: 15,
        ..Regs::default()
    };
    let o = Probe::kernel(code!("syscall")).regs(regs).run();
    check!(o.done(), "ended by {:x?}", o.trap);
    let r = o.regs();
    check!(
        r.rax as i64 >= 0x0004_0000 && r.rax < 0x100_0000,
        "version {:#x}",
        r.rax
    );
    let same = Regs {
        rax: r.rax,
        rcx: r.rcx,
        r11: r.r11,
        rsp: r.rsp,
        ..regs
    };
    check!(*r == same, "registers {r:x?}, not {same:x?}");
    // and on an error
    let o = Probe::kernel(code!("syscall"))
        .regs(Regs { rax: 63, ..regs })
        .run();
    let same = Regs {
        rax: (-ENOSYS) as u64,
        rcx: o.regs().rcx,
        r11: o.regs().r11,
        rsp: o.regs().rsp,
        ..regs
    };
    check!(
        *o.regs() == same,
        "registers after an error {:x?}",
        o.regs()
    );
    Ok(())
}

fn subcommands() -> Result {
    for (nr, what, want) in [
        (HYPERVISOR_XEN_VERSION, "xen_version", -ENOSYS),
        (HYPERVISOR_SCHED_OP, "sched_op", -ENOSYS),
        (HYPERVISOR_EVENT_CHANNEL_OP, "event_channel_op", -ENOSYS),
        (HYPERVISOR_VCPU_OP, "vcpu_op", -ENOSYS),
        (HYPERVISOR_PHYSDEV_OP, "physdev_op", -ENOSYS),
        (HYPERVISOR_CALLBACK_OP, "callback_op", -ENOSYS),
        (HYPERVISOR_VM_ASSIST, "vm_assist", -ENOSYS),
        (HYPERVISOR_MEMORY_OP, "memory_op", -ENOSYS),
        (HYPERVISOR_NMI_OP, "nmi_op", -ENOSYS),
    ] {
        same!(call(nr, [60, 0, 0, 0, 0]), want, "{what} 60");
    }
    same!(mmuext(60, 0, 0), -ENOSYS, "mmuext_op 60");
    same!(
        call(HYPERVISOR_GRANT_TABLE_OP, [60, 0, 1, 0, 0]),
        -ENOSYS,
        "grant_table_op 60"
    );
    let mut c = CallbackRegister {
        kind: 60,
        ..CallbackRegister::default()
    };
    same!(
        op2(HYPERVISOR_CALLBACK_OP, CALLBACKOP_REGISTER, &mut c),
        -ENOSYS,
        "callback type 60"
    );
    let page = a_page()?;
    same!(mmu_update1(maddr(page) | 4, 0), -ENOSYS, "mmu_update 4");
    Ok(())
}

fn bad_pointers() -> Result {
    for p in BAD {
        same!(
            call(
                HYPERVISOR_XEN_VERSION,
                [XENVER_EXTRAVERSION.into(), p, 0, 0, 0]
            ),
            -EFAULT,
            "xen_version, {p:#x}"
        );
        same!(
            call(HYPERVISOR_MULTICALL, [p, 1, 0, 0, 0]),
            -EFAULT,
            "multicall, {p:#x}"
        );
        same!(
            call(HYPERVISOR_MMU_UPDATE, [p, 1, 0, DOMID_SELF.into(), 0]),
            -EFAULT,
            "mmu_update, {p:#x}"
        );
        same!(
            call(HYPERVISOR_MMUEXT_OP, [p, 1, 0, DOMID_SELF.into(), 0]),
            -EFAULT,
            "mmuext_op, {p:#x}"
        );
        same!(
            call(HYPERVISOR_SET_TRAP_TABLE, [p, 0, 0, 0, 0]),
            -EFAULT,
            "set_trap_table, {p:#x}"
        );
        same!(
            call(HYPERVISOR_SCHED_OP, [3, p, 0, 0, 0]),
            -EFAULT,
            "poll, {p:#x}"
        );
        same!(
            call(
                HYPERVISOR_EVENT_CHANNEL_OP,
                [EVTCHNOP_SEND.into(), p, 0, 0, 0]
            ),
            -EFAULT,
            "send, {p:#x}"
        );
        same!(
            call(HYPERVISOR_MEMORY_OP, [XENMEM_MEMORY_MAP.into(), p, 0, 0, 0]),
            -EFAULT,
            "memory_map, {p:#x}"
        );
        same!(
            call(HYPERVISOR_SET_GDT, [p, 16, 0, 0, 0]),
            -EFAULT,
            "set_gdt, {p:#x}"
        );
        let r = call(
            HYPERVISOR_VCPU_OP,
            [VCPUOP_SET_SINGLESHOT_TIMER.into(), 0, p, 0, 0],
        );
        same!(r, -EFAULT, "singleshot, {p:#x}");
        same!(
            call(
                HYPERVISOR_CALLBACK_OP,
                [CALLBACKOP_REGISTER.into(), p, 0, 0, 0]
            ),
            -EFAULT,
            "callback_op, {p:#x}"
        );
        same!(
            call(
                HYPERVISOR_PHYSDEV_OP,
                [PHYSDEVOP_SET_IOPL.into(), p, 0, 0, 0]
            ),
            -EFAULT,
            "set_iopl, {p:#x}"
        );
        same!(
            call(HYPERVISOR_GRANT_TABLE_OP, [6, p, 1, 0, 0]),
            -EFAULT,
            "query_size, {p:#x}"
        );
    }
    // a structure that runs into the hole, and one that cannot be written
    let ro = paged("table", paging::table(&[]))?;
    let r = call(
        HYPERVISOR_XEN_VERSION,
        [XENVER_EXTRAVERSION.into(), ro, 0, 0, 0],
    );
    paging::set_rw(ro);
    same!(r, -EFAULT, "result into a read-only page");
    Ok(())
}

fn privileged() -> Result {
    // dm_op finds no list to read: ENODATA
    let denied = |r: i64| matches!(-r, EPERM | EACCES | ENOSYS | EFAULT | EOPNOTSUPP | ENODATA);
    for (nr, what) in [
        (HYPERVISOR_PLATFORM_OP, "platform_op"),
        (HYPERVISOR_SYSCTL, "sysctl"),
        (HYPERVISOR_DOMCTL, "domctl"),
        (HYPERVISOR_KEXEC_OP, "kexec_op"),
        (HYPERVISOR_XSM_OP, "xsm_op"),
        (HYPERVISOR_TMEM_OP, "tmem_op"),
        (HYPERVISOR_XENPMU_OP, "xenpmu_op"),
        (HYPERVISOR_DM_OP, "dm_op"),
        (HYPERVISOR_HYPFS_OP, "hypfs_op"),
        (HYPERVISOR_ARCH_0, "mca"),
    ] {
        let mut buf = [0u64; 64];
        let r = call(nr, [at_mut(&mut buf), 0, 0, 0, 0]);
        check!(denied(r), "{what}: {r}");
    }
    let mut m = MemoryMap::default();
    same!(
        op2(HYPERVISOR_MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP, &mut m),
        -EPERM,
        "machine_memory_map"
    );
    let r = call(
        HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN,
        [a_page()?, 0, 0, 1, 0],
    );
    check!(
        r == -ESRCH || r == -EPERM,
        "update_va_mapping_otherdomain: {r}"
    );
    Ok(())
}

fn multicall() -> Result {
    let e = |op, a0, a1| MulticallEntry {
        op,
        result: 0x55,
        args: [a0, a1, 0, 0, 0, 0],
    };
    let mut extra = [0u8; 16];
    let mut list = [
        e(HYPERVISOR_XEN_VERSION, 0, 0),
        e(
            HYPERVISOR_XEN_VERSION,
            XENVER_EXTRAVERSION.into(),
            extra.as_mut_ptr() as u64,
        ),
        e(
            HYPERVISOR_STACK_SWITCH,
            FLAT_KERNEL_SS.into(),
            crate::arch::entry::stack_base(0) + crate::arch::entry::KERNEL_SP_TOP,
        ),
        e(HYPERVISOR_FPU_TASKSWITCH, 0, 0),
    ];
    let r = call(HYPERVISOR_MULTICALL, [list.as_mut_ptr() as u64, 4, 0, 0, 0]);
    same!(r, 0, "multicall");
    same!(list[0].result as i64, version(), "result of xen_version");
    for (i, m) in list.iter().enumerate().skip(1) {
        same!(m.result, 0, "result {i}");
    }
    check!(extra.contains(&0), "extraversion {extra:x?}");
    same!(
        call(HYPERVISOR_MULTICALL, [list.as_mut_ptr() as u64, 0, 0, 0, 0]),
        0,
        "empty multicall"
    );
    Ok(())
}

fn multicall_errors() -> Result {
    let e = |op| MulticallEntry {
        op,
        result: 0x55,
        args: [0; 6],
    };
    let mut list = [
        e(63),
        e(1 << 40),
        e(HYPERVISOR_MULTICALL),
        e(HYPERVISOR_UPDATE_VA_MAPPING),
        e(HYPERVISOR_XEN_VERSION),
    ];
    list[2].args[1] = 1;
    list[3].args[0] = 0x10_0000;
    let r = call(HYPERVISOR_MULTICALL, [list.as_mut_ptr() as u64, 5, 0, 0, 0]);
    same!(r, 0, "multicall");
    same!(list[0].result as i64, -ENOSYS, "result of call 63");
    same!(list[1].result as i64, -ENOSYS, "result of call 2^40");
    same!(
        list[2].result as i64,
        -EINVAL,
        "result of a nested multicall"
    );
    check!(
        (list[3].result as i64) < 0,
        "result of update_va_mapping at 1 MiB: {:#x}",
        list[3].result
    );
    same!(list[4].result as i64, version(), "result after the errors");
    Ok(())
}

fn xen_version() -> Result {
    check!(version() >> 16 >= 3, "version {:#x}", version());
    let get = |cmd: u32, p: u64| call(HYPERVISOR_XEN_VERSION, [cmd.into(), p, 0, 0, 0]);
    let page = a_page()?;
    same!(get(XENVER_COMPILE_INFO, page), 0, "compile_info");
    same!(get(XENVER_CAPABILITIES, page), 0, "capabilities");
    let caps: [u8; 14] = get_struct(page);
    check!(&caps == b"xen-3.0-x86_64", "capabilities {caps:x?}");
    same!(get(XENVER_CHANGESET, page), 0, "changeset");
    same!(get(XENVER_GUEST_HANDLE, page), 0, "guest_handle");
    same!(get(XENVER_COMMANDLINE, page), 0, "commandline");
    same!(get(XENVER_PAGESIZE, 0), 4096, "pagesize");
    same!(
        get(XENVER_PAGESIZE, page),
        -EINVAL,
        "pagesize with an argument"
    );
    let mut p = PlatformParameters::default();
    same!(
        get(XENVER_PLATFORM_PARAMETERS, at_mut(&mut p)),
        0,
        "platform_parameters"
    );
    same!(p.virt_start, HYPERVISOR_VIRT_START, "virt_start");
    let r = get(XENVER_BUILD_ID, 0);
    check!(r < 0, "build_id: {r}");
    Ok(())
}

fn features() -> Result {
    let mut f = FeatureInfo::default();
    same!(
        op2(HYPERVISOR_XEN_VERSION, XENVER_GET_FEATURES, &mut f),
        0,
        "get_features"
    );
    same!(
        f.submap & 0b1010_1111,
        0b1010_0000,
        "features ({:#x})",
        f.submap
    );
    same!(
        f.submap & 0xf00,
        0,
        "HVM and dom0 features ({:#x})",
        f.submap
    );
    f.submap_idx = 1;
    same!(
        op2(HYPERVISOR_XEN_VERSION, XENVER_GET_FEATURES, &mut f),
        -EINVAL,
        "get_features of submap 1"
    );
    Ok(())
}

fn memory_reservations() -> Result {
    let mut d = Domid { domid: DOMID_SELF };
    let now = op2(HYPERVISOR_MEMORY_OP, XENMEM_CURRENT_RESERVATION, &mut d);
    // Xen counts its own pages of the domain too
    check!(
        now >= info().nr_pages as i64,
        "current_reservation {now}, {} pages",
        info().nr_pages
    );
    let max = op2(HYPERVISOR_MEMORY_OP, XENMEM_MAXIMUM_RESERVATION, &mut d);
    check!(max >= now, "maximum_reservation {max} below {now}");
    check!(
        call(
            HYPERVISOR_MEMORY_OP,
            [XENMEM_MAXIMUM_RAM_PAGE.into(), 0, 0, 0, 0]
        ) > 0,
        "maximum_ram_page"
    );
    let mut other = Domid { domid: 1234 };
    let r = op2(HYPERVISOR_MEMORY_OP, XENMEM_CURRENT_RESERVATION, &mut other);
    check!(
        r == -ESRCH || r == -EPERM,
        "current_reservation of domain 1234: {r}"
    );
    Ok(())
}

fn memory_map() -> Result {
    let mut e = [MemoryMapEntry::default(); 8];
    let mut m = MemoryMap {
        nr_entries: 8,
        pad: 0,
        buffer: e.as_mut_ptr() as u64,
    };
    let r = op2(HYPERVISOR_MEMORY_OP, XENMEM_MEMORY_MAP, &mut m);
    if r == -ENOSYS {
        crate::skip!("the toolstack gave no memory map");
    }
    same!(r, 0, "memory_map");
    check!((1..=8).contains(&m.nr_entries), "{} entries", m.nr_entries);
    let (addr, size, kind) = (e[0].addr, e[0].size, e[0].kind);
    same!(addr, 0, "start of the first entry");
    same!(kind, XEN_E820_RAM, "kind of the first entry");
    check!(
        size >= info().nr_pages << 12,
        "first entry of {size:#x} bytes, {} pages",
        info().nr_pages
    );
    // no room: as many as fit
    m.nr_entries = 0;
    let r = op2(HYPERVISOR_MEMORY_OP, XENMEM_MEMORY_MAP, &mut m);
    check!(r == 0 || r == -EINVAL, "memory_map without room: {r}");
    Ok(())
}

/// Give a page back and take one for the same place.
fn balloon() -> Result {
    let va = a_page()?;
    let pfn = (va - crate::arch::entry::VIRT_BASE) >> 12;
    let mut frame = mfn_of(va);
    let old = frame;
    let mut r = MemoryReservation {
        extent_start: at_mut(&mut frame),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..MemoryReservation::default()
    };
    same!(update_va_mapping(va, 0, UVMF_INVLPG), 0, "unmap");
    same!(
        op2(HYPERVISOR_MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut r),
        1,
        "decrease_reservation"
    );
    check!(
        crate::harness::machine::m2p(old) != pfn,
        "m2p still knows the page"
    );
    let back = update_va_mapping(va, paging::entry(old, paging::DATA), UVMF_INVLPG);
    check!(back < 0, "mapping a page that was given back: {back}");
    frame = pfn;
    same!(
        op2(HYPERVISOR_MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut r),
        1,
        "populate_physmap"
    );
    same!(
        crate::harness::machine::m2p(frame),
        pfn,
        "m2p of the new frame"
    );
    write64(info().mfn_list + pfn * 8, frame);
    same!(paging::set_rw(va), 0, "map the new frame");
    write64(va, 1);
    Ok(())
}

fn physdev() -> Result {
    let op = |cmd: u32, v: u32| op2(HYPERVISOR_PHYSDEV_OP, cmd, &mut PhysdevSetIopl { iopl: v });
    same!(op(PHYSDEVOP_SET_IOPL, 4), -EINVAL, "set_iopl 4");
    for v in [0, 3, 1] {
        same!(op(PHYSDEVOP_SET_IOPL, v), 0, "set_iopl {v}");
    }
    same!(op(PHYSDEVOP_SET_IOPL, 0), 0, "set_iopl 0");
    let mut b = PhysdevSetIobitmap {
        bitmap: 0,
        nr_ports: 65537,
        pad: 0,
    };
    same!(
        op2(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_SET_IOBITMAP, &mut b),
        -EINVAL,
        "set_iobitmap of 65537"
    );
    b.nr_ports = 0;
    same!(
        op2(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_SET_IOBITMAP, &mut b),
        0,
        "set_iobitmap of none"
    );
    let mut q = PhysdevIrqStatusQuery { irq: 5, flags: 0 };
    check!(
        op2(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_IRQ_STATUS_QUERY, &mut q) <= 0,
        "irq_status_query"
    );
    Ok(())
}

fn vm_assist() -> Result {
    let op = |cmd: u32, t: u32| call(HYPERVISOR_VM_ASSIST, [cmd.into(), t.into(), 0, 0, 0]);
    same!(op(2, 2), -ENOSYS, "command 2");
    same!(op(VMASST_CMD_ENABLE, 31), -EINVAL, "type 31");
    for ty in [
        VMASST_TYPE_WRITABLE_PAGETABLES,
        VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
    ] {
        same!(op(VMASST_CMD_ENABLE, ty), 0, "enable {ty}");
        same!(op(VMASST_CMD_DISABLE, ty), 0, "disable {ty}");
    }
    Ok(())
}

fn vcpu_op_errors() -> Result {
    for id in [64, 8191, 1 << 31] {
        same!(vcpu_op0(VCPUOP_IS_UP, id), -ENOENT, "is_up of {id}");
    }
    same!(vcpu_op0(VCPUOP_IS_UP, 0), 1, "is_up of 0");
    same!(vcpu_op0(VCPUOP_UP, 0), 0, "up of the running vcpu");
    let n = crate::harness::smp::count() as u64;
    same!(vcpu_op0(VCPUOP_UP, n), -ENOENT, "up of {n}");
    if n > 1 {
        let r = vcpu_op0(VCPUOP_UP, n - 1);
        check!(r == -EINVAL || r == 0, "up of a vcpu without context: {r}");
        let mut timer = VcpuSetSingleshotTimer::default();
        same!(
            vcpu_op(VCPUOP_SET_SINGLESHOT_TIMER, 1, &mut timer),
            -EINVAL,
            "singleshot of another"
        );
    }
    let mut p = VcpuSetPeriodicTimer { period_ns: 999_999 };
    same!(
        vcpu_op(VCPUOP_SET_PERIODIC_TIMER, 0, &mut p),
        -EINVAL,
        "period below 1 ms"
    );
    let mut i = VcpuRegisterVcpuInfo {
        mfn: mfn_of(a_page()?),
        offset: 4090,
        rsvd: 0,
    };
    let r = vcpu_op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut i);
    check!(r == -ENXIO || r == -EINVAL, "vcpu_info across a page: {r}");
    i.offset = 3;
    let r = vcpu_op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut i);
    check!(
        r == -ENXIO || r == -EINVAL,
        "vcpu_info at an odd address: {r}"
    );
    i.offset = 0;
    i.mfn = running_l4();
    let r = vcpu_op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut i);
    same!(r, -EINVAL, "vcpu_info in a page table");
    i.mfn = u64::MAX >> 12;
    let r = vcpu_op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut i);
    same!(r, -EINVAL, "vcpu_info in a frame that is not there");
    let page = a_page()?;
    put_struct(page, &0u64);
    check!(vcpu_op0(VCPUOP_GET_PHYSID, 0) < 0, "get_physid succeeds");
    Ok(())
}

fn sched_op() -> Result {
    same!(sched0(SCHEDOP_YIELD), 0, "yield");
    same!(
        call(HYPERVISOR_SCHED_OP_COMPAT, [0; 5]),
        0,
        "yield by the old call"
    );
    let mut r = SchedRemoteShutdown {
        domain_id: 1234,
        pad: 0,
        reason: 0,
    };
    let e = sched(SCHEDOP_REMOTE_SHUTDOWN, &mut r);
    check!(
        e == -EPERM || e == -ESRCH,
        "remote_shutdown of domain 1234: {e}"
    );
    for p in BAD {
        same!(
            call(HYPERVISOR_SCHED_OP, [SCHEDOP_SHUTDOWN.into(), p, 0, 0, 0]),
            -EFAULT,
            "shutdown, {p:#x}"
        );
    }
    Ok(())
}

/// Watchdogs are made, armed again and freed; they do not fire in between.
fn watchdog() -> Result {
    let op = |id, timeout| sched(SCHEDOP_WATCHDOG, &mut SchedWatchdog { id, timeout });
    let (a, b) = (op(0, 100), op(0, 100));
    // Xen 4.17 gives this one error as an unsigned 32-bit number
    let third = i64::from(op(0, 100) as i32);
    let again = op(1, 50);
    let freed = (op(1, 0), op(2, 0));
    same!(a, 1, "first watchdog");
    same!(b, 2, "second watchdog");
    check!(
        third == -ENOSPC || third == -EEXIST,
        "third watchdog: {third}"
    );
    same!(again, 0, "arm again");
    same!(freed.0, 0, "free 1");
    same!(freed.1, 0, "free 2");
    same!(op(3, 10), -EINVAL, "watchdog 3");
    let idle = op(1, 10);
    check!(
        idle == -EINVAL || idle == -EEXIST,
        "arm a free watchdog: {idle}"
    );
    Ok(())
}
