//! `vcpu.h`: `vcpu_op` commands and their arguments.

use core::mem::offset_of;

/// Set the state of a vCPU (`VcpuGuestContext`).
pub const VCPUOP_INITIALISE: u32 = 0;
/// Start it.
pub const VCPUOP_UP: u32 = 1;
/// Stop it.
pub const VCPUOP_DOWN: u32 = 2;
/// 1 if it is up.
pub const VCPUOP_IS_UP: u32 = 3;
/// Read its runstate.
pub const VCPUOP_GET_RUNSTATE_INFO: u32 = 4;
/// Have the runstate kept in memory.
pub const VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
/// Start the periodic timer.
pub const VCPUOP_SET_PERIODIC_TIMER: u32 = 6;
/// Stop it.
pub const VCPUOP_STOP_PERIODIC_TIMER: u32 = 7;
/// Set the single-shot timer.
pub const VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8;
/// Stop it.
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9;
/// Place the `VcpuInfo` record.
pub const VCPUOP_REGISTER_VCPU_INFO: u32 = 10;
/// Send an NMI.
pub const VCPUOP_SEND_NMI: u32 = 11;
/// Physical ids.
pub const VCPUOP_GET_PHYSID: u32 = 12;
/// Have a copy of the time record kept in memory.
pub const VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;
/// As 5, by physical address.
pub const VCPUOP_REGISTER_RUNSTATE_PHYS_AREA: u32 = 14;
/// As 13, by physical address.
pub const VCPUOP_REGISTER_VCPU_TIME_PHYS_AREA: u32 = 15;

/// `VcpuSetSingleshotTimer::flags`: fail if the time is past.
pub const VCPU_SSHOTTMR_FUTURE: u32 = 1;

/// Running.
pub const RUNSTATE_RUNNING: i32 = 0;
/// Waiting for a processor.
pub const RUNSTATE_RUNNABLE: i32 = 1;
/// Blocked.
pub const RUNSTATE_BLOCKED: i32 = 2;
/// Not up.
pub const RUNSTATE_OFFLINE: i32 = 3;

/// Bit of `state_entry_time`: an update is under way.
pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;

/// Runstate of a vCPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuRunstateInfo {
    /// `RUNSTATE_*`.
    pub state: i32,
    /// Padding.
    pub pad: u32,
    /// System time of the last change.
    pub state_entry_time: u64,
    /// Nanoseconds in each state.
    pub time: [u64; 4],
}

const _: () = assert!(size_of::<VcpuRunstateInfo>() == 48);
const _: () = assert!(offset_of!(VcpuRunstateInfo, state) == 0);
const _: () = assert!(offset_of!(VcpuRunstateInfo, pad) == 4);
const _: () = assert!(offset_of!(VcpuRunstateInfo, state_entry_time) == 8);
const _: () = assert!(offset_of!(VcpuRunstateInfo, time) == 16);

/// Argument of `VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuRegisterRunstateMemoryArea {
    /// Virtual address.
    pub addr: u64,
}

const _: () = assert!(size_of::<VcpuRegisterRunstateMemoryArea>() == 8);
const _: () = assert!(offset_of!(VcpuRegisterRunstateMemoryArea, addr) == 0);

/// Argument of `VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuRegisterTimeMemoryArea {
    /// Virtual address, 0 to unregister.
    pub addr: u64,
}

const _: () = assert!(size_of::<VcpuRegisterTimeMemoryArea>() == 8);
const _: () = assert!(offset_of!(VcpuRegisterTimeMemoryArea, addr) == 0);

/// Argument of `VCPUOP_SET_PERIODIC_TIMER`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuSetPeriodicTimer {
    /// Period.
    pub period_ns: u64,
}

const _: () = assert!(size_of::<VcpuSetPeriodicTimer>() == 8);
const _: () = assert!(offset_of!(VcpuSetPeriodicTimer, period_ns) == 0);

/// Argument of `VCPUOP_SET_SINGLESHOT_TIMER`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuSetSingleshotTimer {
    /// System time.
    pub timeout_abs_ns: u64,
    /// `VCPU_SSHOTTMR_*`.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<VcpuSetSingleshotTimer>() == 16);
const _: () = assert!(offset_of!(VcpuSetSingleshotTimer, timeout_abs_ns) == 0);
const _: () = assert!(offset_of!(VcpuSetSingleshotTimer, flags) == 8);
const _: () = assert!(offset_of!(VcpuSetSingleshotTimer, pad) == 12);

/// Argument of `VCPUOP_REGISTER_VCPU_INFO`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuRegisterVcpuInfo {
    /// Frame.
    pub mfn: u64,
    /// Offset in it.
    pub offset: u32,
    /// Unused.
    pub rsvd: u32,
}

const _: () = assert!(size_of::<VcpuRegisterVcpuInfo>() == 16);
const _: () = assert!(offset_of!(VcpuRegisterVcpuInfo, mfn) == 0);
const _: () = assert!(offset_of!(VcpuRegisterVcpuInfo, offset) == 8);
const _: () = assert!(offset_of!(VcpuRegisterVcpuInfo, rsvd) == 12);
