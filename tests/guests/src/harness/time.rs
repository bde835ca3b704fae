//! pvclock, and waiting.

use super::machine::shared;
use super::xen::{at, sched};
use crate::arch::memory::{fence, get_struct};
use crate::arch::vcpu::{self, rdtsc};
use xenner_xen_abi::sched::{SCHEDOP_POLL, SchedPoll};
use xenner_xen_abi::xen::VcpuTimeInfo;

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// A consistent copy of a time record.
pub fn record(va: u64) -> VcpuTimeInfo {
    loop {
        let a: VcpuTimeInfo = get_struct(va);
        fence();
        let b: VcpuTimeInfo = get_struct(va);
        if a.version == b.version && a.version & 1 == 0 {
            return b;
        }
    }
}

/// System time that a record gives for a TSC value.
pub fn scale(t: &VcpuTimeInfo, tsc: u64) -> u64 {
    let d = tsc.wrapping_sub(t.tsc_timestamp);
    let d = if t.tsc_shift >= 0 {
        d << t.tsc_shift
    } else {
        d >> -t.tsc_shift
    };
    t.system_time
        .wrapping_add(((u128::from(d) * u128::from(t.tsc_to_system_mul)) >> 32) as u64)
}

/// System time now, in ns, by this vCPU's record.
pub fn now() -> u64 {
    let va = vcpu::this().info.get() + 32;
    loop {
        let t = record(va);
        let tsc = rdtsc();
        if record(va).version == t.version {
            return scale(&t, tsc);
        }
    }
}

/// Wall clock at system time 0: seconds and nanoseconds.
pub fn wallclock() -> (u64, u32) {
    loop {
        let w: [u32; 4] = get_struct(shared() + 3072);
        let again: [u32; 4] = get_struct(shared() + 3072);
        if w == again && w[0] & 1 == 0 {
            return (u64::from(w[3]) << 32 | u64::from(w[1]), w[2]);
        }
    }
}

/// Wait with SCHEDOP_POLL for one of the ports or a time.
pub fn poll(ports: &[u32], until: u64) -> i64 {
    let mut p = SchedPoll {
        ports: at(&ports[0]),
        nr_ports: ports.len() as u32,
        pad: 0,
        timeout: until,
    };
    sched(SCHEDOP_POLL, &mut p)
}

/// Spin until a condition holds; false if it took longer than `ms`.
pub fn spin(ms: u64, mut f: impl FnMut() -> bool) -> bool {
    let end = now() + ms * MS;
    while !f() {
        if now() > end {
            return f();
        }
        super::xen::sched0(xenner_xen_abi::sched::SCHEDOP_YIELD);
    }
    true
}
