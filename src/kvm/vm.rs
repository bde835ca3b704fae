//! A virtual machine: memory slots, interrupts, registers of its vcpus.
// UNSAFETY: memory slots name host memory.
#![expect(unsafe_code)]

use std::sync::Arc;

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_msi, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::{KvmError, call};
use crate::memory::Memory;

/// A KVM virtual machine with its memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    // the slots point into it
    _memory: Memory,
}

impl Vm {
    /// Makes a machine with an in-kernel interrupt controller and `memory`.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn new(kvm: &Kvm, memory: &Memory) -> Result<Self, KvmError> {
        let fd = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        for (slot, (start, len, host)) in memory.regions().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: start,
                memory_size: len,
                userspace_addr: host,
            };
            // SAFETY: the range is a mapping of `memory`, which lives in `self` beside the machine.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        }
        fd.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
        Ok(Self {
            fd: Arc::new(fd),
            _memory: memory.clone(),
        })
    }

    /// The file descriptor, for what has no method here.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Makes a vcpu.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn create_vcpu(&self, id: u32) -> Result<VcpuFd, KvmError> {
        self.fd
            .create_vcpu(u64::from(id))
            .map_err(call("KVM_CREATE_VCPU"))
    }

    /// Sends an interrupt to a vcpu.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn interrupt(&self, vcpu: u32, vector: u8) -> Result<(), KvmError> {
        let msi = kvm_msi {
            address_lo: 0xfee0_0000 | (vcpu & 0xff) << 12,
            address_hi: vcpu & 0xffff_ff00,
            data: u32::from(vector),
            ..Default::default()
        };
        self.fd
            .signal_msi(msi)
            .map(|_| ())
            .map_err(call("KVM_SIGNAL_MSI"))
    }

    /// Has 32-bit writes of `value` to an I/O port signal `event`, without leaving the kernel.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn watch_port(&self, event: &EventFd, port: u16, value: u32) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Pio(u64::from(port)), value)
            .map_err(call("KVM_IOEVENTFD"))
    }

    /// Undoes [`Vm::watch_port`].
    ///
    /// # Errors
    /// KVM refuses.
    pub fn unwatch_port(&self, event: &EventFd, port: u16, value: u32) -> Result<(), KvmError> {
        self.fd
            .unregister_ioevent(event, &IoEventAddress::Pio(u64::from(port)), value)
            .map_err(call("KVM_IOEVENTFD"))
    }
}

/// Where a vcpu starts in ring 0.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Ring0Start {
    pub cr3: u64,
    pub rip: u64,
    pub rsp: u64,
    pub rdi: u64,
}

/// Puts a vcpu into 64-bit ring 0, ready to run.
///
/// # Errors
/// KVM refuses.
pub fn start_in_ring0(vcpu: &VcpuFd, start: Ring0Start) -> Result<(), KvmError> {
    const CR0: u64 = 0x8001_0033; // PG WP NE ET MP PE
    const CR4: u64 = 0x620; // PAE OSFXSR OSXMMEXCPT
    const EFER: u64 = 0xd01; // NXE LMA LME SCE
    const X2APIC: u64 = 0xc00;
    let mut s = vcpu.get_sregs().map_err(call("KVM_GET_SREGS"))?;
    s.cs = segment(0xe008, 11);
    s.cs.l = 1;
    for seg in [&mut s.ds, &mut s.es, &mut s.fs, &mut s.gs] {
        *seg = segment(0, 3);
        seg.dpl = 3;
    }
    s.ss = segment(0xe010, 3);
    s.ss.db = 1;
    s.cr0 = CR0;
    s.cr3 = start.cr3;
    s.cr4 = CR4;
    s.efer = EFER;
    s.apic_base |= X2APIC;
    vcpu.set_sregs(&s).map_err(call("KVM_SET_SREGS"))?;
    let mut r = vcpu.get_regs().map_err(call("KVM_GET_REGS"))?;
    r.rip = start.rip;
    r.rsp = start.rsp;
    r.rdi = start.rdi;
    r.rflags = 2;
    vcpu.set_regs(&r).map_err(call("KVM_SET_REGS"))?;
    vcpu.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    })
    .map_err(call("KVM_SET_MP_STATE"))
}

fn segment(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}
