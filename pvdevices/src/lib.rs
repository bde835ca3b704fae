//! The backends of Xen's paravirtual devices: what dom0 would run.
//!
//! They know rings, grants, event channels' far ends and host descriptors, and nothing of KVM. What
//! they need of the domain comes through the traits of [`domain`], so that each of them runs on the
//! host against a frontend made for a test.

mod bell;
pub mod blkback;
pub mod consback;
pub mod domain;
pub mod image;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
pub mod netback;
pub mod netend;
pub mod ring;
pub mod xenbus;
