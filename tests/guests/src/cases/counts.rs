//! Loops that do one thing `n=N` times and nothing else, for tests of the VMM
//! that count exits; they say `# count name n=N ns=T` and pass.

use super::{named, option};
use crate::arch::entry::STUB_SYSCALL;
use crate::arch::probe::Probe;
use crate::arch::trap::{Action, Trap};
use crate::arch::vcpu::this;
use crate::harness::console::line;
use crate::harness::machine::mfn_of;
use crate::harness::paging::*;
use crate::harness::runner::{Result, Test, a_page, need_user, paged, running_l4};
use crate::harness::time::{MS, now, poll};
use crate::harness::xen::*;
use crate::harness::{events, user};
use crate::{check, code, same};
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    named("count-nothing", nothing),
    named("count-hypercall", hypercall),
    named("count-fault", fault),
    named("count-fault-user", fault_user),
    named("count-syscall", syscall),
    named("count-pte", pte),
    named("count-va-mapping", va_mapping),
    named("count-ptwr", ptwr),
    named("count-pin", pin),
    named("count-switch", switch),
    named("count-event", event),
    named("count-timer", timer),
    named("count-cli", cli),
];

/// Run `f` N times between two marks on the console.
fn count(name: &str, mut f: impl FnMut(u64) -> i64) -> Result {
    let n = option("n", 1000);
    line(format_args!("# start {name} n={n}"));
    let start = now();
    for i in 0..n {
        let r = f(i);
        same!(r, 0, "{name} {i}");
    }
    line(format_args!("# count {name} n={n} ns={}", now() - start));
    Ok(())
}

/// The marks alone: what the others cost without their loop.
fn nothing() -> Result {
    count("nothing", |_| 0)
}

fn hypercall() -> Result {
    count("hypercall", |_| i64::from(version() < 0))
}

/// A snippet that loops rcx times by itself, resumed by the hook.
fn looped(name: &str, probe: Probe<'_>) -> Result {
    let n = option("n", 1000);
    line(format_args!("# start {name} n={n}"));
    this().resumed.set(0);
    let start = now();
    let mut probe = probe;
    probe.regs.r15 = n;
    let o = probe.run();
    let end = now();
    check!(o.done(), "ended by {:x?}", o.trap);
    line(format_args!("# count {name} n={n} ns={}", end - start));
    Ok(())
}

fn fault() -> Result {
    fn skip(t: &mut Trap) -> Action {
        if t.number != 14 {
            return Action::End;
        }
        t.rip += 3;
        Action::Resume
    }
    looped(
        "fault",
        Probe::kernel(code!("2:", "mov rax, [rbx]", "dec r15", "jnz 2b"))
            .rbx(0x1000)
            .hook(skip),
    )
}

fn fault_user() -> Result {
    fn skip(t: &mut Trap) -> Action {
        if t.number != 14 {
            return Action::End;
        }
        t.rip += 3;
        Action::Resume
    }
    need_user()?;
    looped(
        "fault-user",
        Probe::user(code!("2:", "mov rax, [rbx]", "dec r15", "jnz 2b"))
            .rbx(user::NONE)
            .hook(skip),
    )
}

fn syscall() -> Result {
    fn back(t: &mut Trap) -> Action {
        if t.number == STUB_SYSCALL {
            Action::Resume
        } else {
            Action::End
        }
    }
    need_user()?;
    looped(
        "syscall",
        Probe::user(code!("2:", "syscall", "dec r15", "jnz 2b")).hook(back),
    )
}

fn cli() -> Result {
    let mut iopl = xenner_xen_abi::physdev::PhysdevSetIopl { iopl: 1 };
    op2(
        HYPERVISOR_PHYSDEV_OP,
        xenner_xen_abi::physdev::PHYSDEVOP_SET_IOPL,
        &mut iopl,
    );
    looped(
        "cli",
        Probe::kernel(code!("2:", "cli", "dec r15", "jnz 2b")),
    )
}

fn pte() -> Result {
    let r = paged("region", Region::new(302))?;
    let page = a_page()?;
    let result = count("pte", |i| {
        mmu_update1(maddr(r.l1) + i % 512 * 8, entry(mfn_of(page), DATA))
    });
    for i in 0..512 {
        mmu_update1(maddr(r.l1) + i * 8, 0);
    }
    same!(r.remove(), 0, "remove the region");
    result
}

fn va_mapping() -> Result {
    let page = a_page()?;
    let e = [entry(mfn_of(page), RO), entry(mfn_of(page), DATA)];
    let result = count("va-mapping", |i| {
        update_va_mapping(page, e[(i % 2) as usize], UVMF_INVLPG)
    });
    set_rw(page);
    result
}

fn ptwr() -> Result {
    let r = paged("region", Region::new(302))?;
    let page = a_page()?;
    crate::arch::hypercall::call(
        HYPERVISOR_VM_ASSIST,
        [
            VMASST_CMD_ENABLE.into(),
            VMASST_TYPE_WRITABLE_PAGETABLES.into(),
            0,
            0,
            0,
        ],
    );
    let snippet = code!("2:", "xchg [rbx], rax", "dec r15", "jnz 2b");
    let result = looped(
        "ptwr",
        Probe::kernel(snippet)
            .rbx(r.l1)
            .rax(entry(mfn_of(page), DATA)),
    );
    mmu_update1(maddr(r.l1), 0);
    crate::arch::hypercall::call(
        HYPERVISOR_VM_ASSIST,
        [
            VMASST_CMD_DISABLE.into(),
            VMASST_TYPE_WRITABLE_PAGETABLES.into(),
            0,
            0,
            0,
        ],
    );
    same!(r.remove(), 0, "remove the region");
    result
}

fn pin() -> Result {
    let l1 = paged("table", table(&[]))?;
    count("pin", |_| {
        mmuext(MMUEXT_PIN_L1_TABLE, mfn_of(l1), 0) | mmuext(MMUEXT_UNPIN_TABLE, mfn_of(l1), 0)
    })?;
    same!(set_rw(l1), 0, "back");
    Ok(())
}

/// Kernel and user page tables loaded together, as on a context switch.
fn switch() -> Result {
    need_user()?;
    let l4 = mfn_of(user::l4());
    count("switch", |_| {
        let op = |cmd, arg1| MmuextOp {
            cmd,
            pad: 0,
            arg1,
            arg2: 0,
        };
        let mut ops = [
            op(MMUEXT_NEW_BASEPTR, running_l4()),
            op(MMUEXT_NEW_USER_BASEPTR, l4),
        ];
        crate::arch::hypercall::call(
            HYPERVISOR_MMUEXT_OP,
            [ops.as_mut_ptr() as u64, 2, 0, DOMID_SELF.into(), 0],
        )
    })
}

/// An event to itself, taken by an upcall.
fn event() -> Result {
    let p = match super::events::ipi(0) {
        Ok(p) => p,
        Err(e) => crate::fail!("bind_ipi: {e}"),
    };
    events::reset_vcpu(this());
    events::unmask_bit(p);
    this().set_mask(0);
    let before = events::count(p);
    let result = count("event", |_| send(p));
    this().set_mask(1);
    let got = events::count(p) - before;
    events::mask(p);
    same!(close(p), 0, "close");
    result?;
    same!(u64::from(got), option("n", 1000), "upcalls");
    Ok(())
}

/// A timer 100 us ahead and a wait for it.
fn timer() -> Result {
    let p = match super::timers::timer_port() {
        Ok(p) if p != 0 => p,
        e => crate::fail!("no port for the timer: {e:?}"),
    };
    count("timer", |_| {
        events::clear(p);
        let r = super::timers::singleshot(now() + MS / 10);
        if r != 0 { r } else { poll(&[p], 0) }
    })
}
