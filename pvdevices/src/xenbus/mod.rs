//! The backend's side of xenbus (`xen/include/public/io/xenbus.h`): one state machine and one thread
//! for each device, whatever its kind.
//!
//! A [`Device`] knows its protocol; when its frontend comes, goes, comes back with another driver,
//! is unplugged or breaks the rules is decided here. Rings are served by the device's own threads.

mod error;
mod frontend;
mod machine;
mod thread;

use std::fmt::Debug;

pub use error::DeviceError;
pub use frontend::Frontend;
pub use thread::{Bus, Closer, DeviceThread, spawn};

/// Nodes and their values, relative to a directory.
pub type Keys = Vec<(String, String)>;

/// A backend as its bus drives it. All calls come from the device's own thread.
pub trait Device: Send + Debug {
    /// The backend's nodes that a frontend may look at before it connects: what it is, features and
    /// limits. Written anew each time the device waits for a frontend.
    fn offer(&self) -> Keys;

    /// Nodes of the frontend's directory that the domain may read and not change: what a tool in
    /// domain 0 looks for there. Written once for each domain.
    fn labels(&self) -> Keys {
        Keys::new()
    }

    /// Connects to a frontend that has written its nodes: reads them, maps the rings, starts the
    /// threads that serve them. The nodes returned are written together with the state Connected.
    ///
    /// Is never called twice without [`Self::disconnect`] between.
    ///
    /// # Errors
    /// [`DeviceError`]; the device closes, and is offered again when the frontend starts again. What
    /// was begun must be undone: [`Self::disconnect`] is not called.
    fn connect(&mut self, frontend: &Frontend) -> Result<Keys, DeviceError>;

    /// The frontend has changed its nodes while connected (state Reconfiguring, as netfront does to
    /// change its XDP headroom). The nodes returned are written with the state Reconfigured.
    ///
    /// # Errors
    /// [`DeviceError`]; the device is disconnected and closes.
    fn reconfigure(&mut self, frontend: &Frontend) -> Result<Keys, DeviceError> {
        let _ = frontend;
        Ok(Keys::new())
    }

    /// Finishes what is under way, ends the threads, gives back grants and ports. The frontend does
    /// not look at its rings any more, but the domain may still run.
    fn disconnect(&mut self);
}

#[cfg(test)]
mod tests;
