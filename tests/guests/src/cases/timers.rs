//! Time: pvclock, wall clock, runstate, the timers of a vCPU.

use super::{named, t};
use crate::arch::hypercall::call;
use crate::arch::memory::{get_struct, read64};
use crate::arch::vcpu::this;
use crate::harness::console::line;
use crate::harness::events::{self, clear, mask, pending};
use crate::harness::machine;
use crate::harness::runner::{Result, Test, a_page};
use crate::harness::time::{MS, now, poll, record, scale, spin, wallclock};
use crate::harness::xen::*;
use crate::{check, fail, same};
use xenner_xen_abi::errno::EEXIST;
use xenner_xen_abi::event_channel::*;
use xenner_xen_abi::sched::SCHEDOP_BLOCK;
use xenner_xen_abi::vcpu::*;
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("time-record", time_record),
    t("time-monotonic", monotonic),
    t("time-wallclock", wall),
    t("time-runstate", runstate),
    t("time-runstate-area", runstate_area),
    t("time-area", time_area),
    t("timer-past", past),
    t("timer-future", future),
    t("timer-stop", stop),
    t("timer-set-timer-op", set_timer_op),
    t("timer-periodic", periodic),
    t("timer-block", block),
    t("timer-poll-timeout", poll_timeout),
    t("timer-latency", latency),
    named("clock", clock),
    named("idle", idle),
    named("sleeps", sleeps),
];

/// The timer's port: bound once, found again afterwards. Masked and clear.
pub fn timer_port() -> core::result::Result<u32, i64> {
    let mut b = EvtchnBindVirq {
        virq: VIRQ_TIMER,
        vcpu: 0,
        port: 0,
    };
    match evtchn(EVTCHNOP_BIND_VIRQ, &mut b) {
        0 => {}
        e if e == -EEXIST => {
            for port in 1..64 {
                let mut s = EvtchnStatus {
                    dom: DOMID_SELF,
                    port,
                    ..EvtchnStatus::default()
                };
                if evtchn(EVTCHNOP_STATUS, &mut s) == 0
                    && s.status == EVTCHNSTAT_VIRQ
                    && s.u[0] == VIRQ_TIMER
                {
                    b.port = port;
                }
            }
        }
        e => return Err(e),
    }
    mask(b.port);
    vcpu_op0(VCPUOP_STOP_PERIODIC_TIMER, 0);
    vcpu_op0(VCPUOP_STOP_SINGLESHOT_TIMER, 0);
    call(HYPERVISOR_SET_TIMER_OP, [0; 5]);
    clear(b.port);
    Ok(b.port)
}

macro_rules! port {
    () => {
        match timer_port() {
            Ok(p) if p != 0 => p,
            e => fail!("no port for the timer: {e:?}"),
        }
    };
}

/// Set the single-shot timer.
pub fn singleshot(abs: u64) -> i64 {
    let mut s = VcpuSetSingleshotTimer {
        timeout_abs_ns: abs,
        flags: 0,
        pad: 0,
    };
    vcpu_op(VCPUOP_SET_SINGLESHOT_TIMER, 0, &mut s)
}

fn time_record() -> Result {
    let t = record(this().info.get() + 32);
    check!(t.tsc_to_system_mul != 0, "multiplier is 0");
    check!(t.version & 1 == 0, "version {}", t.version);
    check!((-31..32).contains(&t.tsc_shift), "shift {}", t.tsc_shift);
    let at = scale(&t, t.tsc_timestamp);
    same!(at, t.system_time, "time at the time stamp");
    check!(
        now() > 0 && now() < 3_600_000_000_000 * 24 * 365,
        "time since boot {}",
        now()
    );
    Ok(())
}

/// How far time may go back: not at all if the record says that all processors
/// agree; else by what their time stamp counters may differ.
fn slack() -> u64 {
    let stable = record(this().info.get() + 32).flags & XEN_PVCLOCK_TSC_STABLE_BIT != 0;
    if stable { 0 } else { MS }
}

fn monotonic() -> Result {
    let start = now();
    let (slack, mut last) = (slack(), start);
    for _ in 0..200_000 {
        let n = now();
        check!(n + slack >= last, "time went back by {} ns", last - n);
        last = n;
    }
    check!(last > start, "time stands still");
    Ok(())
}

fn wall() -> Result {
    let (sec, ns) = wallclock();
    let now = sec + now() / 1_000_000_000;
    check!(ns < 1_000_000_000, "{ns} ns");
    // `wall=N`: about what it has to be
    let expected = match super::option("wall", 0) {
        0 => 1_700_000_000..4_000_000_000,
        second => second..second + 60,
    };
    check!(expected.contains(&now), "wall clock {now}");
    Ok(())
}

fn sane(r: &VcpuRunstateInfo, at: u64) -> Result {
    same!(r.state, RUNSTATE_RUNNING, "state");
    check!(
        r.state_entry_time <= at,
        "entry time {} after now {at}",
        r.state_entry_time
    );
    let sum: u64 = r.time.iter().sum();
    // the times add up to the life of the vCPU
    check!(sum <= at + 10 * MS, "times add up to {sum}, now is {at}");
    Ok(())
}

fn runstate() -> Result {
    let get = || {
        let mut r = VcpuRunstateInfo::default();
        let e = vcpu_op(VCPUOP_GET_RUNSTATE_INFO, 0, &mut r);
        (e, r)
    };
    let (e, a) = get();
    same!(e, 0, "get_runstate_info");
    sane(&a, now())?;
    let p = port!();
    singleshot(now() + 30 * MS);
    same!(poll(&[p], 0), 0, "poll");
    let (_, b) = get();
    sane(&b, now())?;
    let blocked = b.time[2] - a.time[2];
    check!(
        blocked >= 15 * MS,
        "blocked for {blocked} ns in a wait of 30 ms"
    );
    check!(b.time[0] >= a.time[0], "running time went back");
    Ok(())
}

fn runstate_area() -> Result {
    let va = a_page()?;
    let mut a = VcpuRegisterRunstateMemoryArea { addr: va };
    same!(
        vcpu_op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut a),
        0,
        "register"
    );
    let first: VcpuRunstateInfo = get_struct(va);
    sane(&first, now())?;
    let p = port!();
    singleshot(now() + 30 * MS);
    same!(poll(&[p], 0), 0, "poll");
    let second: VcpuRunstateInfo = get_struct(va);
    let grown = second.time[2].wrapping_sub(first.time[2]);
    // the area is the registered one until the next registration
    a.addr = 0;
    vcpu_op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut a);
    same!(second.state, RUNSTATE_RUNNING, "state");
    check!(grown >= 15 * MS, "blocked time grew by {grown} ns");
    Ok(())
}

fn time_area() -> Result {
    let va = a_page()?;
    let mut a = VcpuRegisterTimeMemoryArea { addr: va + 64 };
    let register =
        |a: &mut VcpuRegisterTimeMemoryArea| vcpu_op(VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0, a);
    same!(register(&mut a), 0, "register");
    let own = record(this().info.get() + 32);
    let copy = record(va + 64);
    let words = |t: &VcpuTimeInfo| (t.tsc_timestamp, t.system_time, t.tsc_to_system_mul, t.flags);
    // the record may have been brought up to date in between: times agree all the same
    let tsc = crate::arch::vcpu::rdtsc();
    let (x, y) = (scale(&own, tsc), scale(&copy, tsc));
    check!(x.abs_diff(y) < MS, "{x} and {y} differ");
    if own.version == copy.version {
        check!(words(&copy) == words(&own), "the records differ");
    }
    // an area in the hypervisor's range is refused, and 0 ends it
    a.addr = 0xffff_8300_0000_0000;
    check!(register(&mut a) < 0, "the hypervisor's memory was taken");
    a.addr = 0;
    same!(register(&mut a), 0, "end");
    Ok(())
}

fn fires(p: u32, ms: u64) -> bool {
    spin(ms, || pending(p))
}

fn past() -> Result {
    let p = port!();
    for t in [1, now() / 2, now()] {
        clear(p);
        let r = singleshot(t);
        same!(r, 0, "set_singleshot_timer in the past");
        check!(fires(p, 1000), "no event for a time in the past");
    }
    Ok(())
}

fn future() -> Result {
    let p = port!();
    for ms in [1, 20] {
        clear(p);
        let due = now() + ms * MS;
        same!(singleshot(due), 0, "set_singleshot_timer");
        check!(fires(p, 2000), "no event after {ms} ms");
        // Xen may fire a timer a little early, within its slop
        check!(now() + MS / 10 >= due, "fired {} ns early", due - now());
    }
    // one shot only
    clear(p);
    check!(!fires(p, 60), "a second event");
    Ok(())
}

fn stop() -> Result {
    let p = port!();
    same!(singleshot(now() + 20 * MS), 0, "set_singleshot_timer");
    same!(
        vcpu_op0(VCPUOP_STOP_SINGLESHOT_TIMER, 0),
        0,
        "stop_singleshot_timer"
    );
    check!(!fires(p, 60), "event after stop");
    same!(singleshot(now() + 10_000 * MS), 0, "a late time");
    same!(singleshot(now() + 5 * MS), 0, "an earlier time replaces it");
    check!(fires(p, 1000), "no event");
    Ok(())
}

fn set_timer_op() -> Result {
    let p = port!();
    let set = |t: u64| call(HYPERVISOR_SET_TIMER_OP, [t, 0, 0, 0, 0]);
    let due = now() + 5 * MS;
    same!(set(due), 0, "set_timer_op");
    check!(fires(p, 1000), "no event");
    clear(p);
    same!(set(now() + 20 * MS), 0, "set_timer_op");
    same!(set(0), 0, "stop");
    check!(!fires(p, 60), "event after stop");
    same!(set(1), 0, "a time in the past");
    check!(fires(p, 1000), "no event for the past");
    Ok(())
}

fn periodic() -> Result {
    let p = port!();
    let mut period = VcpuSetPeriodicTimer { period_ns: 10 * MS };
    same!(
        vcpu_op(VCPUOP_SET_PERIODIC_TIMER, 0, &mut period),
        0,
        "set_periodic_timer"
    );
    let start = now();
    for i in 0..5 {
        check!(fires(p, 1000), "no event {i}");
        clear(p);
    }
    let took = now() - start;
    same!(
        vcpu_op0(VCPUOP_STOP_PERIODIC_TIMER, 0),
        0,
        "stop_periodic_timer"
    );
    check!(took >= 30 * MS, "5 periods of 10 ms in {took} ns");
    clear(p);
    spin(15, || false);
    clear(p);
    check!(!fires(p, 50), "event after stop");
    Ok(())
}

fn block() -> Result {
    let p = port!();
    let before = events::count(p);
    events::unmask_bit(p);
    for ms in [2, 10] {
        let start = now();
        same!(singleshot(start + ms * MS), 0, "set_singleshot_timer");
        this().set_mask(1);
        same!(sched0(SCHEDOP_BLOCK), 0, "block");
        let mask = this().mask();
        this().set_mask(1);
        same!(mask, 0, "upcall mask after block");
        check!(
            now() - start + MS / 10 >= ms * MS,
            "woke after {} ns of {ms} ms",
            now() - start
        );
    }
    mask(p);
    same!(events::count(p) - before, 2, "upcalls");
    Ok(())
}

fn poll_timeout() -> Result {
    let p = port!();
    let start = now();
    same!(poll(&[p], start + 10 * MS), 0, "poll");
    check!(
        now() >= start + 9 * MS,
        "poll returned after {} ns of 10 ms",
        now() - start
    );
    check!(
        now() < start + 2000 * MS,
        "poll returned after {} ns",
        now() - start
    );
    check!(!pending(p), "an event");
    same!(poll(&[p], 1), 0, "poll with a timeout in the past");
    Ok(())
}

/// Says how late 100 timers of 1 ms are; no limit but a second.
fn latency() -> Result {
    let p = port!();
    let (mut sum, mut max) = (0, 0);
    for _ in 0..100 {
        clear(p);
        let due = now() + MS;
        same!(singleshot(due), 0, "set_singleshot_timer");
        same!(poll(&[p], 0), 0, "poll");
        let late = now().saturating_sub(due);
        sum += late;
        max = max.max(late);
    }
    line(format_args!(
        "# timers late by {} us on average, {} us at most",
        sum / 100_000,
        max / 1000
    ));
    check!(max < 1000 * MS, "a timer was {max} ns late");
    Ok(())
}

/// `secs=N` seconds by pvclock, checked against the wall clock record and for going back.
fn clock() -> Result {
    let secs = super::option("secs", 60);
    let start = now();
    let (slack, mut last) = (slack(), start);
    while last < start + secs * 1000 * MS {
        let n = now();
        check!(n + slack >= last, "time went back by {} ns", last - n);
        last = n;
        if n % (1000 * MS) < 20_000 {
            line(format_args!("# clock {n}"));
        }
    }
    line(format_args!(
        "# clock start={start} end={last} tsc={}",
        crate::arch::vcpu::rdtsc()
    ));
    Ok(())
}

/// Blocked for `secs=N` seconds, woken by one timer.
fn idle() -> Result {
    let secs = super::option("secs", 5);
    let p = port!();
    same!(
        singleshot(now() + secs * 1000 * MS),
        0,
        "set_singleshot_timer"
    );
    line(format_args!("# idle for {secs} s"));
    same!(poll(&[p], 0), 0, "poll");
    check!(pending(p), "woke up without the timer");
    same!(read64(machine::shared() + 4088), 0, "end of shared_info");
    Ok(())
}

/// `n=N` sleeps of at most `us=N` microseconds, each ended by its own timer, which may come before the vCPU
/// blocks as well.
fn sleeps() -> Result {
    let (n, longest) = (super::option("n", 10_000), super::option("us", 200) * 1000);
    let p = port!();
    events::unmask_bit(p);
    let mut random = crate::arch::vcpu::rdtsc() | 1;
    for round in 0..n {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let before = events::count(p);
        let start = now();
        this().set_mask(1);
        same!(
            singleshot(start + random % longest),
            0,
            "set_singleshot_timer"
        );
        if random >> 62 == 0 {
            let busy = (random >> 32) % longest;
            while now() < start + busy {}
        }
        while events::count(p) == before {
            this().set_mask(1);
            same!(sched0(SCHEDOP_BLOCK), 0, "block");
        }
        if round % 10_000 == 0 {
            line(format_args!("# {round} sleeps"));
        }
    }
    this().set_mask(1);
    mask(p);
    Ok(())
}
