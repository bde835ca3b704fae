//! The rules of ports, and delivery into the guest's memory, on a machine that never runs.

use kvm_ioctls::Kvm;

use super::*;

const VCPUS: u64 = 40;

/// Event channels of a domain of 40 vcpus; None where there is no KVM.
fn channels() -> Option<EventChannels> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(e) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED, the test needs /dev/kvm: {e}");
            return None;
        }
        Err(e) => panic!("/dev/kvm: {e}"),
    };
    let map = MachineMap::new(256, VCPUS);
    let memory = Memory::new(256, map.start, map.extra()).unwrap();
    let vm = Vm::new(&kvm, &memory).unwrap();
    // delivery needs a vcpu that the interrupt can go to
    let vcpu = vm.create_vcpu(0).unwrap();
    std::mem::forget(vcpu);
    Some(EventChannels::new(memory, vm, map))
}

impl EventChannels {
    fn word(&self, offset: u64) -> u64 {
        let s = &self.shared;
        s.memory.load(s.map.shared_info + offset).unwrap()
    }

    fn pending(&self, port: u32) -> bool {
        self.word(PENDING + u64::from(port / 64) * 8) >> (port % 64) & 1 == 1
    }

    fn mask(&self, port: u32) {
        let at = self.shared.map.shared_info + MASK + u64::from(port / 64) * 8;
        self.shared.memory.fetch_or(at, 1 << (port % 64)).unwrap();
    }

    /// The emulator's copy.
    fn published(&self, port: u32) -> u32 {
        let s = &self.shared;
        let at = s.map.info + (EVTCHN_TABLE_VA - BOOT_INFO_VA) + u64::from(port) * 4;
        s.memory.load_u32(at).unwrap()
    }

    fn virq_port(&self, virq: u32, vcpu: u32) -> u32 {
        let s = &self.shared;
        let mailbox = s.map.areas + u64::from(vcpu) * AREA_SIZE + AREA_MAILBOX;
        let at = mailbox + std::mem::offset_of!(Mailbox, virq_port) as u64 + u64::from(virq) * 4;
        s.memory.load_u32(at).unwrap()
    }

    /// evtchn_upcall_pending and evtchn_pending_sel of a vcpu_info at a machine address.
    fn upcall(&self, info: u64) -> (u8, u64) {
        let m = &self.shared.memory;
        (m.load(info).unwrap() as u8, m.load(info + 8).unwrap())
    }
}

#[test]
fn ports_are_given_out_from_1_and_again_after_close() {
    let Some(e) = channels() else { return };
    assert_eq!(e.alloc_unbound(DOMID_SELF, 0), Ok(1));
    assert_eq!(e.alloc_unbound(DOMID, DOMID_SELF), Ok(2));
    assert_eq!(e.bind_ipi(0), Ok(3));
    assert_eq!(e.close(2), Ok(()));
    assert_eq!(e.close(2), Err(EINVAL));
    assert_eq!(e.bind_ipi(1), Ok(2));
    for port in [0, 4096, u32::MAX] {
        assert_eq!(e.close(port), Err(EINVAL), "port {port}");
        assert_eq!(e.bind_vcpu(port, 0), Err(EINVAL), "port {port}");
        assert_eq!(e.bind_backend(port).err(), Some(EINVAL), "port {port}");
        // nothing happens, nothing breaks
        e.raise(port);
        e.signal_backend(port);
        e.unbind_backend(port);
    }
    assert_eq!(e.status(DOMID_SELF, 4096), Err(EINVAL));
}

#[test]
fn ports_run_out() {
    let Some(e) = channels() else { return };
    for port in 1..4096 {
        assert_eq!(e.bind_ipi(0), Ok(port));
    }
    assert_eq!(e.bind_ipi(0), Err(ENOSPC));
    assert_eq!(e.alloc_unbound(DOMID_SELF, 0), Err(ENOSPC));
    assert_eq!(e.reset(DOMID_SELF), Ok(()));
    assert_eq!(e.bind_ipi(0), Ok(1));
    assert_eq!(e.published(4095), table::CLOSED);
}

#[test]
fn other_domains_are_out_of_reach() {
    let Some(e) = channels() else { return };
    assert_eq!(e.alloc_unbound(7, 0), Err(EPERM));
    assert_eq!(e.alloc_unbound(DOMID_SELF, 7), Err(ESRCH));
    assert_eq!(e.reset(0), Err(EPERM));
    assert_eq!(e.status(0, 1), Err(ESRCH));
    assert_eq!(e.bind_interdomain(7, 1), Err(ESRCH));
    assert_eq!(e.bind_interdomain(0, 1), Err(EINVAL));
}

#[test]
fn a_backend_takes_an_unbound_port_of_its_own() {
    let Some(e) = channels() else { return };
    let port = e.alloc_unbound(DOMID_SELF, 0).unwrap();
    let unbound = Status {
        status: EVTCHNSTAT_UNBOUND,
        ..Status::default()
    };
    assert_eq!(e.status(DOMID_SELF, port), Ok(unbound));
    let event = e.bind_backend(port).unwrap();
    assert_eq!(e.published(port), table::entry(table::BACKEND, 0, 0));
    assert_eq!(e.bind_backend(port).err(), Some(EINVAL), "taken");
    let bound = Status {
        status: EVTCHNSTAT_INTERDOMAIN,
        u: [0, port],
        ..Status::default()
    };
    assert_eq!(e.status(DOMID_SELF, port), Ok(bound));
    e.signal_backend(port);
    assert_eq!(event.read().ok(), Some(1));
    e.unbind_backend(port);
    assert_eq!(e.status(DOMID_SELF, port), Ok(unbound));
    e.signal_backend(port);
    assert!(event.read().is_err(), "nobody listens any more");
    // a port for the domain itself is not for backends
    let own = e.alloc_unbound(DOMID_SELF, DOMID).unwrap();
    assert_eq!(e.bind_backend(own).err(), Some(EINVAL));
    let ipi = e.bind_ipi(0).unwrap();
    assert_eq!(e.bind_backend(ipi).err(), Some(EINVAL));
}

#[test]
fn a_backend_can_come_back() {
    let Some(e) = channels() else { return };
    for _ in 0..3 {
        e.bind_backend(1).unwrap();
        e.unbind_backend(1);
    }
    let event = e.bind_backend(1).unwrap();
    assert_eq!(e.close(1), Ok(()));
    drop(event);
    assert!(
        e.bind_backend(1).is_ok(),
        "the port's ioeventfd went with it"
    );
}

#[test]
fn a_domain_talks_to_itself() {
    let Some(e) = channels() else { return };
    let theirs = e.alloc_unbound(DOMID_SELF, DOMID_SELF).unwrap();
    e.bind_vcpu(theirs, 3).unwrap();
    let ours = e.bind_interdomain(DOMID_SELF, theirs).unwrap();
    assert!(e.pending(ours), "a new channel starts pending");
    assert_eq!(e.published(theirs), table::entry(table::LOOP, 3, ours));
    assert_eq!(e.published(ours), table::entry(table::LOOP, 0, theirs));
    let status = e.status(DOMID, theirs).unwrap();
    assert_eq!((status.status, status.vcpu), (EVTCHNSTAT_INTERDOMAIN, 3));
    assert_eq!(status.u, [u32::from(DOMID), ours]);
    assert_eq!(e.bind_interdomain(DOMID_SELF, theirs), Err(EINVAL), "bound");
    // one end goes, the other waits for a new peer
    assert_eq!(e.close(ours), Ok(()));
    assert!(!e.pending(ours));
    let status = e.status(DOMID, theirs).unwrap();
    assert_eq!(
        (status.status, status.u[0]),
        (EVTCHNSTAT_UNBOUND, u32::from(DOMID))
    );
    assert_eq!(e.bind_interdomain(DOMID_SELF, theirs), Ok(ours));
}

#[test]
fn virqs_are_bound_once_a_vcpu() {
    let Some(e) = channels() else { return };
    let port = e.bind_virq(VIRQ_TIMER, 0).unwrap();
    assert_eq!(e.virq_port(VIRQ_TIMER, 0), port);
    assert_eq!(e.bind_virq(VIRQ_TIMER, 0), Err(EEXIST));
    let other = e.bind_virq(VIRQ_TIMER, 39).unwrap();
    assert_eq!(e.virq_port(VIRQ_TIMER, 39), other);
    assert_eq!(e.virq_port(VIRQ_DEBUG, 0), 0);
    let status = e.status(DOMID, other).unwrap();
    assert_eq!(
        (status.status, status.vcpu, status.u[0]),
        (EVTCHNSTAT_VIRQ, 39, VIRQ_TIMER)
    );
    assert_eq!(e.bind_vcpu(other, 1), Err(EINVAL), "it belongs to its vcpu");
    e.close(other).unwrap();
    assert_eq!(e.virq_port(VIRQ_TIMER, 39), 0);
    assert_eq!(e.bind_virq(VIRQ_TIMER, 40), Err(ENOENT));
    assert_eq!(e.bind_virq(NR_VIRQS, 0), Err(EINVAL));
    assert_eq!(e.bind_virq(VIRQ_ARGO, 1), Err(EINVAL), "global");
    let argo = e.bind_virq(VIRQ_ARGO, 0).unwrap();
    assert_eq!(e.bind_vcpu(argo, 5), Ok(()));
    assert_eq!(e.bind_virq(VIRQ_ARGO, 0), Err(EEXIST), "wherever it went");
    e.close(argo).unwrap();
    assert_eq!(e.virq_port(VIRQ_ARGO, 0), 0);
}

#[test]
fn what_belongs_to_a_vcpu_stays_with_it() {
    let Some(e) = channels() else { return };
    let ipi = e.bind_ipi(2).unwrap();
    assert_eq!(e.published(ipi), table::entry(table::IPI, 2, 0));
    assert_eq!(e.bind_vcpu(ipi, 1), Err(EINVAL));
    assert_eq!(e.bind_ipi(40), Err(ENOENT));
    let port = e.alloc_unbound(DOMID_SELF, 0).unwrap();
    assert_eq!(e.bind_vcpu(port, 40), Err(ENOENT));
    assert_eq!(e.bind_vcpu(port, 39), Ok(()));
    assert_eq!(e.published(port), table::entry(table::UNBOUND, 39, 0));
}

#[test]
fn an_event_sets_all_bits_on_its_way() {
    let Some(e) = channels() else { return };
    let info = e.shared.map.shared_info;
    e.bind_backend(200).unwrap();
    e.raise(200);
    assert!(e.pending(200));
    assert_eq!(e.upcall(info), (1, 1 << 3));
    // unbound ports and closed ones stay quiet
    let port = e.alloc_unbound(DOMID_SELF, 0).unwrap();
    e.raise(port);
    e.raise(300);
    assert!(!e.pending(port) && !e.pending(300));
}

#[test]
fn a_masked_event_is_pending_and_no_more() {
    let Some(e) = channels() else { return };
    e.bind_backend(1).unwrap();
    e.mask(1);
    e.raise(1);
    assert!(e.pending(1));
    assert_eq!(e.upcall(e.shared.map.shared_info), (0, 0));
}

#[test]
fn vcpu_info_moves_once_and_is_told_to_look_everywhere() {
    let Some(e) = channels() else { return };
    let m = &e.shared.memory;
    let info = e.shared.map.shared_info + 64;
    m.write(info + 16, &[7; 48]).unwrap();
    assert_eq!(e.register_vcpu_info(1, 0x4000), Ok(()));
    assert_eq!(e.upcall(0x4000), (1, u64::MAX));
    let mut rest = [0; 48];
    m.read(0x4010, &mut rest).unwrap();
    assert_eq!(rest, [7; 48], "time and CR2 come along");
    assert_eq!(e.register_vcpu_info(1, 0x5000), Err(EBUSY));
    // beyond the 32 of shared_info: events masked at first
    assert_eq!(e.register_vcpu_info(39, 0x6000), Ok(()));
    assert_eq!(m.load(0x6000).unwrap(), 0x101);
    assert_eq!(e.register_vcpu_info(40, 0x7000), Err(ENOENT));
    m.store(0x4000, 0).unwrap();
    m.store(0x4008, 0).unwrap();
    e.bind_backend(5).unwrap();
    e.bind_vcpu(5, 1).unwrap();
    e.raise(5);
    assert_eq!(e.upcall(0x4000), (1, 1), "events follow it");
}

#[test]
fn a_channel_unbinds_its_own_binding_alone() {
    let Some(e) = channels() else { return };
    let port = e.alloc_unbound(DOMID_SELF, 0).unwrap();
    let first = e.connect(port).unwrap();
    assert_eq!(e.connect(port).err(), Some(EINVAL), "taken");
    assert_eq!(
        e.status(DOMID_SELF, port).unwrap().status,
        EVTCHNSTAT_INTERDOMAIN
    );
    e.close(port).unwrap();
    assert_eq!(
        e.connect(port).err(),
        Some(EINVAL),
        "closed ports are not offered"
    );
    assert_eq!(e.alloc_unbound(DOMID_SELF, 0).unwrap(), port);
    let second = e.connect(port).unwrap();
    drop(first);
    assert_eq!(
        e.status(DOMID_SELF, port).unwrap().status,
        EVTCHNSTAT_INTERDOMAIN
    );
    drop(second);
    assert_eq!(
        e.status(DOMID_SELF, port).unwrap().status,
        EVTCHNSTAT_UNBOUND
    );
    assert!(e.connect(port).is_ok(), "a backend can come back");
}
