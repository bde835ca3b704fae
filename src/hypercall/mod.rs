//! Hypercalls that the emulator hands to the VMM: what is rare, needs the host, or is refused.

mod event_channel;
mod grant_table;
mod memory_op;
mod version;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use log::{debug, info};
use xenner_emu_abi::layout::PAGE_SIZE;
use xenner_xen_abi::errno::*;
use xenner_xen_abi::sched::*;
use xenner_xen_abi::vcpu::{VCPUOP_DOWN, VCPUOP_REGISTER_VCPU_INFO, VCPUOP_UP};
use xenner_xen_abi::xen::*;

use crate::config::Uuid;
use crate::domain::Domain;
use crate::domain::end::ShutdownReason;
use crate::guest_va::GuestVa;

pub use grant_table::GrantTable;
pub use version::XEN_VERSION;

/// State of the hypercalls that keep any.
#[derive(Debug)]
pub struct State {
    /// The grant table.
    pub grants: Mutex<GrantTable>,
    /// What the guest's `uuid` in /sys/hypervisor shows.
    pub uuid: Uuid,
    /// Unknown calls that were logged already: number and command.
    logged: Mutex<HashSet<(u64, u64)>>,
    /// Pages that the domain has.
    pub pages: Mutex<u64>,
}

impl State {
    /// The state of a new domain.
    pub fn new(uuid: Uuid, pages: u64) -> Self {
        Self {
            grants: Mutex::new(GrantTable::default()),
            uuid,
            logged: Mutex::default(),
            pages: Mutex::new(pages),
        }
    }
}

/// One call: number, arguments, the caller and its address space.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The domain.
    pub domain: &'a Domain,
    /// The calling vcpu.
    pub vcpu: u32,
    /// Number.
    pub op: u64,
    /// Arguments.
    pub args: [u64; 6],
    /// Guest memory.
    pub guest: GuestVa<'a>,
}

type Answer = Result<i64, i64>;

/// Carries out a hypercall; the answer is what the guest gets.
pub fn dispatch(call: &Call<'_>) -> i64 {
    let result = match call.op {
        HYPERVISOR_MEMORY_OP => memory_op::memory_op(call),
        HYPERVISOR_EVENT_CHANNEL_OP => event_channel::event_channel_op(call),
        HYPERVISOR_XEN_VERSION => version::xen_version(call),
        HYPERVISOR_CONSOLE_IO => console_io(call),
        HYPERVISOR_GRANT_TABLE_OP => grant_table::grant_table_op(call),
        HYPERVISOR_SCHED_OP | HYPERVISOR_SCHED_OP_COMPAT => sched_op(call),
        HYPERVISOR_VCPU_OP => vcpu_op(call),
        HYPERVISOR_PHYSDEV_OP => physdev_op(call),
        HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN => Err(ESRCH),
        HYPERVISOR_PLATFORM_OP | HYPERVISOR_SYSCTL | HYPERVISOR_DOMCTL | HYPERVISOR_KEXEC_OP => {
            Err(EPERM)
        }
        HYPERVISOR_XENPMU_OP => Err(EOPNOTSUPP),
        _ => Err(ENOSYS),
    };
    let answer = result.unwrap_or_else(|e| -e);
    debug!(target: "xenner::hypercall", "vcpu {} hypercall {} ({:#x}, {:#x}, {:#x}) = {answer}",
        call.vcpu, call.op, call.args[0], call.args[1], call.args[2]);
    if answer == -ENOSYS {
        log_once(call);
    }
    answer
}

fn log_once(call: &Call<'_>) {
    let key = (call.op, call.args[0]);
    let mut seen = call
        .domain
        .hypercalls
        .logged
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    // bounded: a guest may invent numbers
    if seen.len() < 256 && seen.insert(key) {
        info!(target: "xenner::hypercall", "hypercall {} with command {:#x}: not there", key.0, key.1);
    }
}

/// Text that the guest prints through the hypervisor.
fn console_io(call: &Call<'_>) -> Answer {
    const LONGEST: u64 = 16 << 10;
    let [cmd, count, va, ..] = call.args;
    match cmd as u32 {
        CONSOLEIO_WRITE => {
            let mut text = vec![0; count.min(LONGEST) as usize];
            call.guest.read(va, &mut text)?;
            call.domain.console_out(&text);
            Ok(0)
        }
        CONSOLEIO_READ => Ok(0),
        _ => Err(ENOSYS),
    }
}

fn sched_op(call: &Call<'_>) -> Answer {
    let [cmd, arg, arg2, .., direct] = call.args;
    if call.op == HYPERVISOR_SCHED_OP_COMPAT {
        // the old form has the reason in the argument
        return match cmd as u32 {
            SCHEDOP_SHUTDOWN => {
                call.domain
                    .shut_down(call.vcpu, ShutdownReason::from_code(arg as u32));
                Ok(0)
            }
            _ => Err(ENOSYS),
        };
    }
    match cmd as u32 {
        SCHEDOP_SHUTDOWN => {
            let code = if direct == 1 {
                arg as u32
            } else {
                call.guest.u32(arg)?
            };
            let reason = ShutdownReason::from_code(code & 0xff);
            if reason == ShutdownReason::Suspend {
                let _start_info = arg2;
                return Err(ENOSYS);
            }
            call.domain.shut_down(call.vcpu, reason);
            Ok(0)
        }
        SCHEDOP_SHUTDOWN_CODE => {
            call.guest.u32(arg)?;
            Ok(0)
        }
        SCHEDOP_REMOTE_SHUTDOWN => Err(ESRCH),
        SCHEDOP_WATCHDOG => {
            let [id, timeout] = [call.guest.u32(arg)?, call.guest.u32(arg.wrapping_add(4))?];
            call.domain.watchdog(id, timeout)
        }
        SCHEDOP_PIN_OVERRIDE => Err(EPERM),
        _ => Err(ENOSYS),
    }
}

/// The vcpu operation that touches event delivery from the host, and those that the emulator has
/// carried out and tells of.
fn vcpu_op(call: &Call<'_>) -> Answer {
    let [cmd, id, mfn, offset, ..] = call.args;
    match cmd as u32 {
        VCPUOP_UP | VCPUOP_DOWN => {
            call.domain.vcpu_turned(id, cmd as u32 == VCPUOP_UP);
            Ok(0)
        }
        VCPUOP_REGISTER_VCPU_INFO => register_vcpu_info(call, id, mfn, offset),
        _ => Err(ENOSYS),
    }
}

fn register_vcpu_info(call: &Call<'_>, id: u64, mfn: u64, offset: u64) -> Answer {
    if offset > PAGE_SIZE - 64 || !offset.is_multiple_of(8) {
        return Err(ENXIO);
    }
    let map = &call.domain.map;
    let at = mfn.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
    if at >= map.ram_end {
        return Err(EINVAL);
    }
    call.domain
        .events
        .register_vcpu_info(id as u32, at + offset)?;
    Ok(0)
}

fn physdev_op(call: &Call<'_>) -> Answer {
    use xenner_xen_abi::physdev::*;
    match call.args[0] as u32 {
        PHYSDEVOP_IRQ_UNMASK_NOTIFY => Ok(0),
        PHYSDEVOP_IRQ_STATUS_QUERY | PHYSDEVOP_EOI | PHYSDEVOP_UNMAP_PIRQ => Err(EINVAL),
        PHYSDEVOP_SET_IOPL..=33 => Err(EPERM),
        _ => Err(ENOSYS),
    }
}
