//! What a network device counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one direction. All grow from 0 as long as the device lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Direction {
    /// Frames that passed.
    pub packets: u64,
    /// Their bytes, with Ethernet headers.
    pub bytes: u64,
    /// Frames that were dropped because the link or the host's side is down, the guest takes none,
    /// or its filter does not let them pass.
    pub drops: u64,
    /// Frames that were wrong, or pages that could not be read or written.
    pub errors: u64,
    /// Events sent to the guest.
    pub events: u64,
}

/// Counts of a device, as seen from the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetStats {
    /// From the guest.
    pub tx: Direction,
    /// To the guest.
    pub rx: Direction,
}

/// Counters of one direction.
#[derive(Debug, Default)]
pub(super) struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    drops: AtomicU64,
    errors: AtomicU64,
    events: AtomicU64,
}

impl Counters {
    pub(super) fn passed(&self, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn notified(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Direction {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Direction {
            packets: get(&self.packets),
            bytes: get(&self.bytes),
            drops: get(&self.drops),
            errors: get(&self.errors),
            events: get(&self.events),
        }
    }
}
