//! sched_op: yielding, blocking, polling; shutdown goes to the VMM.

use core::sync::atomic::Ordering::SeqCst;

use xenner_emu_abi::evtchn::PORTS;
use xenner_emu_abi::mailbox::Regs;
use xenner_xen_abi::errno::{EFAULT, EINVAL};
use xenner_xen_abi::sched::{SCHEDOP_BLOCK, SCHEDOP_POLL, SCHEDOP_POLL_MAX_PORTS, SCHEDOP_YIELD};
use xenner_xen_abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNING};

use super::vcpu_op;
use crate::arch::cpu;
use crate::mem::{boot_info, current, read_guest, read_guest_u32};
use crate::percpu::{STATE_STARTING, Vcpu};
use crate::{event, smp, time, vmm};

/// sched_op and its old form; `regs` goes into crash reports.
pub fn sched_op(nr: u64, [cmd, arg, arg2]: [u64; 3], regs: &Regs) -> i64 {
    let me = current();
    match cmd as u32 {
        SCHEDOP_YIELD => {
            if boot_info().nr_vcpus > 1 {
                vmm::yield_cpu();
            } else {
                cpu::pause();
            }
            0
        }
        SCHEDOP_BLOCK => {
            block(me);
            0
        }
        SCHEDOP_POLL => poll(me, arg).map_or_else(|e| -e, |()| 0),
        _ => vmm::hypercall_with_regs(nr, [cmd, arg, arg2, 0, 0, 0], regs),
    }
}

/// Sleeps once, unless `ready`; interrupts and TLB flushes end it.
pub fn sleep_unless(me: &Vcpu, ready: impl Fn() -> bool) {
    me.idle.store(true, SeqCst);
    if !ready() {
        cpu::wait_for_interrupt(&me.idle_rsp);
    }
    me.idle.store(false, SeqCst);
    smp::serve_flush(me);
    vcpu_op::park_if_down(me);
}

/// Sleeps once, unless this vcpu was started meanwhile.
pub fn sleep_until_starting(me: &Vcpu) {
    me.idle.store(true, SeqCst);
    if me.state.load(SeqCst) != STATE_STARTING {
        cpu::wait_for_interrupt(&me.idle_rsp);
    }
    me.idle.store(false, SeqCst);
}

fn block(me: &Vcpu) {
    event::set_masked(me, false);
    if event::upcall_pending(me) {
        return;
    }
    time::runstate(me, RUNSTATE_BLOCKED);
    let ready = || event::upcall_pending(me) || me.nmi_pending.load(SeqCst);
    while !ready() {
        sleep_unless(me, ready);
    }
    time::runstate(me, RUNSTATE_RUNNING);
}

fn poll(me: &Vcpu, arg: u64) -> Result<(), i64> {
    let list = read_guest(arg).map_err(|_| EFAULT)?;
    let n = read_guest_u32(arg.wrapping_add(8)).map_err(|_| EFAULT)?;
    let timeout = read_guest(arg.wrapping_add(16)).map_err(|_| EFAULT)?;
    if n > SCHEDOP_POLL_MAX_PORTS {
        return Err(EINVAL);
    }
    let mut ports = [0u32; SCHEDOP_POLL_MAX_PORTS as usize];
    let ports = &mut ports[..n as usize];
    for (i, p) in ports.iter_mut().enumerate() {
        *p = read_guest_u32(list.wrapping_add(i as u64 * 4)).map_err(|_| EFAULT)?;
        if *p as usize >= PORTS {
            return Err(EINVAL);
        }
    }
    me.polling.store(true, SeqCst);
    event::POLLERS.fetch_add(1, SeqCst);
    me.poll_until.set(timeout);
    let ready = || {
        ports.iter().any(|p| event::is_pending(*p))
            || event::deliverable(me)
            || me.nmi_pending.load(SeqCst)
            || timeout != 0 && me.poll_until.get() == 0
    };
    if !ready() {
        time::runstate(me, RUNSTATE_BLOCKED);
        if timeout != 0 {
            time::arm(me);
        }
        while !ready() {
            sleep_unless(me, ready);
        }
        time::runstate(me, RUNSTATE_RUNNING);
        if timeout != 0 {
            me.poll_until.set(0);
            time::arm(me);
        }
    }
    me.poll_until.set(0);
    me.polling.store(false, SeqCst);
    event::POLLERS.fetch_sub(1, SeqCst);
    Ok(())
}
