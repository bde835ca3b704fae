//! Several vCPUs: bring-up, events between them, remote flushes, down and up.

use super::t;
use crate::arch::memory::{atomic64, read64, write64};
use crate::arch::probe::Probe;
use crate::arch::vcpu::{id, nth, this};
use crate::harness::events::{clear, count, mask, pending, unmask_bit};
use crate::harness::machine::mfn_of;
use crate::harness::paging::{DATA, RO, entry, set_rw};
use crate::harness::runner::{Result, Test, a_page};
use crate::harness::smp::{self, Job};
use crate::harness::time::{now, spin};
use crate::harness::xen::*;
use crate::{check, code, same, skip};
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use xenner_xen_abi::errno::*;
use xenner_xen_abi::event_channel::*;
use xenner_xen_abi::vcpu::*;
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("smp-bring-up", bring_up),
    t("smp-down-up", down_up),
    t("smp-initialise-errors", initialise_errors),
    t("smp-traps", traps),
    t("smp-user", user_mode),
    t("smp-ipi", ipi),
    t("smp-ipi-upcall", ipi_upcall),
    t("smp-block-wake", block_wake),
    t("smp-remote-invlpg", remote_invlpg),
    t("smp-remote-flush", remote_flush),
    t("smp-update-va-all", update_va_all),
    t("smp-timer", timer),
    t("smp-time", time),
    t("smp-runstate", runstate),
    t("smp-vcpu-info", vcpu_info),
];

static A: AtomicU64 = AtomicU64::new(0);
static B: AtomicU64 = AtomicU64::new(0);
static R: AtomicI64 = AtomicI64::new(0);

/// Skip on one vCPU; else clear the shared words.
fn need2() -> Result {
    if smp::count() < 2 {
        skip!("one vcpu");
    }
    A.store(0, SeqCst);
    B.store(0, SeqCst);
    R.store(0, SeqCst);
    Ok(())
}

fn started(job: &'static Job) -> Result {
    same!(smp::start(1, job), 0, "start vcpu 1");
    Ok(())
}

fn joined() -> Result {
    check!(
        smp::join(1),
        "vcpu 1 did not end its job: A {:#x} B {:#x}",
        A.load(SeqCst),
        B.load(SeqCst)
    );
    Ok(())
}

fn bring_up() -> Result {
    need2()?;
    started(&Job {
        run: || A.store(id() as u64 + 100, SeqCst),
    })?;
    joined()?;
    same!(A.load(SeqCst), 101, "number of the vcpu");
    same!(vcpu_op0(VCPUOP_IS_UP, 1), 0, "is_up after down");
    Ok(())
}

fn down_up() -> Result {
    need2()?;
    for i in 1..=10 {
        started(&Job {
            run: || _ = A.fetch_add(1, SeqCst),
        })?;
        joined()?;
        same!(A.load(SeqCst), i, "runs");
    }
    // stopped by another vCPU, it goes on where it was
    started(&Job {
        run: || {
            while B.load(SeqCst) == 0 {
                A.fetch_add(1, SeqCst);
            }
        },
    })?;
    same!(vcpu_op0(VCPUOP_IS_UP, 1), 1, "is_up");
    same!(vcpu_op0(VCPUOP_DOWN, 1), 0, "down of vcpu 1");
    spin(20, || false);
    let stopped = A.load(SeqCst);
    spin(20, || false);
    same!(A.load(SeqCst), stopped, "vcpu 1 runs while it is down");
    same!(vcpu_op0(VCPUOP_UP, 1), 0, "up of vcpu 1");
    check!(
        spin(2000, || A.load(SeqCst) != stopped),
        "vcpu 1 does not go on"
    );
    B.store(1, SeqCst);
    joined()
}

fn initialise_errors() -> Result {
    need2()?;
    same!(smp::initialise(1), 0, "initialise");
    let mut c = smp::context(1);
    same!(
        vcpu_op(VCPUOP_INITIALISE, 1, &mut c),
        -EEXIST,
        "initialise twice"
    );
    same!(
        vcpu_op(VCPUOP_INITIALISE, 0, &mut c),
        -EEXIST,
        "initialise vcpu 0"
    );
    let n = smp::count() as u64;
    same!(
        vcpu_op(VCPUOP_INITIALISE, n, &mut c),
        -ENOENT,
        "initialise a vcpu that does not exist"
    );
    Ok(())
}

fn traps() -> Result {
    need2()?;
    started(&Job {
        run: || {
            for _ in 0..50 {
                let o = Probe::kernel(code!("ud2")).run();
                let p = Probe::kernel(code!("mov rax, [rbx]")).rbx(0x5000).run();
                if o.trap.number == 6 && p.trap.number == 14 && p.trap.cr2 == 0x5000 {
                    A.fetch_add(1, SeqCst);
                }
            }
        },
    })?;
    // at the same time on this one
    for _ in 0..50 {
        let p = Probe::kernel(code!("mov rax, [rbx]")).rbx(0x6000).run();
        same!(p.trap.cr2, 0x6000, "cr2 on vcpu 0");
    }
    joined()?;
    same!(A.load(SeqCst), 50, "rounds on vcpu 1");
    Ok(())
}

fn user_mode() -> Result {
    need2()?;
    crate::harness::runner::need_user()?;
    started(&Job {
        run: || {
            let o = Probe::user(code!("mov eax, 77", "syscall")).run();
            A.store(o.regs().rax, SeqCst);
            B.store(o.trap.number.into(), SeqCst);
        },
    })?;
    joined()?;
    same!(
        B.load(SeqCst),
        u64::from(crate::arch::entry::STUB_SYSCALL),
        "entry on vcpu 1"
    );
    same!(A.load(SeqCst), 77, "rax on vcpu 1");
    Ok(())
}

/// Run with a port that notifies vCPU 1.
fn with_port(f: impl FnOnce(u32) -> Result) -> Result {
    let p = match super::events::ipi(1) {
        Ok(p) => p,
        Err(e) => crate::fail!("bind_ipi to vcpu 1: {e}"),
    };
    let r = f(p);
    mask(p);
    close(p);
    clear(p);
    r
}

fn ipi() -> Result {
    need2()?;
    with_port(|p| {
        B.store(p.into(), SeqCst);
        // vcpu 1 spins with upcalls masked and sees the bits
        started(&Job {
            run: || {
                let p = B.load(SeqCst) as u32;
                A.store(1, SeqCst);
                R.store(
                    i64::from(spin(5000, || pending(p) && this().pending())),
                    SeqCst,
                );
                crate::harness::events::reset_vcpu(this());
            },
        })?;
        check!(spin(5000, || A.load(SeqCst) == 1), "vcpu 1 does not start");
        unmask_bit(p);
        same!(send(p), 0, "send");
        joined()?;
        same!(R.load(SeqCst), 1, "vcpu 1 saw the event");
        Ok(())
    })
}

fn ipi_upcall() -> Result {
    need2()?;
    with_port(|p| {
        B.store(p.into(), SeqCst);
        unmask_bit(p);
        let before = count(p);
        // vcpu 1 runs with upcalls open and makes no hypercall
        started(&Job {
            run: || {
                this().set_mask(0);
                A.store(1, SeqCst);
                while A.load(SeqCst) != 2 {
                    core::hint::spin_loop();
                }
                this().set_mask(1);
            },
        })?;
        check!(spin(5000, || A.load(SeqCst) == 1), "vcpu 1 does not start");
        for i in 1..=20 {
            same!(send(p), 0, "send {i}");
            if !spin(2000, || count(p) == before + i) {
                A.store(2, SeqCst);
                joined()?;
                crate::fail!("no upcall {i} on vcpu 1: {} upcalls", count(p) - before);
            }
        }
        A.store(2, SeqCst);
        joined()
    })
}

fn block_wake() -> Result {
    need2()?;
    with_port(|p| {
        unmask_bit(p);
        let before = count(p);
        started(&Job {
            run: || {
                for i in 1..=10 {
                    A.store(i, SeqCst);
                    R.store(sched0(xenner_xen_abi::sched::SCHEDOP_BLOCK), SeqCst);
                    this().set_mask(1);
                    B.store(i, SeqCst);
                }
            },
        })?;
        for i in 1..=10 {
            check!(
                spin(5000, || A.load(SeqCst) == i),
                "vcpu 1 is not at round {i}"
            );
            spin(2, || false);
            same!(send(p), 0, "send");
            check!(
                spin(5000, || B.load(SeqCst) == i),
                "vcpu 1 does not wake up in round {i}"
            );
        }
        joined()?;
        same!(R.load(SeqCst), 0, "block");
        same!(count(p) - before, 10, "upcalls");
        Ok(())
    })
}

/// vcpu 1 reads a page again and again; this one remaps it, flushes, and looks
/// whether vcpu 1 still sees the old page.
fn remap_under_reader(change: fn(va: u64, pte: u64) -> i64) -> Result {
    need2()?;
    let (va, other) = (a_page()?, a_page()?);
    write64(va, 1);
    write64(other, 2);
    B.store(va, SeqCst);
    started(&Job {
        run: || {
            let va = B.load(SeqCst);
            while R.load(SeqCst) == 0 {
                A.store(read64(va), SeqCst);
            }
        },
    })?;
    let mut failed = None;
    for round in 0..50 {
        for (mfn, v) in [(mfn_of(other), 2), (mfn_of(va), 1)] {
            let r = change(va, entry(mfn, DATA));
            if r != 0 {
                failed = Some((round, r));
            }
            // one value may be on its way; the next one must be new
            A.store(0, SeqCst);
            spin(1000, || A.load(SeqCst) != 0);
            A.store(0, SeqCst);
            spin(1000, || A.load(SeqCst) != 0);
            let seen = A.load(SeqCst);
            if seen != v && failed.is_none() {
                failed = Some((round, seen as i64));
            }
        }
    }
    R.store(1, SeqCst);
    joined()?;
    same!(set_rw(va), 0, "back");
    if let Some((round, seen)) = failed {
        crate::fail!("round {round}: vcpu 1 sees {seen}");
    }
    Ok(())
}

fn remote_invlpg() -> Result {
    remap_under_reader(|va, pte| match update_va_mapping(va, pte, UVMF_NONE) {
        0 => mmuext(MMUEXT_INVLPG_ALL, va, 0),
        e => e,
    })
}

fn remote_flush() -> Result {
    remap_under_reader(|va, pte| match update_va_mapping(va, pte, UVMF_NONE) {
        0 => {
            let mask = 3u64;
            mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, at(&mask))
        }
        e => e,
    })
}

fn update_va_all() -> Result {
    remap_under_reader(|va, pte| update_va_mapping(va, pte, UVMF_INVLPG | UVMF_ALL))?;
    // write permission taken away under a writer
    let va = a_page()?;
    B.store(va, SeqCst);
    A.store(0, SeqCst);
    R.store(0, SeqCst);
    started(&Job {
        run: || {
            let va = B.load(SeqCst);
            let o = Probe::kernel(code!("2:", "inc qword ptr [rbx]", "jmp 2b"))
                .rbx(va)
                .run();
            A.store(o.trap.number.into(), SeqCst);
            R.store(o.trap.error as i64, SeqCst);
        },
    })?;
    check!(
        spin(5000, || atomic64(va).load(SeqCst) > 100),
        "vcpu 1 does not write"
    );
    same!(
        update_va_mapping(va, entry(mfn_of(va), RO), UVMF_INVLPG | UVMF_ALL),
        0,
        "read-only"
    );
    let stopped = read64(va);
    spin(20, || false);
    same!(read64(va), stopped, "vcpu 1 still writes");
    joined()?;
    same!(set_rw(va), 0, "back");
    same!(A.load(SeqCst), 14, "vector on vcpu 1");
    same!(R.load(SeqCst), 3, "error code on vcpu 1");
    Ok(())
}

fn timer() -> Result {
    need2()?;
    started(&Job {
        run: || {
            let mut b = EvtchnBindVirq {
                virq: VIRQ_TIMER,
                vcpu: 1,
                port: 0,
            };
            let r = evtchn(EVTCHNOP_BIND_VIRQ, &mut b);
            vcpu_op0(VCPUOP_STOP_PERIODIC_TIMER, 1);
            mask(b.port);
            clear(b.port);
            let mut s = VcpuSetSingleshotTimer {
                timeout_abs_ns: now() + 5_000_000,
                ..VcpuSetSingleshotTimer::default()
            };
            let set = vcpu_op(VCPUOP_SET_SINGLESHOT_TIMER, 1, &mut s);
            R.store(if r != 0 { r } else { set }, SeqCst);
            A.store(u64::from(spin(2000, || pending(b.port))), SeqCst);
            close(b.port);
            clear(b.port);
        },
    })?;
    joined()?;
    same!(
        R.load(SeqCst),
        0,
        "bind_virq and set_singleshot_timer on vcpu 1"
    );
    same!(A.load(SeqCst), 1, "timer event on vcpu 1");
    Ok(())
}

/// Time is the same on both, near enough.
fn time() -> Result {
    need2()?;
    started(&Job {
        run: || {
            while R.load(SeqCst) == 0 {
                A.store(now(), SeqCst);
            }
        },
    })?;
    check!(spin(5000, || A.load(SeqCst) != 0), "vcpu 1 does not start");
    let mut worst = 0i64;
    for _ in 0..2000 {
        let before = now();
        let there = A.load(SeqCst);
        let seen = now();
        if there > seen {
            worst = worst.max((there - seen) as i64);
        }
        if before > seen {
            worst = i64::MAX;
        }
    }
    R.store(1, SeqCst);
    joined()?;
    check!(worst < 1_000_000, "vcpu 1 is {worst} ns ahead");
    Ok(())
}

fn runstate() -> Result {
    need2()?;
    let mut r = VcpuRunstateInfo::default();
    same!(smp::initialise(1), 0, "initialise");
    same!(
        vcpu_op(VCPUOP_GET_RUNSTATE_INFO, 1, &mut r),
        0,
        "runstate of a vcpu that is down"
    );
    same!(r.state, RUNSTATE_OFFLINE, "its state");
    Ok(())
}

/// Place the record of vcpu 1 elsewhere; once only.
fn vcpu_info() -> Result {
    need2()?;
    same!(smp::initialise(1), 0, "initialise");
    let page = nth(1).code_page.get();
    let at = page + 0xc00;
    let mut i = VcpuRegisterVcpuInfo {
        mfn: mfn_of(page),
        offset: 0xc00,
        rsvd: 0,
    };
    nth(1).set_mask(1);
    let r = vcpu_op(VCPUOP_REGISTER_VCPU_INFO, 1, &mut i);
    same!(r, 0, "register_vcpu_info");
    nth(1).info.set(at);
    check!(nth(1).pending(), "no upcall pending after it");
    same!(read64(at + 8), u64::MAX, "selector after it");
    same!(nth(1).mask(), 1, "mask after it");
    let again = vcpu_op(VCPUOP_REGISTER_VCPU_INFO, 1, &mut i);
    check!(
        again == -EBUSY || again == -EINVAL,
        "register twice: {again}"
    );
    crate::harness::events::reset_vcpu(nth(1));
    started(&Job {
        run: || {
            let o = Probe::kernel(code!("mov rax, [rbx]")).rbx(0x7000).run();
            A.store(o.trap.cr2, SeqCst);
            B.store(now(), SeqCst);
        },
    })?;
    joined()?;
    same!(A.load(SeqCst), 0x7000, "cr2 in the new record");
    check!(
        B.load(SeqCst) > 1_000_000,
        "time in the new record: {}",
        B.load(SeqCst)
    );
    Ok(())
}
