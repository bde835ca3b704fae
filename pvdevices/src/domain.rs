//! What a backend needs of its domain: shared pages and events. The VMM implements these.

use std::sync::Arc;

/// One page shared with the domain, [`PAGE_SIZE`](xenner_xen_abi::PAGE_SIZE) bytes.
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
