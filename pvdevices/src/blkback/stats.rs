//! What a disk counts, as QMP's `query-blockstats` shows it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::policy::IoKind;
use super::request::Range;

/// The counts of one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpStats {
    /// Requests that succeeded (`*_operations`).
    pub operations: u64,
    /// Bytes that they moved (`*_bytes`).
    pub bytes: u64,
    /// Nanoseconds that requests took in all (`*_total_time_ns`).
    pub total_time_ns: u64,
    /// Requests that the host failed (`failed_*_operations`).
    pub failed: u64,
    /// Requests that made no sense (`invalid_*_operations`).
    pub invalid: u64,
}

/// A disk's counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads.
    pub read: OpStats,
    /// Writes, those of barriers too.
    pub write: OpStats,
    /// Flushes that the guest asked for.
    pub flush: OpStats,
    /// Discards (`unmap_*`).
    pub discard: OpStats,
    /// The end of the farthest write, bytes (`wr_highest_offset`).
    pub write_highest_offset: u64,
    /// Time since a request ended, if one ever did (`idle_time_ns`).
    pub idle: Option<Duration>,
    /// Ring entries whose operation is none of blkif's.
    pub unknown: u64,
    /// Events that the domain was sent.
    pub notifications: u64,
}

#[derive(Debug, Default)]
struct Counter {
    operations: AtomicU64,
    bytes: AtomicU64,
    total_time_ns: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
}

impl Counter {
    fn load(&self) -> OpStats {
        OpStats {
            operations: self.operations.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            total_time_ns: self.total_time_ns.load(Relaxed),
            failed: self.failed.load(Relaxed),
            invalid: self.invalid.load(Relaxed),
        }
    }
}

/// The counters, written by the queues and read by anybody.
#[derive(Debug)]
pub(super) struct Counters {
    kinds: [Counter; 4],
    highest: AtomicU64,
    unknown: AtomicU64,
    notifications: AtomicU64,
    born: Instant,
    /// Nanoseconds after `born` when a request last ended; 0 is never.
    last: AtomicU64,
}

impl Counters {
    pub fn new() -> Self {
        Self {
            kinds: Default::default(),
            highest: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            notifications: AtomicU64::new(0),
            born: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn of(&self, kind: IoKind) -> &Counter {
        &self.kinds[kind as usize]
    }

    /// A request of `range` ended after `time`.
    pub fn done(&self, kind: IoKind, ok: bool, range: Range, time: Duration) {
        let counter = self.of(kind);
        counter.total_time_ns.fetch_add(nanos(time), Relaxed);
        self.last.store(nanos(self.born.elapsed()).max(1), Relaxed);
        if !ok {
            counter.failed.fetch_add(1, Relaxed);
            return;
        }
        counter.operations.fetch_add(1, Relaxed);
        counter.bytes.fetch_add(range.len, Relaxed);
        if kind == IoKind::Write {
            self.highest.fetch_max(range.offset + range.len, Relaxed);
        }
    }

    /// A request was refused unseen by the image; `None` if its operation is unknown.
    pub fn invalid(&self, kind: Option<IoKind>) {
        match kind {
            Some(kind) => self.of(kind).invalid.fetch_add(1, Relaxed),
            None => self.unknown.fetch_add(1, Relaxed),
        };
    }

    pub fn notified(&self) {
        self.notifications.fetch_add(1, Relaxed);
    }

    pub fn load(&self) -> Stats {
        let last = self.last.load(Relaxed);
        let idle = (last > 0).then(|| {
            self.born
                .elapsed()
                .saturating_sub(Duration::from_nanos(last))
        });
        Stats {
            read: self.of(IoKind::Read).load(),
            write: self.of(IoKind::Write).load(),
            flush: self.of(IoKind::Flush).load(),
            discard: self.of(IoKind::Discard).load(),
            write_highest_offset: self.highest.load(Relaxed),
            idle,
            unknown: self.unknown.load(Relaxed),
            notifications: self.notifications.load(Relaxed),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
