//! xenner boots unmodified Xen paravirtual kernels as KVM virtual machines.
//!
//! This library is the VMM: it builds the domain, runs its vcpus, and plays
//! the part of dom0 (xenstore, event channels, grant tables, device
//! backends). The hot half of the hypervisor is not here but in `emu/`, which
//! runs in the guest's ring 0.

pub mod backend;
pub mod cli;
pub mod config;
pub mod disks;
pub mod domain;
pub mod evtchn;
mod fd;
mod frames;
pub mod grants;
pub mod guest_va;
pub mod hypercall;
pub mod kvm;
pub mod loader;
pub mod logging;
pub mod memory;
pub mod qmp;
mod run;
pub mod xenstore;

pub use run::{RunError, run};
