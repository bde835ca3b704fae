//! The user's side of a domain's console: character devices, and the client that attaches to a
//! running domain.
//!
//! Nothing here knows Xen or KVM. The PV console backend moves bytes between a guest's ring and a
//! character device.

pub mod config;
pub mod rundir;
