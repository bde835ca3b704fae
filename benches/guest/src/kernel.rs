//! Entries into the kernel: system calls, signals, exceptions, clocks, timers.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use crate::{sys, timed};

fn repeat(n: u64, mut operation: impl FnMut()) -> Duration {
    timed(|| {
        for _ in 0..n {
            operation();
        }
    })
}

/// One operation: the system call getppid, which does next to nothing.
pub fn getppid(n: u64) -> Duration {
    repeat(n, sys::getppid)
}

/// One operation: one byte read from /dev/zero.
pub fn read_zero(n: u64) -> Duration {
    let mut zero = File::open("/dev/zero").expect("/dev/zero is there");
    let mut byte = [0];
    repeat(n, || {
        assert_eq!(zero.read(&mut byte).ok(), Some(1), "/dev/zero never ends")
    })
}

/// One operation: a signal sent to itself and handled, return included.
pub fn signal(n: u64) -> Duration {
    sys::count_signals(|| repeat(n, sys::signal_self), n)
}

/// One operation: an invalid opcode, its signal handled and the instruction
/// stepped over.
pub fn exception(n: u64) -> Duration {
    sys::with_skipped_ud2(|| repeat(n, sys::ud2))
}

/// One operation: sched_yield with nobody to yield to.
pub fn sched_yield(n: u64) -> Duration {
    repeat(n, std::thread::yield_now)
}

/// One operation: gettimeofday as programs call it, from the vDSO if it can.
pub fn gettimeofday(n: u64) -> Duration {
    repeat(n, sys::gettimeofday)
}

/// One operation: clock_gettime(CLOCK_MONOTONIC) as a real system call.
pub fn clock_syscall(n: u64) -> Duration {
    repeat(n, sys::clock_gettime_by_syscall)
}

/// One operation: a sleep of 1 ns, the shortest timer there is.
pub fn nanosleep(n: u64) -> Duration {
    repeat(n, || sys::nanosleep(Duration::from_nanos(1)))
}

/// By how much a sleep of 1 ms ends too late.
pub fn sleep_lateness(n: u64) -> Duration {
    let wanted = Duration::from_millis(1);
    let total = repeat(n, || sys::nanosleep(wanted));
    total.saturating_sub(wanted * u32::try_from(n).unwrap_or(u32::MAX))
}
