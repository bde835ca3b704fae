//! KVM: opening it, finding out how it behaves, virtual machines and vcpus.

pub mod cpuid;
pub mod probe;
pub mod stats;
pub mod vcpu;
pub mod vm;

use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

/// What stands in the way of using KVM.
#[derive(Debug, Error)]
pub enum KvmError {
    /// /dev/kvm cannot be opened.
    #[error("/dev/kvm: {what}")]
    Open {
        /// Cause and way out.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM lacks something.
    #[error("/dev/kvm: This KVM lacks {0}, which xenner needs")]
    Lacks(&'static str),
    /// A call failed.
    #[error("/dev/kvm: {call} failed")]
    Call {
        /// The ioctl.
        call: &'static str,
        /// What the kernel said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The guest of the probe did not do what any CPU does.
    #[error("/dev/kvm: The start-up probe ended with {0}; try -xenner flavour=hardware or pvm")]
    Probe(String),
}

/// Names the call that an error comes from.
pub(crate) fn call(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Call { call, source }
}

/// Opens /dev/kvm and checks that it has what xenner needs.
///
/// # Errors
/// As said.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|source| KvmError::Open {
        what: match source.errno() {
            libc::ENOENT => "There is no KVM on this host: load the kvm module",
            libc::EACCES | libc::EPERM => {
                "No permission: add yourself to the group that owns it (often kvm), or run as root"
            }
            libc::EBUSY => "It is in use by another hypervisor",
            _ => "It cannot be opened",
        },
        source,
    })?;
    for (cap, name) in [
        (Cap::Irqchip, "an in-kernel interrupt controller"),
        (Cap::UserMemory, "user memory regions"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::SignalMsi, "KVM_SIGNAL_MSI"),
        (Cap::ImmediateExit, "immediate exit"),
        (Cap::TscDeadlineTimer, "the TSC deadline timer"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Lacks(name));
        }
    }
    Ok(kvm)
}
