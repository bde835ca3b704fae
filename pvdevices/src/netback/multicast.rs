//! The list of multicast addresses that a frontend wants (`feature-multicast-control` of
//! `xen/include/public/io/netif.h`).

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::Watch;
use crate::xenbus::{DeviceError, Frontend};

/// The frontend's node that turns the filter on.
const REQUEST: &str = "request-multicast-control";

/// Addresses of a list at most, as Linux's netback has it.
const MAX_ADDRESSES: usize = 64;

/// Which frames with a group address a frontend gets. Shared by a device's queues.
#[derive(Debug, Default)]
pub(super) struct MulticastFilter {
    on: AtomicBool,
    wanted: Mutex<HashSet<[u8; 6]>>,
}

impl MulticastFilter {
    /// Adds an address or takes it off; false if the list is full.
    pub(super) fn change(&self, add: bool, address: [u8; 6]) -> bool {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if !add {
            wanted.remove(&address);
            return true;
        }
        if wanted.len() == MAX_ADDRESSES && !wanted.contains(&address) {
            return false;
        }
        wanted.insert(address);
        true
    }

    /// Whether a frame is for the frontend.
    pub(super) fn passes(&self, frame: &[u8]) -> bool {
        if !self.on.load(Ordering::Relaxed) {
            return true;
        }
        let Some(destination) = frame.first_chunk::<6>() else {
            return false;
        };
        let group = destination[0] & 1 != 0;
        let wanted = || {
            let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.contains(destination)
        };
        !group || *destination == [0xff; 6] || wanted()
    }
}

/// Follows a frontend that turns its filter on and off while connected
/// (`feature-dynamic-multicast-control`).
#[derive(Debug)]
pub(super) struct FilterSwitch {
    frontend: Frontend,
    watch: Box<dyn Watch>,
    filter: Arc<MulticastFilter>,
}

impl FilterSwitch {
    /// A switch that stands as the frontend has it now.
    ///
    /// # Errors
    /// The node is neither 0 nor 1, or the store refuses.
    pub(super) fn new(
        frontend: &Frontend,
        filter: Arc<MulticastFilter>,
    ) -> Result<Self, DeviceError> {
        let watch = frontend.watch(REQUEST)?;
        let mut switch = Self {
            frontend: frontend.clone(),
            watch,
            filter,
        };
        switch.look()?;
        Ok(switch)
    }

    /// Looks at the node; for when the descriptor is readable.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn look(&mut self) -> Result<(), DeviceError> {
        while self.watch.next().is_some() {}
        // Without the node every frame passes.
        let on = self.frontend.feature(REQUEST)?;
        self.filter.on.store(on, Ordering::Relaxed);
        Ok(())
    }
}

impl AsFd for FilterSwitch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
