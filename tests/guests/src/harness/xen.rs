//! Hypercalls with their argument structures. Results are Xen's: 0 or positive,
//! or a negative errno.

use crate::arch::hypercall::call;
use xenner_xen_abi::arch_x86_64::TrapInfo;
use xenner_xen_abi::callback::{CALLBACKOP_REGISTER, CallbackRegister};
use xenner_xen_abi::event_channel::*;
use xenner_xen_abi::xen::*;

/// Address of a value, for a hypercall's argument.
pub fn at<T>(v: &T) -> u64 {
    (&raw const *v) as u64
}

/// Address of a value that the hypercall writes.
pub fn at_mut<T>(v: &mut T) -> u64 {
    (&raw mut *v) as u64
}

/// A hypercall of the form (cmd, arg).
pub fn op2<T>(nr: u64, cmd: u32, arg: &mut T) -> i64 {
    call(nr, [cmd.into(), at_mut(arg), 0, 0, 0])
}

/// `mmu_update` on this domain; the result and the number done.
pub fn mmu_update(reqs: &mut [MmuUpdate]) -> (i64, u32) {
    let mut done = 0xdead_u32;
    let n = reqs.len() as u64;
    let r = call(
        HYPERVISOR_MMU_UPDATE,
        [
            reqs.as_mut_ptr() as u64,
            n,
            at_mut(&mut done),
            DOMID_SELF.into(),
            0,
        ],
    );
    (r, done)
}

/// One `mmu_update` request.
pub fn mmu_update1(ptr: u64, val: u64) -> i64 {
    mmu_update(&mut [MmuUpdate { ptr, val }]).0
}

/// One `mmuext_op`.
pub fn mmuext(cmd: u32, arg1: u64, arg2: u64) -> i64 {
    let mut op = MmuextOp {
        cmd,
        pad: 0,
        arg1,
        arg2,
    };
    call(
        HYPERVISOR_MMUEXT_OP,
        [at_mut(&mut op), 1, 0, DOMID_SELF.into(), 0],
    )
}

/// `update_va_mapping`.
pub fn update_va_mapping(va: u64, pte: u64, flags: u64) -> i64 {
    call(HYPERVISOR_UPDATE_VA_MAPPING, [va, pte, flags, 0, 0])
}

/// `event_channel_op`.
pub fn evtchn<T>(cmd: u32, arg: &mut T) -> i64 {
    op2(HYPERVISOR_EVENT_CHANNEL_OP, cmd, arg)
}

/// Send on a port.
pub fn send(port: u32) -> i64 {
    evtchn(EVTCHNOP_SEND, &mut EvtchnPort { port })
}

/// Close a port.
pub fn close(port: u32) -> i64 {
    evtchn(EVTCHNOP_CLOSE, &mut EvtchnPort { port })
}

/// `vcpu_op` with an argument.
pub fn vcpu_op<T>(cmd: u32, vcpu: u64, arg: &mut T) -> i64 {
    call(HYPERVISOR_VCPU_OP, [cmd.into(), vcpu, at_mut(arg), 0, 0])
}

/// `vcpu_op` without one.
pub fn vcpu_op0(cmd: u32, vcpu: u64) -> i64 {
    call(HYPERVISOR_VCPU_OP, [cmd.into(), vcpu, 0, 0, 0])
}

/// `sched_op`.
pub fn sched<T>(cmd: u32, arg: &mut T) -> i64 {
    op2(HYPERVISOR_SCHED_OP, cmd, arg)
}

/// `sched_op` without argument.
pub fn sched0(cmd: u32) -> i64 {
    call(HYPERVISOR_SCHED_OP, [cmd.into(), 0, 0, 0, 0])
}

/// Register a callback.
pub fn callback(kind: u16, flags: u16, address: u64) -> i64 {
    let mut c = CallbackRegister {
        kind,
        flags,
        pad: 0,
        address,
    };
    op2(HYPERVISOR_CALLBACK_OP, CALLBACKOP_REGISTER, &mut c)
}

/// `set_trap_table` with the list, which must end with a zero address.
pub fn set_trap_table(list: &[TrapInfo]) -> i64 {
    call(
        HYPERVISOR_SET_TRAP_TABLE,
        [list.as_ptr() as u64, 0, 0, 0, 0],
    )
}

/// `xen_version` without argument: also the call that delivers pending events.
pub fn version() -> i64 {
    call(HYPERVISOR_XEN_VERSION, [0; 5])
}
