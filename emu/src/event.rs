//! Event channels as ring 0 sees them: making ports pending, delivering the upcall
//! (`xen/include/public/event_channel.h`, 2-level ABI).

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use xenner_emu_abi::evtchn::{self, BACKEND, IPI, LOOP, PORTS, VIRQ};
use xenner_emu_abi::mailbox::VECTOR_EVENT;
use xenner_xen_abi::errno::EINVAL;

use crate::mem::{boot_info, current, evtchn_entry, info_u8, info_u64, vcpu, word};
use crate::percpu::Vcpu;
use crate::{smp, vmm};

/// Offsets in shared_info (`struct shared_info`).
pub const PENDING: u64 = 2048;
/// See [`PENDING`].
pub const MASK: u64 = 2560;
/// Offsets in vcpu_info (`struct vcpu_info`).
const UPCALL_PENDING: u64 = 0;
const UPCALL_MASK: u64 = 1;
const PENDING_SEL: u64 = 8;
/// Offset of the fault address in vcpu_info (`arch.cr2`).
pub const CR2: u64 = 16;

fn shared_word(base: u64, port: u32) -> &'static core::sync::atomic::AtomicU64 {
    word((boot_info().shared_info << 12) + base + u64::from(port / 64) * 8)
}

fn bit(port: u32) -> u64 {
    1 << (port % 64)
}

/// Whether a port is pending.
pub fn is_pending(port: u32) -> bool {
    shared_word(PENDING, port).load(Acquire) & bit(port) != 0
}

/// Makes a port pending and tells the vcpu that is notified for it.
pub fn set_pending(port: u32, notify: u32) {
    if shared_word(PENDING, port).fetch_or(bit(port), SeqCst) & bit(port) != 0 {
        return;
    }
    if shared_word(MASK, port).load(SeqCst) & bit(port) == 0 {
        select(port, notify);
    }
    wake_pollers();
}

fn select(port: u32, notify: u32) {
    let Some(v) = vcpu(notify) else { return };
    let info = v.info.load(Relaxed);
    if info == 0 {
        return;
    }
    let sel = 1 << (port / 64);
    if info_u64(info, PENDING_SEL).fetch_or(sel, SeqCst) & sel == 0 {
        info_u8(info, UPCALL_PENDING).store(1, SeqCst);
        if notify != current().id.get() {
            smp::interrupt(notify, VECTOR_EVENT);
        }
    }
}

/// vcpus that poll ports; the entry code looks at it.
pub static POLLERS: AtomicU32 = AtomicU32::new(0);

/// Makes those vcpus look again that poll ports.
pub fn wake_pollers() {
    if POLLERS.load(SeqCst) == 0 {
        return;
    }
    for id in 0..boot_info().nr_vcpus as u32 {
        if let Some(v) = vcpu(id)
            && v.polling.load(SeqCst)
            && id != current().id.get()
        {
            smp::interrupt(id, VECTOR_EVENT);
        }
    }
}

/// EVTCHNOP_send.
///
/// # Errors
/// EINVAL for a port that is not open for sending.
pub fn send(port: u32) -> Result<(), i64> {
    if port as usize >= PORTS {
        return Err(EINVAL);
    }
    let e = evtchn_entry(port as usize);
    match e & evtchn::KIND_MASK {
        BACKEND => vmm::notify_backend(port),
        IPI => set_pending(port, evtchn::vcpu(e)),
        LOOP => {
            let peer = evtchn::peer(e);
            set_pending(peer, evtchn::vcpu(evtchn_entry(peer as usize)));
        }
        evtchn::UNBOUND => {}
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// EVTCHNOP_unmask.
///
/// # Errors
/// EINVAL for a closed port.
pub fn unmask(port: u32) -> Result<(), i64> {
    if port as usize >= PORTS {
        return Err(EINVAL);
    }
    let e = evtchn_entry(port as usize);
    if e & evtchn::KIND_MASK == evtchn::CLOSED {
        return Err(EINVAL);
    }
    if shared_word(MASK, port).fetch_and(!bit(port), SeqCst) & bit(port) != 0 && is_pending(port) {
        select(port, evtchn::vcpu(e));
    }
    Ok(())
}

/// Raises a per-vcpu VIRQ on this vcpu.
pub fn raise_virq(virq: usize) {
    let port = vmm::virq_port(virq);
    if port == 0 || port as usize >= PORTS {
        return;
    }
    let e = evtchn_entry(port as usize);
    if e & evtchn::KIND_MASK == VIRQ {
        set_pending(port, evtchn::vcpu(e));
    }
}

/// The vcpu's event mask.
pub fn masked(v: &Vcpu) -> bool {
    info_u8(v.info.load(Relaxed), UPCALL_MASK).load(SeqCst) != 0
}

/// Sets or clears the vcpu's event mask.
pub fn set_masked(v: &Vcpu, on: bool) {
    info_u8(v.info.load(Relaxed), UPCALL_MASK).store(u8::from(on), SeqCst);
}

/// Whether an upcall waits, masked or not.
pub fn upcall_pending(v: &Vcpu) -> bool {
    info_u8(v.info.load(Relaxed), UPCALL_PENDING).load(SeqCst) != 0
}

/// Whether an upcall is to be delivered now.
pub fn deliverable(v: &Vcpu) -> bool {
    upcall_pending(v) && !masked(v)
}
