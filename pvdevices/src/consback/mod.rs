//! The PV console backend: between a domain's console ring and the user's side.
//!
//! [`ConsoleRing`] is the protocol (`xen/include/public/io/console.h`) over a shared page;
//! [`ConsoleBackend`] joins a ring with a character device for an event loop, and lets the
//! hypervisor's own console output in between.

mod backend;
mod ring;

pub use backend::{ConsoleBackend, ConsoleState, DEBUG_BOUND};
pub use ring::{ConsoleEnd, ConsoleRing, Pumped, RingViolation};
