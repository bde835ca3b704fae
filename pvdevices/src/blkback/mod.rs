//! The block backend (`xen/include/public/io/blkif.h`): serves a frontend's requests from a disk
//! image.
//!
//! [`BlkBack`] is the device as its bus drives it, [`DiskControl`] the VMM's handle. Each ring has a
//! thread of its own that takes requests up, has them done by `io_uring` or a pool of threads, and
//! answers in whatever order they are done. Formats of images are [`crate::image`]'s matter, what
//! the domain is asked to do on an error is the VMM's.

mod config;
mod device;
mod disk;
mod engine;
mod grants;
mod policy;
mod protocol;
mod queue;
mod request;
mod slots;
mod stats;

pub use config::{DiskKind, MAX_RING_ORDER, VbdConfig};
pub use device::BlkBack;
pub use disk::{DiskControl, Paused};
pub use policy::{
    Aio, CacheMode, DiskEvents, ErrorAction, ErrorPolicy, IoFault, IoKind, NoEvents, Policies,
};
pub use request::MAX_INDIRECT;
pub use stats::{OpStats, Stats};

#[cfg(any(test, feature = "mock"))]
pub mod mock;
#[cfg(test)]
mod tests;
