//! What a backend needs of its domain: shared pages, grants, event channels and the store.
//!
//! The VMM implements these traits; `mock` does for tests. A backend sees nothing else of
//! the domain it serves.

mod grant;

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::sync::Arc;

use thiserror::Error;

pub use grant::{Access, Grant, GrantError, GrantTable, Granted};

/// Bytes of a page and of a granted frame (`XEN_PAGE_SIZE`, whatever the pages of the host are).
pub const PAGE_SIZE: usize = 4096;

/// The domain that drives hardware and in which backends live.
pub const BACKEND_DOMID: u16 = 0;

/// One page shared with the domain, [`PAGE_SIZE`] bytes.
///
/// The domain is hostile and may write at any moment, so there are only copies: a value that was
/// loaded twice may differ. All offsets are below the page's size and accesses within it; what is
/// outside is the backend's bug, not the domain's.
pub trait SharedPage: Send {
    /// Loads the 32-bit value at `off` (a multiple of 4) with acquire ordering: what the domain
    /// wrote before it stored this value is seen by later reads.
    fn load_u32(&self, off: usize) -> u32;

    /// Stores the 32-bit value at `off` (a multiple of 4) with release ordering: earlier reads and
    /// writes of the page are done when the domain sees it.
    fn store_u32(&self, off: usize, value: u32);

    /// Copies bytes out of the page.
    fn read(&self, off: usize, buf: &mut [u8]);

    /// Copies bytes into the page.
    fn write(&self, off: usize, data: &[u8]);
}

/// The backend's end of an event channel: sends the domain an event.
pub trait Notify: Send {
    /// Sends the event. Must not block, and may be called from any thread.
    fn notify(&self);
}

/// An event channel that a backend is bound to; unbound when dropped.
///
/// Its descriptor ([`AsFd`]) is an event counter that is readable after the domain sent an event.
pub trait Channel: Notify + AsFd + Sync + Debug {
    /// Takes note of the events sent so far: the descriptor is not readable until the next one.
    fn clear(&self);

    /// Whether the domain has masked its port: events for it wait until it does not want them masked
    /// any more. True, too, where that cannot be told.
    fn is_masked(&self) -> bool;
}

/// Why an event channel cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChannelError {
    /// The domain named a port that it did not allocate for this backend.
    #[error("Port {0} is not one that the domain allocated for domain 0")]
    NotOffered(u32),
    /// The host gives no event descriptor.
    #[error("The host has no event descriptor for port {0}")]
    NoDescriptor(u32),
}

/// The domain that a backend serves.
pub trait Domain: Send + Sync + Debug {
    /// Its number.
    fn domid(&self) -> u16;

    /// Its grant table.
    fn grants(&self) -> Arc<dyn GrantTable>;

    /// Binds to the unbound port that the domain allocated for domain 0.
    ///
    /// # Errors
    /// [`ChannelError`].
    fn bind(&self, port: u32) -> Result<Arc<dyn Channel>, ChannelError>;
}

/// The store refuses an operation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("The xenstore refuses to {operation} '{path}': {reason}")]
pub struct StoreRefused {
    /// What was tried: `read`, `write`, `remove`, `watch`.
    pub operation: &'static str,
    /// The node.
    pub path: String,
    /// Why not.
    pub reason: String,
}

/// The directories of a device's two ends, as a toolstack makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNodes {
    /// The domain of the frontend.
    pub domid: u16,
    /// The frontend's directory: `/local/domain/<domid>/device/<class>/<id>`. With all that is in
    /// it, the domain's own and readable by domain 0.
    pub frontend: String,
    /// Its nodes, relative to the directory.
    pub frontend_keys: Vec<(String, String)>,
    /// More of its nodes, which the domain may only read: a tool in domain 0 believes them.
    pub frontend_labels: Vec<(String, String)>,
    /// The backend's directory: `/local/domain/0/backend/<class>/<domid>/<id>`. With all that is in
    /// it, domain 0's own and readable by the domain.
    pub backend: String,
    /// Its nodes, relative to the directory.
    pub backend_keys: Vec<(String, String)>,
}

/// The store, with the rights of domain 0.
pub trait Store: Send + Sync + Debug {
    /// The value of a node as text (what is not UTF-8 is an error), or nothing if there is no such
    /// node.
    ///
    /// # Errors
    /// [`StoreRefused`].
    fn read(&self, path: &str) -> Result<Option<String>, StoreRefused>;

    /// Sets a value, creating the node and its ancestors as needed.
    ///
    /// # Errors
    /// [`StoreRefused`].
    fn write(&self, path: &str, value: &str) -> Result<(), StoreRefused>;

    /// Sets several values so that nobody sees one without the others.
    ///
    /// # Errors
    /// [`StoreRefused`].
    fn write_all(&self, values: &[(String, String)]) -> Result<(), StoreRefused>;

    /// Makes the directories of a device in one transaction, with the permissions that
    /// [`DeviceNodes`] tells, in place of what is there from an earlier device.
    ///
    /// # Errors
    /// [`StoreRefused`].
    fn publish_device(&self, nodes: &DeviceNodes) -> Result<(), StoreRefused>;

    /// Removes a node and everything below it; a missing node is fine.
    ///
    /// # Errors
    /// [`StoreRefused`].
    fn remove(&self, path: &str) -> Result<(), StoreRefused>;

    /// The names of a node's children; none if there is no such node.
    ///
    /// # Errors
    /// [`StoreRefused`].
    fn list(&self, path: &str) -> Result<Vec<String>, StoreRefused>;

    /// Watches the given nodes and everything below them; a first event for each is there at once.
    ///
    /// # Errors
    /// [`StoreRefused`].
    fn watch(&self, paths: &[&str]) -> Result<Box<dyn Watch>, StoreRefused>;
}

/// Events of watched nodes; the watches end when it is dropped.
///
/// Its descriptor ([`AsFd`]) is readable while events wait.
pub trait Watch: AsFd + Send + Debug {
    /// The path of the next node that changed (or of a watched one above it). After `None` the
    /// descriptor is not readable until the next event.
    fn next(&mut self) -> Option<String>;
}

impl<T: SharedPage + Sync + ?Sized> SharedPage for Arc<T> {
    fn load_u32(&self, off: usize) -> u32 {
        (**self).load_u32(off)
    }

    fn store_u32(&self, off: usize, value: u32) {
        (**self).store_u32(off, value);
    }

    fn read(&self, off: usize, buf: &mut [u8]) {
        (**self).read(off, buf);
    }

    fn write(&self, off: usize, data: &[u8]) {
        (**self).write(off, data);
    }
}

impl<T: Notify + Sync + ?Sized> Notify for Arc<T> {
    fn notify(&self) {
        (**self).notify();
    }
}
