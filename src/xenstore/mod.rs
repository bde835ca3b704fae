//! The xenstore server: the small hierarchical database through which a
//! domain and dom0 find each other's devices, hand over grant references and
//! event channel ports, and announce states (`docs/misc/xenstore.txt` and
//! `io/xs_wire.h` in Xen's tree are the specification).
//!
//! The layers, each ignorant of the ones below it in this list:
//!
//! * [`path`], [`perms`], [`tree`]: the pure tree, persistent (a clone is a
//!   snapshot and costs one reference count);
//! * [`transaction`], [`ops`], [`watch`]: the rules of access, conflicts and
//!   events, with the limits of [`quota`];
//! * [`wire`], [`connection`], [`server`]: messages, buffers and the dispatch
//!   of requests, independent of any transport;
//! * [`ring`] (the guest's shared page), [`socket`] (the unix socket of the
//!   stock tools) and [`handle`] (threads of this process) carry them;
//! * [`service`] puts the transports into an event loop, and [`domain_keys`]
//!   writes what a PV domain expects to find.
//!
//! It is not a xenbus: the states of frontends and backends are the device
//! backends' business.

#![forbid(unsafe_code)]

pub mod connection;
pub mod domain_keys;
pub mod error;
pub mod handle;
pub mod local;
pub mod ops;
pub mod path;
pub mod perms;
pub mod quota;
mod requests;
pub mod ring;
pub mod server;
pub mod service;
pub mod snapshot;
pub mod socket;
pub mod transaction;
pub mod tree;
pub mod watch;
pub mod wire;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tools_tests;

pub use domain_keys::{DomainKeys, publish_device, set_availability};
pub use error::{StoreError, XsErrno};
pub use handle::{StoreHandle, StoreTransaction};
pub use local::{WatchEvent, WatchQueue};
pub use path::StorePath;
pub use perms::{Access, DomId, Perm, Permissions};
pub use ring::{RingPage, RingTransport};
pub use server::Xenstore;
pub use service::XenstoreService;
