//! The PV console backend: between a domain's console ring and the user's side.
//!
//! [`ConsoleRing`] is the protocol (`xen/include/public/io/console.h`) over a shared page;
//! [`ConsoleBackend`] joins a ring with a character device for an event loop, and lets the
//! hypervisor's own console output in between. [`ConsBack`] is a backend on the bus, for all consoles
//! but the first.

mod backend;
mod device;
mod ring;
mod usage;

pub use backend::{ConsoleBackend, ConsoleState, DEBUG_BOUND, Traffic};
pub use device::{ConsBack, ConsoleLabels};
pub use ring::{ConsoleEnd, ConsoleRing, Pumped, RingViolation};
pub use usage::ChannelEvents;
