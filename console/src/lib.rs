//! The user's side of a domain's console: character devices, and the client that attaches to a
//! running domain.
//!
//! Nothing here knows Xen or KVM. The PV console backend moves bytes between a guest's ring and a
//! [`Chardev`].

mod chardev;
pub mod client;
pub mod config;
mod endpoint;
mod error;
mod fdpass;
mod mux;
mod outqueue;
pub mod rundir;
pub mod tty;

pub use chardev::{Chardev, ChardevEvent, ChardevOptions, ChardevState};
pub use endpoint::Listener;
pub use error::ChardevError;
pub use fdpass::{FdSets, FdSource, InheritedFds, PassedInfo, fdset_number};
pub use mux::ESCAPE;
pub use outqueue::{BOUND, SCROLLBACK};
