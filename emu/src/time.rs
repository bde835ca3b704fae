//! System time, the guest's timers, runstate.
//!
//! KVM's clock fills the guest's time records in place: `struct pvclock_vcpu_time_info`
//! and `struct pvclock_wall_clock` have the layout of Xen's `vcpu_time_info` and of the
//! wall clock in shared_info. Timers are the local APIC's TSC deadline.
// UNSAFETY: one division that Rust has no operator for.
#![expect(unsafe_code)]

use core::arch::asm;
use core::array;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenner_emu_abi::boot::FLAG_STEAL_TIME;
use xenner_xen_abi::vcpu::{RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, XEN_RUNSTATE_UPDATE};
use xenner_xen_abi::xen::VIRQ_TIMER;

use crate::arch::cpu::{rdtsc, wrmsr};
use crate::mem::{boot_info, current, direct_va, info_u64, write_guest};
use crate::percpu::Vcpu;
use crate::{event, time_area};

const MSR_TSC_DEADLINE: u32 = 0x6e0;
const MSR_KVM_WALL_CLOCK: u32 = 0x4b56_4d00;
const MSR_KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
/// Offset of the wall clock in shared_info (`wc_version`).
const WALL_CLOCK: u64 = 3072;
/// Offset of the time record in vcpu_info.
pub const TIME: u64 = 32;
/// A timer that is due within this many ns counts as due: conversions round.
const SLACK: u64 = 200;

/// A copy of the vcpu's time record.
#[derive(Clone, Copy)]
struct Clock {
    version: u32,
    tsc: u64,
    system: u64,
    mul: u32,
    shift: i8,
}

/// Has KVM write the wall clock into shared_info, once, and turns it to the domain's own time. No
/// vcpu of the guest runs yet.
pub fn start_wall_clock() {
    let record = (boot_info().shared_info << 12) + WALL_CLOCK;
    wrmsr(MSR_KVM_WALL_CLOCK, record);
    let record = direct_va(record);
    let words = [0, 8].map(|offset| info_u64(record, offset));
    let turned = turned(
        words.map(|word| word.load(SeqCst)),
        boot_info().wall_clock_ahead,
    );
    words
        .iter()
        .zip(turned)
        .for_each(|(word, value)| word.store(value, SeqCst));
}

/// `wc_version` and `wc_sec`, `wc_nsec` and `wc_sec_hi`, with this many seconds more.
fn turned([first, second]: [u64; 2], seconds: u64) -> [u64; 2] {
    let low = u64::from(u32::MAX);
    let sum = (second & !low | first >> 32).wrapping_add(seconds);
    [first & low | sum << 32, second & low | sum & !low]
}

/// Has KVM keep the time record of the vcpu_info at machine address `info_ma` of this vcpu.
pub fn start_clock(info_ma: u64) {
    wrmsr(MSR_KVM_SYSTEM_TIME, (info_ma + TIME) | 1);
}

/// Has KVM count the time stolen from this vcpu.
pub fn start_steal_time(v: &Vcpu) {
    if boot_info().flags & FLAG_STEAL_TIME != 0 {
        use xenner_emu_abi::area::{AREA_SIZE, AREA_VCPU};
        let area = boot_info().vcpu_areas + u64::from(v.id.get()) * AREA_SIZE;
        let offset = core::mem::offset_of!(Vcpu, steal) as u64;
        wrmsr(MSR_KVM_STEAL_TIME, (area + AREA_VCPU + offset) | 1);
    }
}

/// A consistent copy of the vcpu's `struct vcpu_time_info`, as words.
pub fn record(v: &Vcpu) -> [u64; 4] {
    let base = v.info.load(Relaxed) + TIME;
    loop {
        let record: [u64; 4] = array::from_fn(|i| info_u64(base, i as u64 * 8).load(SeqCst));
        let version = record[0] as u32;
        if version & 1 == 0 && info_u64(base, 0).load(SeqCst) as u32 == version {
            return record;
        }
    }
}

fn clock(v: &Vcpu) -> Clock {
    let [version, tsc, system, scale] = record(v);
    Clock {
        version: version as u32,
        tsc,
        system,
        mul: scale as u32,
        shift: (scale >> 32) as i8,
    }
}

/// System time in ns: time since the domain was made.
pub fn now() -> u64 {
    let c = clock(current());
    let delta = rdtsc().wrapping_sub(c.tsc);
    let delta = if c.shift >= 0 {
        delta << (c.shift & 63)
    } else {
        delta >> (-i32::from(c.shift) & 63)
    };
    c.system
        .wrapping_add(((u128::from(delta) * u128::from(c.mul)) >> 32) as u64)
}

/// Keeps the record for the entry code's own conversion, unless there is a periodic timer, which it
/// knows nothing of.
fn remember(v: &Vcpu, c: Clock) {
    if v.period.get() != 0 || c.mul == 0 {
        return forget_clock(v);
    }
    let ticks = u64::MAX / u64::from(c.mul);
    let ticks = if c.shift <= 0 {
        (ticks + 1) << (-i32::from(c.shift) & 63)
    } else {
        (ticks >> (c.shift & 63)) + 1
    };
    v.clock_ticks.set(ticks);
    v.clock_tsc.set(c.tsc.wrapping_add(1));
    v.clock_system.set(c.system);
    v.clock_version.set(c.version);
}

/// The entry code is to leave conversions to Rust. (With a system time beyond all others it does so
/// whatever version the guest writes to its record.)
fn forget_clock(v: &Vcpu) {
    v.clock_system.set(u64::MAX);
    v.clock_version.set(u32::MAX);
}

/// The time stamp at which system time reaches `ns`; 1 if that is past already.
fn tsc_at(v: &Vcpu, ns: u64) -> u64 {
    let c = clock(v);
    if v.clock_version.get() != c.version {
        remember(v, c);
        time_area::follow(v);
    }
    if ns <= c.system || c.mul == 0 {
        return 1;
    }
    // (ns << 32) / mul fits: a quotient beyond 2^63 is a deadline beyond all reach
    let delta = (ns - c.system).min(u64::from(c.mul) << 31);
    let (hi, lo) = (delta >> 32, delta << 32);
    let q: u64;
    // SAFETY: hi < mul, so the quotient fits and there is no divide error.
    unsafe {
        asm!("div {}", in(reg) u64::from(c.mul), inout("rax") lo => q, inout("rdx") hi => _,
             options(nomem, nostack, pure));
    }
    let ticks = if c.shift >= 0 {
        q >> (c.shift & 63)
    } else {
        q << (-i32::from(c.shift) & 63)
    };
    c.tsc.wrapping_add(ticks).wrapping_add(1)
}

/// Programs the local APIC for the earlier of the vcpu's timers.
pub fn arm(v: &Vcpu) {
    let mut first = v.oneshot.get();
    for t in [v.period_next.get(), v.poll_until.get()] {
        if t != 0 && (first == 0 || t < first) {
            first = t;
        }
    }
    let tsc = if first == 0 { 0 } else { tsc_at(v, first) };
    let alone = v.period_next.get() == 0 && v.poll_until.get() == 0;
    v.oneshot_alone.set(alone);
    wrmsr(MSR_TSC_DEADLINE, tsc);
}

/// Sets the one-shot timer to system time `ns`; 0 stops it.
pub fn set_oneshot(v: &Vcpu, ns: u64) {
    v.oneshot.set(ns);
    arm(v);
}

/// Sets the periodic timer; 0 stops it.
pub fn set_period(v: &Vcpu, ns: u64) {
    if ns == 0 && v.period.get() == 0 {
        return;
    }
    v.period.set(ns);
    forget_clock(v);
    v.period_next.set(if ns == 0 { 0 } else { now() + ns });
    arm(v);
}

/// The local APIC's timer fired.
pub fn on_timer(v: &Vcpu) {
    let t = now() + SLACK;
    let mut fire = false;
    if v.oneshot.get() != 0 && v.oneshot.get() <= t {
        v.oneshot.set(0);
        fire = true;
    }
    if v.period_next.get() != 0 && v.period_next.get() <= t {
        let behind = t - v.period_next.get();
        let period = v.period.get().max(1);
        v.period_next
            .set(v.period_next.get() + (behind / period + 1) * period);
        fire = true;
    }
    if v.poll_until.get() != 0 && v.poll_until.get() <= t {
        v.poll_until.set(0);
    }
    if v.oneshot.get() != 0 || v.period_next.get() != 0 || v.poll_until.get() != 0 {
        arm(v);
    }
    if fire {
        event::raise_virq(VIRQ_TIMER as usize);
    }
}

/// Brings the vcpu's runstate to `state` at the present time.
pub fn runstate(v: &Vcpu, state: i32) {
    if v.runstate.load(Relaxed) == 0 && v.runstate_entry.get() == 0 {
        v.runstate_now.set(state as u32);
        return;
    }
    let t = now();
    let old = v.runstate_now.get() as usize & 3;
    let spent = t.saturating_sub(v.runstate_entry.get());
    v.runstate_time[old].set(v.runstate_time[old].get() + spent);
    move_stolen(v, old);
    v.runstate_entry.set(t);
    v.runstate_now.set(state as u32);
    write_runstate(v);
}

/// Time that KVM says was stolen counts as runnable, not as what the vcpu did.
fn move_stolen(v: &Vcpu, from: usize) {
    let stolen = v.steal.steal.load(Relaxed);
    let fresh = stolen
        .wrapping_sub(v.steal_seen.get())
        .min(v.runstate_time[from].get());
    v.steal_seen.set(stolen);
    if from == RUNSTATE_RUNNING as usize {
        let runnable = &v.runstate_time[RUNSTATE_RUNNABLE as usize];
        v.runstate_time[from].set(v.runstate_time[from].get() - fresh);
        runnable.set(runnable.get() + fresh);
    }
}

/// Copies the runstate to the guest's area; the kernel's address space must be current.
pub fn write_runstate(v: &Vcpu) {
    let at = v.runstate.load(Relaxed);
    if at == 0 {
        return;
    }
    let entry = v.runstate_entry.get();
    // the area belongs to the guest: where it unmapped it, nothing is written
    let _ = write_guest(at + 8, entry | XEN_RUNSTATE_UPDATE)
        .and_then(|()| write_guest(at, u64::from(v.runstate_now.get())))
        .and_then(|()| {
            (0..4).try_for_each(|i| write_guest(at + 16 + i * 8, v.runstate_time[i as usize].get()))
        })
        .and_then(|()| write_guest(at + 8, entry));
}

/// Starts to account this vcpu's runstate from now on.
pub fn start_runstate(v: &Vcpu) {
    v.runstate_entry.set(now());
    v.runstate_now.set(RUNSTATE_RUNNING as u32);
    v.steal_seen.set(v.steal.steal.load(Relaxed));
}

/// Puts the vcpu_info at machine address `ma` into use for this vcpu.
pub fn use_info(v: &Vcpu, ma: u64) {
    v.info.store(direct_va(ma), SeqCst);
    forget_clock(v);
    start_clock(ma);
}
