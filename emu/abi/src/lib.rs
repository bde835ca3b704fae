//! What the emulator (ring 0 of the guest) and the VMM (the host process)
//! agree on: where things lie in the hypervisor hole, and the plain-data pages
//! through which they talk.
//!
//! No behaviour here. The VMM treats every byte of these pages as untrusted,
//! because a guest that broke into ring 0 could write them; the emulator trusts
//! what the VMM wrote before the first instruction.
#![no_std]
#![forbid(unsafe_code)]

pub mod area;
pub mod boot;
pub mod evtchn;
pub mod frame;
pub mod layout;
pub mod mailbox;
pub mod pte;
