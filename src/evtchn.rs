//! The domain's event channels: which port is bound to what, and delivery from the host's
//! side (`xen/include/public/event_channel.h`, 2-level ABI).
//!
//! The VMM's table is the truth; the emulator has a copy of what it needs for sending and
//! unmasking ([`xenner_emu_abi::evtchn`]).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{debug, warn};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use xenner_emu_abi::area::{AREA_MAILBOX, AREA_SIZE};
use xenner_emu_abi::evtchn as table;
use xenner_emu_abi::layout::{BOOT_INFO_VA, DOMID, EVTCHN_TABLE_VA};
use xenner_emu_abi::mailbox::{Mailbox, PORT_EVTCHN, VECTOR_EVENT};
use xenner_pvdevices::domain::{Channel, Notify};
use xenner_xen_abi::errno::{EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM, ESRCH};
use xenner_xen_abi::event_channel::{
    EVTCHNSTAT_CLOSED, EVTCHNSTAT_INTERDOMAIN, EVTCHNSTAT_IPI, EVTCHNSTAT_UNBOUND, EVTCHNSTAT_VIRQ,
};
use xenner_xen_abi::xen::{
    DOMID_SELF, NR_VIRQS, VIRQ_ARGO, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU,
    XEN_LEGACY_MAX_VCPUS,
};

use crate::domain::layout::MachineMap;
use crate::kvm::vm::Vm;
use crate::memory::Memory;

#[cfg(test)]
mod tests;

/// Offsets in shared_info.
const PENDING: u64 = 2048;
const MASK: u64 = 2560;

/// An errno of the Xen interface, positive.
pub type XenErrno = i64;

#[derive(Debug, Default)]
enum Binding {
    #[default]
    Closed,
    Unbound {
        remote: u16,
    },
    /// A backend in this process; the guest's sends signal the event.
    Backend {
        event: EventFd,
        /// Tells this binding from later ones of the same port.
        id: u64,
    },
    Ipi,
    Virq(u32),
    /// Another port of the same domain.
    Loop {
        peer: u32,
    },
}

#[derive(Debug, Default)]
struct Port {
    binding: Binding,
    vcpu: u32,
}

#[derive(Debug)]
struct Inner {
    ports: Vec<Port>,
    /// Machine address of each vcpu's vcpu_info, 0 for none.
    info: Vec<u64>,
    /// vcpus that moved their vcpu_info.
    registered: Vec<bool>,
    /// Bindings to backends so far.
    bindings: u64,
}

/// The event channels of a domain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventChannels {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    memory: Memory,
    vm: Vm,
    map: MachineMap,
}

/// A backend's binding to a port; undone when dropped, unless the guest closed the port before.
#[derive(Debug)]
pub struct BackendChannel {
    events: EventChannels,
    port: u32,
    event: EventFd,
    id: u64,
}

impl Notify for BackendChannel {
    fn notify(&self) {
        self.events.raise(self.port);
    }
}

impl Channel for BackendChannel {
    fn clear(&self) {
        // an empty counter means that another turn has seen the event
        let _ = self.event.read();
    }

    fn is_masked(&self) -> bool {
        self.events.is_masked(self.port)
    }
}

impl AsFd for BackendChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        crate::fd::of_event(&self.event)
    }
}

impl Drop for BackendChannel {
    fn drop(&mut self) {
        self.events.unbind_if(self.port, |id| id == self.id);
    }
}

/// What EVTCHNOP_status tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `EVTCHNSTAT_*`.
    pub status: u32,
    /// The notified vcpu.
    pub vcpu: u32,
    /// Depends on the status: remote domain, VIRQ.
    pub u: [u32; 2],
}

impl EventChannels {
    /// No port is bound; every vcpu_info is in shared_info.
    pub fn new(memory: Memory, vm: Vm, map: MachineMap) -> Self {
        let info = (0..map.vcpus)
            .map(|i| {
                if i < XEN_LEGACY_MAX_VCPUS as u64 {
                    map.shared_info + i * 64
                } else {
                    0
                }
            })
            .collect();
        let inner = Inner {
            ports: (0..table::PORTS).map(|_| Port::default()).collect(),
            info,
            registered: vec![false; map.vcpus as usize],
            bindings: 0,
        };
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                memory,
                vm,
                map,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds a given free or unbound port to a backend; returns the event that the guest's
    /// sends signal.
    ///
    /// # Errors
    /// EINVAL if the port is bound otherwise; ENOSPC if the host has no event descriptors left.
    pub fn bind_backend(&self, port: u32) -> Result<EventFd, XenErrno> {
        self.bind_if(port, |b| {
            matches!(b, Binding::Closed | Binding::Unbound { remote: 0 })
        })
        .map(|(event, _)| event)
    }

    /// Binds a backend to a port that the guest allocated for domain 0, until the channel is
    /// dropped.
    ///
    /// # Errors
    /// As [`Self::bind_backend`].
    pub fn connect(&self, port: u32) -> Result<BackendChannel, XenErrno> {
        let (event, id) = self.bind_if(port, |b| matches!(b, Binding::Unbound { remote: 0 }))?;
        Ok(BackendChannel {
            events: self.clone(),
            port,
            event,
            id,
        })
    }

    fn bind_if(
        &self,
        port: u32,
        fits: impl Fn(&Binding) -> bool,
    ) -> Result<(EventFd, u64), XenErrno> {
        let mut inner = self.lock();
        inner.bindings += 1;
        let id = inner.bindings;
        let slot = inner
            .ports
            .get_mut(port as usize)
            .filter(|slot| port != 0 && fits(&slot.binding))
            .ok_or(EINVAL)?;
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|_| ENOSPC)?;
        let ours = event.try_clone().map_err(|_| ENOSPC)?;
        self.shared
            .vm
            .watch_port(&event, PORT_EVTCHN, port)
            .map_err(|e| {
                warn!(target: "xenner::evtchn", "port {port}: {e}");
                ENOSPC
            })?;
        slot.binding = Binding::Backend { event, id };
        self.publish(port, slot);
        Ok((ours, id))
    }

    /// Undoes [`Self::bind_backend`]: the port is unbound, as when a peer goes away.
    pub fn unbind_backend(&self, port: u32) {
        self.unbind_if(port, |_| true);
    }

    fn unbind_if(&self, port: u32, ours: impl Fn(u64) -> bool) {
        let mut inner = self.lock();
        if let Some(slot) = inner.ports.get_mut(port as usize)
            && let Binding::Backend { event, id } = &slot.binding
            && ours(*id)
        {
            self.unwatch(port, event);
            slot.binding = Binding::Unbound { remote: 0 };
            self.publish(port, slot);
        }
    }

    fn unwatch(&self, port: u32, event: &EventFd) {
        if let Err(e) = self.shared.vm.unwatch_port(event, PORT_EVTCHN, port) {
            warn!(target: "xenner::evtchn", "port {port}: {e}");
        }
    }

    /// A send on a backend's port came the long way; signals the backend.
    pub fn signal_backend(&self, port: u32) {
        if let Some(Port {
            binding: Binding::Backend { event, .. },
            ..
        }) = self.lock().ports.get(port as usize)
            && let Err(e) = event.write(1)
        {
            warn!(target: "xenner::evtchn", "port {port}: {e}");
        }
    }

    /// Makes a port pending for the guest, as the backend bound to it does.
    pub fn raise(&self, port: u32) {
        let inner = self.lock();
        let Some(slot) = inner.ports.get(port as usize) else {
            return;
        };
        if matches!(slot.binding, Binding::Closed | Binding::Unbound { .. }) {
            return;
        }
        if let Err(e) = self.deliver(&inner, port, slot.vcpu) {
            warn!(target: "xenner::evtchn", "port {port}: {e}");
        }
    }

    fn deliver(
        &self,
        inner: &Inner,
        port: u32,
        vcpu: u32,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let Shared {
            memory, vm, map, ..
        } = &*self.shared;
        let word = u64::from(port / 64) * 8;
        let bit = 1u64 << (port % 64);
        if memory.fetch_or(map.shared_info + PENDING + word, bit)? & bit != 0 {
            return Ok(());
        }
        debug!(target: "xenner::evtchn", "port {port} pending");
        if memory.load(map.shared_info + MASK + word)? & bit != 0 {
            // masked: only a vcpu that polls the port wants to know
            for v in 0..map.vcpus as u32 {
                vm.interrupt(v, VECTOR_EVENT)?;
            }
            return Ok(());
        }
        let info = inner.info.get(vcpu as usize).copied().unwrap_or(0);
        let select = 1u64 << (port / 64);
        if info != 0 && memory.fetch_or(info + 8, select)? & select == 0 {
            memory.store_u8(info, 1)?;
        }
        vm.interrupt(vcpu, VECTOR_EVENT)?;
        Ok(())
    }

    /// Whether the guest has masked a port.
    fn is_masked(&self, port: u32) -> bool {
        let Shared { memory, map, .. } = &*self.shared;
        let word = memory.load(map.shared_info + MASK + u64::from(port / 64) * 8);
        word.map_or(true, |word| word >> (port % 64) & 1 == 1)
    }

    /// Writes the emulator's copy of a port.
    fn publish(&self, port: u32, slot: &Port) {
        let entry = match slot.binding {
            Binding::Closed => table::CLOSED,
            Binding::Unbound { .. } => table::entry(table::UNBOUND, slot.vcpu, 0),
            Binding::Backend { .. } => table::entry(table::BACKEND, slot.vcpu, 0),
            Binding::Ipi => table::entry(table::IPI, slot.vcpu, 0),
            Binding::Virq(_) => table::entry(table::VIRQ, slot.vcpu, 0),
            Binding::Loop { peer } => table::entry(table::LOOP, slot.vcpu, peer),
        };
        let at = self.shared.map.info + (EVTCHN_TABLE_VA - BOOT_INFO_VA) + u64::from(port) * 4;
        if let Err(e) = self.shared.memory.store_u32(at, entry) {
            warn!(target: "xenner::evtchn", "port {port}: {e}");
        }
    }

    fn publish_virq(&self, virq: u32, vcpu: u32, port: u32) {
        let at = self.shared.map.areas
            + u64::from(vcpu) * AREA_SIZE
            + AREA_MAILBOX
            + std::mem::offset_of!(Mailbox, virq_port) as u64
            + u64::from(virq) * 4;
        if let Err(e) = self.shared.memory.store_u32(at, port) {
            warn!(target: "xenner::evtchn", "virq {virq}: {e}");
        }
    }

    fn check_vcpu(&self, vcpu: u32) -> Result<(), XenErrno> {
        if u64::from(vcpu) < self.shared.map.vcpus {
            Ok(())
        } else {
            Err(ENOENT)
        }
    }

    /// The first free port.
    fn free_port(inner: &Inner) -> Result<u32, XenErrno> {
        inner
            .ports
            .iter()
            .enumerate()
            .skip(1)
            .find(|(_, p)| matches!(p.binding, Binding::Closed))
            .map(|(i, _)| i as u32)
            .ok_or(ENOSPC)
    }

    fn open(&self, inner: &mut Inner, port: u32, binding: Binding, vcpu: u32) {
        self.clear_pending(port);
        let slot = &mut inner.ports[port as usize];
        *slot = Port { binding, vcpu };
        self.publish(port, slot);
    }

    fn clear_pending(&self, port: u32) {
        let at = self.shared.map.shared_info + PENDING + u64::from(port / 64) * 8;
        let bit = 1u64 << (port % 64);
        if let Err(e) = self.shared.memory.fetch_and(at, !bit) {
            warn!(target: "xenner::evtchn", "port {port}: {e}");
        }
    }

    /// EVTCHNOP_alloc_unbound.
    ///
    /// # Errors
    /// EPERM for another domain, ESRCH for a remote domain that is not there, ENOSPC.
    pub fn alloc_unbound(&self, dom: u16, remote: u16) -> Result<u32, XenErrno> {
        if !own(dom) {
            return Err(EPERM);
        }
        let remote = if remote == DOMID_SELF { DOMID } else { remote };
        if remote != 0 && remote != DOMID {
            return Err(ESRCH);
        }
        let mut inner = self.lock();
        let port = Self::free_port(&inner)?;
        self.open(&mut inner, port, Binding::Unbound { remote }, 0);
        Ok(port)
    }

    /// EVTCHNOP_bind_interdomain: only to the domain's own unbound ports.
    ///
    /// # Errors
    /// ESRCH, EINVAL, ENOSPC.
    pub fn bind_interdomain(&self, remote: u16, remote_port: u32) -> Result<u32, XenErrno> {
        match remote {
            0 => return Err(EINVAL),
            r if own(r) => {}
            _ => return Err(ESRCH),
        }
        let mut inner = self.lock();
        match inner.ports.get(remote_port as usize) {
            Some(Port {
                binding: Binding::Unbound { remote: DOMID },
                ..
            }) => {}
            _ => return Err(EINVAL),
        }
        let port = Self::free_port(&inner)?;
        self.open(&mut inner, port, Binding::Loop { peer: remote_port }, 0);
        let vcpu = inner.ports[remote_port as usize].vcpu;
        inner.ports[remote_port as usize] = Port {
            binding: Binding::Loop { peer: port },
            vcpu,
        };
        self.publish(remote_port, &inner.ports[remote_port as usize]);
        // a new interdomain channel starts pending, so that nothing sent before is lost
        if let Err(e) = self.deliver(&inner, port, 0) {
            warn!(target: "xenner::evtchn", "port {port}: {e}");
        }
        Ok(port)
    }

    /// EVTCHNOP_bind_virq.
    ///
    /// # Errors
    /// EINVAL, ENOENT, EEXIST, EBUSY, ENOSPC.
    pub fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<u32, XenErrno> {
        if virq >= NR_VIRQS {
            return Err(EINVAL);
        }
        let per_vcpu = matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU);
        if !per_vcpu && virq != VIRQ_ARGO {
            // the others are the hypervisor owner's
            return Err(if vcpu != 0 { EINVAL } else { EBUSY });
        }
        if !per_vcpu && vcpu != 0 {
            return Err(EINVAL);
        }
        self.check_vcpu(vcpu)?;
        let mut inner = self.lock();
        // one port a vcpu; of a global VIRQ one port, whichever vcpu it was moved to
        let bound = |p: &Port| {
            matches!(p.binding, Binding::Virq(v) if v == virq) && (!per_vcpu || p.vcpu == vcpu)
        };
        if inner.ports.iter().any(bound) {
            return Err(EEXIST);
        }
        let port = Self::free_port(&inner)?;
        self.open(&mut inner, port, Binding::Virq(virq), vcpu);
        self.publish_virq(virq, vcpu, port);
        Ok(port)
    }

    /// EVTCHNOP_bind_ipi.
    ///
    /// # Errors
    /// ENOENT, ENOSPC.
    pub fn bind_ipi(&self, vcpu: u32) -> Result<u32, XenErrno> {
        self.check_vcpu(vcpu)?;
        let mut inner = self.lock();
        let port = Self::free_port(&inner)?;
        self.open(&mut inner, port, Binding::Ipi, vcpu);
        Ok(port)
    }

    /// EVTCHNOP_bind_vcpu.
    ///
    /// # Errors
    /// ENOENT for a missing vcpu; EINVAL for ports that belong to a vcpu, or are closed.
    pub fn bind_vcpu(&self, port: u32, vcpu: u32) -> Result<(), XenErrno> {
        self.check_vcpu(vcpu)?;
        let mut inner = self.lock();
        let slot = inner.ports.get_mut(port as usize).ok_or(EINVAL)?;
        match slot.binding {
            Binding::Unbound { .. }
            | Binding::Backend { .. }
            | Binding::Loop { .. }
            | Binding::Virq(VIRQ_ARGO) => {
                slot.vcpu = vcpu;
                self.publish(port, slot);
                Ok(())
            }
            Binding::Closed | Binding::Ipi | Binding::Virq(_) => Err(EINVAL),
        }
    }

    /// EVTCHNOP_close.
    ///
    /// # Errors
    /// EINVAL if the port is not open.
    pub fn close(&self, port: u32) -> Result<(), XenErrno> {
        let mut inner = self.lock();
        let slot = inner.ports.get_mut(port as usize).ok_or(EINVAL)?;
        let old = std::mem::take(slot);
        match &old.binding {
            Binding::Closed => return Err(EINVAL),
            Binding::Backend { event, .. } => self.unwatch(port, event),
            // the only one that may have moved since vcpu 0 bound it
            Binding::Virq(VIRQ_ARGO) => self.publish_virq(VIRQ_ARGO, 0, 0),
            Binding::Virq(virq) => self.publish_virq(*virq, old.vcpu, 0),
            Binding::Loop { peer } => {
                let vcpu = inner.ports[*peer as usize].vcpu;
                let unbound = Port {
                    binding: Binding::Unbound { remote: DOMID },
                    vcpu,
                };
                inner.ports[*peer as usize] = unbound;
                self.publish(*peer, &inner.ports[*peer as usize]);
            }
            Binding::Unbound { .. } | Binding::Ipi => {}
        }
        self.clear_pending(port);
        self.publish(port, &inner.ports[port as usize]);
        Ok(())
    }

    /// EVTCHNOP_reset: closes every port.
    ///
    /// # Errors
    /// EPERM for another domain.
    pub fn reset(&self, dom: u16) -> Result<(), XenErrno> {
        if !own(dom) {
            return Err(EPERM);
        }
        for port in 1..table::PORTS as u32 {
            match self.close(port) {
                Ok(()) | Err(EINVAL) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// EVTCHNOP_status.
    ///
    /// # Errors
    /// EINVAL for a port that cannot be; ESRCH for another domain.
    pub fn status(&self, dom: u16, port: u32) -> Result<Status, XenErrno> {
        if !own(dom) {
            return Err(ESRCH);
        }
        let inner = self.lock();
        let slot = inner.ports.get(port as usize).ok_or(EINVAL)?;
        let (status, u) = match slot.binding {
            Binding::Closed => (EVTCHNSTAT_CLOSED, [0, 0]),
            Binding::Unbound { remote } => (EVTCHNSTAT_UNBOUND, [u32::from(remote), 0]),
            Binding::Backend { .. } => (EVTCHNSTAT_INTERDOMAIN, [0, port]),
            Binding::Loop { peer } => (EVTCHNSTAT_INTERDOMAIN, [u32::from(DOMID), peer]),
            Binding::Virq(virq) => (EVTCHNSTAT_VIRQ, [virq, 0]),
            Binding::Ipi => (EVTCHNSTAT_IPI, [0, 0]),
        };
        Ok(Status {
            status,
            vcpu: slot.vcpu,
            u,
        })
    }

    /// VCPUOP_register_vcpu_info: moves a vcpu's vcpu_info to machine address `to`, which the
    /// caller has checked, and has the vcpu look at every port.
    ///
    /// # Errors
    /// EBUSY the second time.
    pub fn register_vcpu_info(&self, vcpu: u32, to: u64) -> Result<(), XenErrno> {
        let mut inner = self.lock();
        let i = vcpu as usize;
        if *inner.registered.get(i).ok_or(ENOENT)? {
            return Err(EBUSY);
        }
        let m = &self.shared.memory;
        let from = inner.info[i];
        let mut content = [0u8; 64];
        if from != 0 {
            m.read(from, &mut content).map_err(|_| EINVAL)?;
        } else {
            content[1] = 1;
        }
        content[0] = 1;
        content[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        m.write(to, &content).map_err(|_| EINVAL)?;
        inner.info[i] = to;
        inner.registered[i] = true;
        Ok(())
    }
}

fn own(dom: u16) -> bool {
    dom == DOMID_SELF || dom == DOMID
}
