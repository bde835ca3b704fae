//! What a disk is told to do: when the host fails, and when a write counts as done.
//!
//! Names and defaults are QEMU's (`-drive werror=,rerror=,cache=,aio=`).

use std::fmt::Debug;

use rustix::io::Errno;

/// What to do with a request that the host failed (`werror=`, `rerror=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// The guest gets the error.
    Report,
    /// The guest is told that all is well.
    Ignore,
    /// The domain is paused; the request is kept and tried again when it goes on.
    Stop,
    /// [`Self::Stop`] when the host's disk is full, [`Self::Report`] for all else.
    Enospc,
}

impl ErrorPolicy {
    /// What to do about this error.
    #[must_use]
    pub fn action(self, errno: Errno) -> ErrorAction {
        match self {
            Self::Report => ErrorAction::Report,
            Self::Ignore => ErrorAction::Ignore,
            Self::Stop => ErrorAction::Stop,
            Self::Enospc if errno == Errno::NOSPC => ErrorAction::Stop,
            Self::Enospc => ErrorAction::Report,
        }
    }
}

/// What was done about a failed request; the words of QMP's `BlockErrorAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorAction {
    /// The guest got the error.
    Report,
    /// The guest was told that all is well.
    Ignore,
    /// The request is kept; the domain has to be paused.
    Stop,
}

/// The policies of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// For reads (`rerror=`).
    pub read: ErrorPolicy,
    /// For writes, flushes and discards (`werror=`).
    pub write: ErrorPolicy,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            read: ErrorPolicy::Report,
            write: ErrorPolicy::Enospc,
        }
    }
}

/// When a write counts as done and what a flush does. Whether the host's page cache is used at all
/// is the image's matter (`cache.direct`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// A write is done when the host has it; a flush makes it durable (`writeback`, `none`).
    #[default]
    Writeback,
    /// Every write is durable before the guest hears of it (`writethrough`, `directsync`).
    Writethrough,
    /// Flushes do nothing (`unsafe`).
    Unsafe,
}

/// How requests reach the host's kernel (`aio=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aio {
    /// Through `io_uring`, or by threads where the host does not let this process have one
    /// (`aio=io_uring`, `aio=native`).
    #[default]
    IoUring,
    /// By a pool of threads with blocking calls (`aio=threads`).
    Threads,
}

/// What a request does to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoKind {
    /// `BLKIF_OP_READ`.
    Read,
    /// `BLKIF_OP_WRITE`, and a barrier's write.
    Write,
    /// `BLKIF_OP_FLUSH_DISKCACHE`, and the flushes of barriers and of write-through.
    Flush,
    /// `BLKIF_OP_DISCARD`.
    Discard,
}

/// A request that the host failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoFault {
    /// What it did.
    pub kind: IoKind,
    /// The first byte in the image.
    pub offset: u64,
    /// Bytes; 0 for a flush.
    pub len: u64,
    /// The host's error.
    pub errno: Errno,
    /// What the disk does about it.
    pub action: ErrorAction,
}

/// Who is told of a disk's errors: the VMM, which pauses the domain on [`ErrorAction::Stop`] and
/// sends QMP's `BLOCK_IO_ERROR`.
pub trait DiskEvents: Send + Sync + Debug {
    /// A request failed. Called on a queue's thread: must not wait for the disk.
    fn io_error(&self, fault: &IoFault);
}

/// Nobody is told.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvents;

impl DiskEvents for NoEvents {
    fn io_error(&self, _fault: &IoFault) {}
}
