//! The monitor: QEMU's QMP, by which libvirt and others steer a domain, and its human form.
//!
//! From the outside in: [`Server`] holds the monitors and is called by the main loop; each monitor
//! takes bytes apart (`codec`), keeps a conversation (`session`) and runs commands of one table
//! (`commands`, described by `shape`, from which `schema` and the strict argument check follow).
//! Commands act on a [`Control`], which is the VMM, or [`Nothing`] under `-machine none`. Events go
//! the other way through an [`EventSink`].
//!
//! Nothing here knows KVM, rings or files; docs/qmp.md says what clients can count on.

mod check;
pub mod codec;
mod commands;
pub mod control;
mod error;
pub mod events;
#[cfg(test)]
mod fake;
mod hmp;
mod monitor;
mod nothing;
mod readline;
mod schema;
mod server;
mod session;
mod shape;
mod table;
#[cfg(test)]
mod tests;
mod types;

pub use control::Control;
pub use error::{ErrorClass, QmpError};
pub use events::{Event, EventSink};
pub use nothing::Nothing;
pub use server::{MonitorChardevs, Server, Subscriber};
pub use session::{Parts, Session};
