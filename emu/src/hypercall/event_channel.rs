//! event_channel_op: sending and unmasking here, everything that binds in the VMM.

use xenner_xen_abi::errno::EFAULT;
use xenner_xen_abi::event_channel::{EVTCHNOP_SEND, EVTCHNOP_UNMASK};
use xenner_xen_abi::xen::HYPERVISOR_EVENT_CHANNEL_OP;

use crate::mem::read_guest_u32;
use crate::{event, vmm};

/// event_channel_op(cmd, arg).
pub extern "C" fn event_channel_op(cmd: u64, arg: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    let act = match cmd as u32 {
        EVTCHNOP_SEND => event::send,
        EVTCHNOP_UNMASK => event::unmask,
        _ => return vmm::hypercall(HYPERVISOR_EVENT_CHANNEL_OP, [cmd, arg, 0, 0, 0, 0]),
    };
    match read_guest_u32(arg) {
        Ok(port) => act(port).map_or_else(|e| -e, |()| 0),
        Err(_) => -EFAULT,
    }
}
