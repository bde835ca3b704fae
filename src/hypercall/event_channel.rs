//! event_channel_op, but for send and unmask.

use xenner_xen_abi::errno::{EINVAL, ENOSYS, EPERM};
use xenner_xen_abi::event_channel::*;

use super::{Answer, Call};

pub(super) fn event_channel_op(call: &Call<'_>) -> Answer {
    let [cmd, arg, ..] = call.args;
    let g = &call.guest;
    let events = &call.domain.events;
    let put = |offset: u64, port: u32| g.write(arg.wrapping_add(offset), &port.to_le_bytes());
    match cmd as u32 {
        EVTCHNOP_BIND_INTERDOMAIN => {
            let port = events.bind_interdomain(g.u16(arg)?, g.u32(arg.wrapping_add(4))?)?;
            put(8, port)?;
        }
        EVTCHNOP_BIND_VIRQ => {
            let port = events.bind_virq(g.u32(arg)?, g.u32(arg.wrapping_add(4))?)?;
            put(8, port)?;
        }
        EVTCHNOP_BIND_PIRQ => return Err(EPERM),
        EVTCHNOP_CLOSE => events.close(g.u32(arg)?)?,
        EVTCHNOP_STATUS => {
            let s = events.status(g.u16(arg)?, g.u32(arg.wrapping_add(4))?)?;
            for (i, v) in [s.status, s.vcpu, s.u[0], s.u[1]].into_iter().enumerate() {
                put(8 + i as u64 * 4, v)?;
            }
        }
        EVTCHNOP_ALLOC_UNBOUND => {
            let port = events.alloc_unbound(g.u16(arg)?, g.u16(arg.wrapping_add(2))?)?;
            put(4, port)?;
        }
        EVTCHNOP_BIND_IPI => {
            let port = events.bind_ipi(g.u32(arg)?)?;
            put(4, port)?;
        }
        EVTCHNOP_BIND_VCPU => events.bind_vcpu(g.u32(arg)?, g.u32(arg.wrapping_add(4))?)?,
        EVTCHNOP_RESET => events.reset(g.u16(arg)?)?,
        // 2-level only: the guest falls back to it
        EVTCHNOP_INIT_CONTROL | EVTCHNOP_EXPAND_ARRAY | EVTCHNOP_SET_PRIORITY => {
            return Err(ENOSYS);
        }
        EVTCHNOP_SEND | EVTCHNOP_UNMASK => return Err(EINVAL),
        _ => return Err(ENOSYS),
    }
    Ok(0)
}
