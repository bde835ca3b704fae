//! The list of multicast addresses that a frontend wants (`feature-multicast-control` of
//! `xen/include/public/io/netif.h`).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Addresses of a list at most, as Linux's netback has it.
const MAX_ADDRESSES: usize = 64;

/// Which frames with a group address a frontend gets. Shared by a device's queues.
#[derive(Debug, Default)]
pub(super) struct MulticastFilter {
    on: AtomicBool,
    wanted: Mutex<HashSet<[u8; 6]>>,
}

impl MulticastFilter {
    /// Whether the frontend asked for the filter; without it every frame passes.
    pub(super) fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

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
