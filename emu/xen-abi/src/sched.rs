//! `sched.h`: `sched_op` commands, shutdown reasons.

use core::mem::offset_of;

/// Give up the processor.
pub const SCHEDOP_YIELD: u32 = 0;
/// Unmask events and wait for one.
pub const SCHEDOP_BLOCK: u32 = 1;
/// Shut the domain down.
pub const SCHEDOP_SHUTDOWN: u32 = 2;
/// Wait for one of some ports.
pub const SCHEDOP_POLL: u32 = 3;
/// Shut another domain down.
pub const SCHEDOP_REMOTE_SHUTDOWN: u32 = 4;
/// Record a shutdown reason.
pub const SCHEDOP_SHUTDOWN_CODE: u32 = 5;
/// Watchdog timer.
pub const SCHEDOP_WATCHDOG: u32 = 6;
/// Pin the vCPU for a while.
pub const SCHEDOP_PIN_OVERRIDE: u32 = 7;

/// Power off.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// Restart.
pub const SHUTDOWN_REBOOT: u32 = 1;
/// Save.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// The kernel crashed.
pub const SHUTDOWN_CRASH: u32 = 3;
/// A watchdog fired.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// Restart in place.
pub const SHUTDOWN_SOFT_RESET: u32 = 5;
/// The highest defined reason.
pub const SHUTDOWN_MAX: u32 = 5;

/// Most ports of one `SCHEDOP_POLL`.
pub const SCHEDOP_POLL_MAX_PORTS: u32 = 128;

/// Argument of `SCHEDOP_SHUTDOWN` and `SCHEDOP_SHUTDOWN_CODE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedShutdown {
    /// `SHUTDOWN_*`.
    pub reason: u32,
}

const _: () = assert!(size_of::<SchedShutdown>() == 4);
const _: () = assert!(offset_of!(SchedShutdown, reason) == 0);

/// Argument of `SCHEDOP_POLL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedPoll {
    /// Address of the ports, `u32` each.
    pub ports: u64,
    /// How many.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
    /// Absolute system time in ns, 0 for none.
    pub timeout: u64,
}

const _: () = assert!(size_of::<SchedPoll>() == 24);
const _: () = assert!(offset_of!(SchedPoll, ports) == 0);
const _: () = assert!(offset_of!(SchedPoll, nr_ports) == 8);
const _: () = assert!(offset_of!(SchedPoll, pad) == 12);
const _: () = assert!(offset_of!(SchedPoll, timeout) == 16);

/// Argument of `SCHEDOP_REMOTE_SHUTDOWN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedRemoteShutdown {
    /// Domain.
    pub domain_id: u16,
    /// Padding.
    pub pad: u16,
    /// `SHUTDOWN_*`.
    pub reason: u32,
}

const _: () = assert!(size_of::<SchedRemoteShutdown>() == 8);
const _: () = assert!(offset_of!(SchedRemoteShutdown, domain_id) == 0);
const _: () = assert!(offset_of!(SchedRemoteShutdown, pad) == 2);
const _: () = assert!(offset_of!(SchedRemoteShutdown, reason) == 4);

/// Argument of `SCHEDOP_WATCHDOG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedWatchdog {
    /// Timer, 0 for a new one.
    pub id: u32,
    /// Seconds, 0 to stop.
    pub timeout: u32,
}

const _: () = assert!(size_of::<SchedWatchdog>() == 8);
const _: () = assert!(offset_of!(SchedWatchdog, id) == 0);
const _: () = assert!(offset_of!(SchedWatchdog, timeout) == 4);
