//! Event channels: making, binding, sending, masking, upcalls, waiting.

use super::t;
use crate::arch::probe::Probe;
use crate::arch::vcpu::this;
use crate::harness::events::*;
use crate::harness::machine::info;
use crate::harness::runner::{Result, Test};
use crate::harness::time::{MS, now, poll};
use crate::harness::xen::*;
use crate::{check, code, same};
use xenner_xen_abi::errno::*;
use xenner_xen_abi::event_channel::*;
use xenner_xen_abi::sched::{SCHEDOP_BLOCK, SCHEDOP_POLL, SchedPoll};
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("event-own-domid", own_domid),
    t("event-status", status),
    t("event-unbound", unbound),
    t("event-interdomain-self", interdomain),
    t("event-bind-virq", bind_virq),
    t("event-bind-ipi", bind_ipi),
    t("event-bind-vcpu", bind_vcpu),
    t("event-errors", errors),
    t("event-send-masked", send_masked),
    t("event-unmask", unmask),
    t("event-upcall", upcall),
    t("event-upcall-user", upcall_user),
    t("event-upcall-frame", upcall_frame),
    t("event-pending-not-cleared", pending_stays),
    t("event-poll", poll_rules),
    t("event-block", block),
    t("event-close", close_rules),
    t("event-iret-delivers", iret_delivers),
    t("event-multicall-delivers", multicall_delivers),
    t("event-many-ports", many_ports),
    t("event-fifo", fifo),
];

/// A port from this vCPU to itself, masked and clear.
pub fn ipi(vcpu: u32) -> core::result::Result<u32, i64> {
    let mut b = EvtchnBindIpi { vcpu, port: 0 };
    match evtchn(EVTCHNOP_BIND_IPI, &mut b) {
        0 => {
            mask(b.port);
            clear(b.port);
            Ok(b.port)
        }
        e => Err(e),
    }
}

/// Run with a fresh port, and close it.
fn with_ipi(f: impl FnOnce(u32) -> Result) -> Result {
    let p = match ipi(0) {
        Ok(p) => p,
        Err(e) => crate::fail!("bind_ipi: {e}"),
    };
    let r = f(p);
    this().set_mask(1);
    mask(p);
    let closed = close(p);
    clear(p);
    reset_vcpu(this());
    r?;
    same!(closed, 0, "close");
    Ok(())
}

fn get_status(dom: u16, port: u32) -> (i64, EvtchnStatus) {
    let mut s = EvtchnStatus {
        dom,
        port,
        ..EvtchnStatus::default()
    };
    (evtchn(EVTCHNOP_STATUS, &mut s), s)
}

fn alloc(remote: u16) -> (i64, u32) {
    let mut a = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: remote,
        port: 0,
    };
    (evtchn(EVTCHNOP_ALLOC_UNBOUND, &mut a), a.port)
}

/// This domain's number, as the status of a port tells it.
pub fn domid() -> u16 {
    let (_, p) = alloc(DOMID_SELF);
    let (_, s) = get_status(DOMID_SELF, p);
    close(p);
    s.u[0] as u16
}

fn own_domid() -> Result {
    let id = domid();
    check!(id != 0 && id < DOMID_FIRST_RESERVED, "domid {id:#x}");
    Ok(())
}

fn status() -> Result {
    let i = info();
    for p in [i.console_evtchn, i.store_evtchn] {
        let (r, s) = get_status(DOMID_SELF, p);
        same!(r, 0, "status of port {p}");
        check!(
            s.status == EVTCHNSTAT_INTERDOMAIN || s.status == EVTCHNSTAT_UNBOUND,
            "port {p} has status {}",
            s.status
        );
        same!(s.u[0] & 0xffff, 0, "remote domain of port {p}");
    }
    let (r, s) = get_status(DOMID_SELF, 60);
    same!(r, 0, "status of a free port");
    same!(s.status, EVTCHNSTAT_CLOSED, "status of a free port");
    let (r, _) = get_status(DOMID_SELF, 1 << 20);
    same!(r, -EINVAL, "status of port 2^20");
    Ok(())
}

fn unbound() -> Result {
    let (r, p) = alloc(0);
    same!(r, 0, "alloc_unbound");
    check!(p != 0, "port 0");
    let (_, s) = get_status(DOMID_SELF, p);
    same!(s.status, EVTCHNSTAT_UNBOUND, "status");
    same!(s.u[0] & 0xffff, 0, "remote domain");
    same!(send(p), 0, "send on an unbound port");
    same!(close(p), 0, "close");
    same!(close(p), -EINVAL, "close again");
    same!(send(p), -EINVAL, "send on a closed port");
    let (again, q) = alloc(0);
    same!(again, 0, "alloc_unbound");
    same!(q, p, "the lowest free port");
    same!(close(q), 0, "close");
    Ok(())
}

fn interdomain() -> Result {
    let (_, a) = alloc(DOMID_SELF);
    let mut b = EvtchnBindInterdomain {
        remote_dom: DOMID_SELF,
        remote_port: a,
        ..EvtchnBindInterdomain::default()
    };
    mask(a);
    same!(
        evtchn(EVTCHNOP_BIND_INTERDOMAIN, &mut b),
        0,
        "bind_interdomain"
    );
    let p = b.local_port;
    mask(p);
    check!(p != a, "the same port");
    check!(pending(p), "the new port is not pending");
    clear(p);
    clear(a);
    same!(send(p), 0, "send");
    check!(
        pending(a) && !pending(p),
        "pending: {} {}",
        pending(a),
        pending(p)
    );
    clear(a);
    same!(send(a), 0, "send the other way");
    check!(pending(p), "not pending");
    clear(p);
    let (_, s) = get_status(DOMID_SELF, p);
    same!(s.status, EVTCHNSTAT_INTERDOMAIN, "status");
    same!(s.u[1], a, "remote port");
    let mut again = EvtchnBindInterdomain {
        remote_port: a,
        ..b
    };
    same!(
        evtchn(EVTCHNOP_BIND_INTERDOMAIN, &mut again),
        -EINVAL,
        "bind to a bound port"
    );
    same!(close(p), 0, "close");
    let (_, s) = get_status(DOMID_SELF, a);
    same!(s.status, EVTCHNSTAT_UNBOUND, "status of the other end");
    same!(close(a), 0, "close the other end");
    Ok(())
}

fn bind(virq: u32, vcpu: u32) -> (i64, u32) {
    let mut b = EvtchnBindVirq {
        virq,
        vcpu,
        port: 0,
    };
    (evtchn(EVTCHNOP_BIND_VIRQ, &mut b), b.port)
}

fn bind_virq() -> Result {
    let (r, p) = bind(VIRQ_DEBUG, 0);
    same!(r, 0, "bind_virq DEBUG");
    mask(p);
    let (_, s) = get_status(DOMID_SELF, p);
    same!(s.status, EVTCHNSTAT_VIRQ, "status");
    same!(s.u[0], VIRQ_DEBUG, "virq of the status");
    same!(bind(VIRQ_DEBUG, 0).0, -EEXIST, "bind it twice");
    same!(close(p), 0, "close");
    same!(bind(24, 0).0, -EINVAL, "virq 24");
    same!(bind(VIRQ_TIMER, 77).0, -ENOENT, "vcpu 77");
    // Xen 4.17 binds the global interrupts of dom0 for everyone, later ones refuse
    let (r, p) = bind(VIRQ_CON_RING, 0);
    if r == 0 {
        same!(close(p), 0, "close");
    }
    Ok(())
}

fn bind_ipi() -> Result {
    with_ipi(|p| {
        let (_, s) = get_status(DOMID_SELF, p);
        same!(s.status, EVTCHNSTAT_IPI, "status");
        same!(s.vcpu, 0, "vcpu");
        same!(send(p), 0, "send");
        check!(pending(p), "not pending");
        clear(p);
        same!(ipi(77).unwrap_or(0), 0, "ipi to vcpu 77");
        same!(ipi(77).err().unwrap_or(0), -ENOENT, "ipi to vcpu 77");
        Ok(())
    })
}

fn bind_vcpu() -> Result {
    let (_, p) = alloc(0);
    let b = |port, vcpu| evtchn(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port, vcpu });
    same!(b(p, 0), 0, "bind_vcpu");
    same!(b(p, 77), -ENOENT, "vcpu 77");
    same!(b(1 << 20, 0), -EINVAL, "port 2^20");
    same!(close(p), 0, "close");
    with_ipi(|p| {
        same!(b(p, 0), -EINVAL, "an ipi");
        Ok(())
    })
}

fn errors() -> Result {
    for p in [0, 60, 4095, 1 << 20, u32::MAX] {
        same!(send(p), -EINVAL, "send on {p}");
        same!(close(p), -EINVAL, "close {p}");
    }
    same!(
        evtchn(EVTCHNOP_UNMASK, &mut EvtchnPort { port: 1 << 20 }),
        -EINVAL,
        "unmask 2^20"
    );
    let mut b = EvtchnBindInterdomain {
        remote_dom: 1234,
        remote_port: 1,
        ..EvtchnBindInterdomain::default()
    };
    same!(
        evtchn(EVTCHNOP_BIND_INTERDOMAIN, &mut b),
        -ESRCH,
        "bind to domain 1234"
    );
    let mut a = EvtchnAllocUnbound {
        dom: 1234,
        remote_dom: 0,
        port: 0,
    };
    let r = evtchn(EVTCHNOP_ALLOC_UNBOUND, &mut a);
    check!(
        r == -ESRCH || r == -EPERM,
        "alloc_unbound for domain 1234: {r}"
    );
    let r = evtchn(
        EVTCHNOP_BIND_PIRQ,
        &mut EvtchnBindPirq {
            pirq: 3,
            ..EvtchnBindPirq::default()
        },
    );
    check!(r < 0, "bind_pirq: {r}");
    let r = evtchn(EVTCHNOP_RESET, &mut EvtchnReset { dom: 1234 });
    check!(r < 0, "reset of domain 1234: {r}");
    Ok(())
}

fn send_masked() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        same!(send(p), 0, "send");
        check!(pending(p), "not pending");
        check!(!this().pending(), "a masked port raised an upcall");
        Ok(())
    })
}

fn unmask() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        send(p);
        same!(
            evtchn(EVTCHNOP_UNMASK, &mut EvtchnPort { port: p }),
            0,
            "unmask"
        );
        check!(!masked(p), "still masked");
        check!(this().pending(), "unmask of a pending port raised nothing");
        clear(p);
        reset_vcpu(this());
        same!(
            evtchn(EVTCHNOP_UNMASK, &mut EvtchnPort { port: p }),
            0,
            "unmask again"
        );
        check!(!this().pending(), "unmask of an idle port raised an upcall");
        Ok(())
    })
}

fn upcall() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        unmask_bit(p);
        let before = count(p);
        same!(send(p), 0, "send with upcalls masked");
        same!(count(p), before, "upcalls while masked");
        check!(this().pending(), "no upcall pending");
        // as kernels enable interrupts: clear the mask, then a call that delivers
        this().set_mask(0);
        version();
        same!(count(p), before + 1, "upcalls after xen_version");
        same!(this().mask(), 0, "mask after the upcall");
        same!(send(p), 0, "send with upcalls open");
        same!(count(p), before + 2, "upcalls after send");
        Ok(())
    })
}

fn upcall_user() -> Result {
    crate::harness::runner::need_user()?;
    with_ipi(|p| {
        reset_vcpu(this());
        unmask_bit(p);
        let before = count(p);
        send(p);
        let mut u = Probe::user(code!("nop"));
        if let Some(f) = u.user.as_mut() {
            f.rflags = 0x202;
        }
        let o = u.run();
        check!(o.done(), "ended by {:x?}", o.trap);
        same!(count(p), before + 1, "upcalls on the way to user mode");
        Ok(())
    })
}

fn upcall_frame() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        unmask_bit(p);
        let port = EvtchnPort { port: p };
        let mut probe = Probe::kernel(code!("syscall", "nop"))
            .mask(0)
            .rax(HYPERVISOR_EVENT_CHANNEL_OP)
            .rdi(EVTCHNOP_SEND.into());
        probe.regs.rsi = at(&port);
        probe.regs.rbx = 0xb;
        let o = probe.hook(|_| crate::arch::trap::Action::End).run();
        same!(o.trap.number, crate::arch::entry::STUB_EVENT, "entry");
        same!(o.offset(), 2, "rip: after the hypercall");
        same!(o.trap.saved_mask(), 0, "saved mask");
        same!(o.trap.mask, 1, "mask in the callback");
        same!(o.regs().rax, 0, "rax: the result of the hypercall");
        same!(o.regs().rbx, 0xb, "rbx");
        check!(pending(p) && this().pending(), "pending bits were cleared");
        Ok(())
    })
}

/// The hypervisor clears neither the pending bit nor the pending flag.
fn pending_stays() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        unmask_bit(p);
        send(p);
        version();
        check!(pending(p), "pending bit cleared");
        check!(this().pending(), "pending flag cleared");
        let sel = crate::arch::memory::read64(this().info.get() + 8);
        same!(sel >> (p / 64) & 1, 1, "selector bit");
        Ok(())
    })
}

fn poll_rules() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        send(p);
        let start = now();
        same!(poll(&[p], start + 2000 * MS), 0, "poll of a pending port");
        check!(now() < start + 1000 * MS, "poll of a pending port waited");
        same!(this().mask(), 1, "mask after poll");
        clear(p);
        let mut many = SchedPoll {
            ports: at(&p),
            nr_ports: 129,
            pad: 0,
            timeout: 1,
        };
        same!(sched(SCHEDOP_POLL, &mut many), -EINVAL, "129 ports");
        let bad = [p, 1 << 20];
        same!(poll(&bad, 1), -EINVAL, "a bad port");
        Ok(())
    })
}

fn block() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        unmask_bit(p);
        let before = count(p);
        send(p);
        let start = now();
        same!(sched0(SCHEDOP_BLOCK), 0, "block with an event pending");
        let m = this().mask();
        this().set_mask(1);
        same!(m, 0, "mask after block");
        same!(count(p), before + 1, "upcalls");
        check!(now() < start + 1000 * MS, "block waited");
        Ok(())
    })
}

fn close_rules() -> Result {
    let i = info();
    // the ends that dom0 uses are ordinary ports, but close one of our own
    let p = match ipi(0) {
        Ok(p) => p,
        Err(e) => crate::fail!("bind_ipi: {e}"),
    };
    send(p);
    same!(close(p), 0, "close a pending port");
    let (_, q) = alloc(0);
    check!(q != p || !pending(p), "a new port is pending");
    same!(close(q), 0, "close");
    clear(p);
    check!(i.console_evtchn != p, "never");
    Ok(())
}

/// Returning by `iret` to a frame with IF set delivers what is pending.
fn iret_delivers() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        unmask_bit(p);
        send(p);
        let before = count(p);
        // vector 6 masks; its frame says open; the return delivers
        let o = Probe::kernel(code!("ud2", "nop", "nop"))
            .hook(|t| {
                use crate::arch::trap::Action;
                match t.number {
                    6 => {
                        t.rip += 2;
                        t.rflags |= 0x200;
                        Action::Resume
                    }
                    crate::arch::entry::STUB_EVENT => {
                        handle(this());
                        Action::Resume
                    }
                    _ => Action::End,
                }
            })
            .run();
        check!(o.done(), "ended by {:x?}", o.trap);
        same!(count(p), before + 1, "upcalls");
        same!(o.trap.saved_mask(), 0, "mask after the return");
        Ok(())
    })
}

fn multicall_delivers() -> Result {
    with_ipi(|p| {
        reset_vcpu(this());
        unmask_bit(p);
        let before = count(p);
        let mut port = EvtchnPort { port: p };
        let mut list = [MulticallEntry {
            op: HYPERVISOR_EVENT_CHANNEL_OP,
            result: 9,
            args: [EVTCHNOP_SEND.into(), at_mut(&mut port), 0, 0, 0, 0],
        }; 2];
        this().set_mask(0);
        let r = crate::arch::hypercall::call(
            HYPERVISOR_MULTICALL,
            [list.as_mut_ptr() as u64, 2, 0, 0, 0],
        );
        this().set_mask(1);
        same!(r, 0, "multicall");
        same!(list[0].result | list[1].result, 0, "results");
        check!(count(p) > before, "no upcall");
        Ok(())
    })
}

fn many_ports() -> Result {
    let mut first = 0;
    let mut n = 0;
    let mut last = 0;
    while n < 200 {
        match ipi(0) {
            Ok(p) => {
                if first == 0 {
                    first = p;
                }
                last = p;
            }
            Err(e) => crate::fail!("bind_ipi {n}: {e}"),
        }
        n += 1;
    }
    reset_vcpu(this());
    unmask_bit(last);
    let sent = send(last);
    let sel = crate::arch::memory::read64(this().info.get() + 8);
    let was = pending(last);
    mask(last);
    for p in first..=last {
        close(p);
        clear(p);
    }
    reset_vcpu(this());
    same!(sent, 0, "send on port {last}");
    check!(was, "port {last} is not pending");
    same!(sel, 1 << (last / 64), "selector of port {last}");
    Ok(())
}

/// The FIFO interface may be missing, but not half there.
fn fifo() -> Result {
    let r = evtchn(
        EVTCHNOP_EXPAND_ARRAY,
        &mut EvtchnExpandArray { array_gfn: 0 },
    );
    check!(
        r == -ENOSYS || r == -EOPNOTSUPP,
        "expand_array without control block: {r}"
    );
    let r = evtchn(
        EVTCHNOP_INIT_CONTROL,
        &mut EvtchnInitControl {
            offset: 4096,
            ..EvtchnInitControl::default()
        },
    );
    check!(
        r == -ENOSYS || r == -EINVAL,
        "init_control at offset 4096: {r}"
    );
    Ok(())
}
