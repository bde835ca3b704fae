//! The Xen public interface: numbers and structures of the headers under
//! `xen/include/public/`, one module a header. Constants keep their names in
//! upper case, structures are `CamelCase`.
//!
//! 64-bit layouts. Addresses and handles are plain `u64`, padding is explicit,
//! sizes and offsets are asserted at compile time. No behaviour, no pointers,
//! no dependencies unless byte access (`zerocopy`) is asked for: emulator, VMM,
//! backends and test kernels share it.

#![no_std]
#![forbid(unsafe_code)]

pub mod arch_x86_64;
pub mod callback;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod io;
pub mod memory;
pub mod nmi;
pub mod physdev;
pub mod sched;
pub mod vcpu;
pub mod version;
pub mod xen;

#[cfg(test)]
mod tests;
