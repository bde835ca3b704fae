//! The parts of the PV test kernel that need no machine: its command line, its
//! text buffers, xenstore message building, the records written to disks. Tested on the host.
//!
//! The kernel itself is the `pvtest` binary; see README.md.

#![no_std]
#![forbid(unsafe_code)]

pub mod cmdline;
pub mod record;
pub mod store;
pub mod text;
