//! What a block backend reads and writes: an open disk image.
//!
//! [`Image`] is the whole of what [`crate::blkback`] knows of images. Files, block devices and
//! formats implement it; nothing here knows of rings, grants or domains.

mod attached;
mod buffers;
pub mod config;
mod error;
mod file;
mod formats;
mod host;
mod lock;
mod nodes;
mod null;
mod probe;
mod raw;
mod sys;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::VolatileSlice;

pub use attached::Attachment;
pub use error::ImageError;
pub use nodes::{BlockNodes, NodeError, NodeInfo};

/// Bytes of a sector as images count their size: whatever the logical block is, sizes are whole
/// numbers of these.
pub const SECTOR_SIZE: u64 = 512;

/// How large an image is and what it demands and offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes, a multiple of [`SECTOR_SIZE`]: a file with an odd tail is rounded up and reads as
    /// zeros behind its end. Changes when the image is resized.
    pub size: u64,
    /// Bytes of the smallest unit that can be read or written, 512 or 4096: what the guest sees as
    /// `logical_block_size`.
    pub logical_block: u32,
    /// Bytes of the unit that the medium writes without reading first, a power of two of at least
    /// `logical_block`.
    pub physical_block: u32,
    /// Writes and discards fail.
    pub read_only: bool,
    /// What can be discarded, or nothing.
    pub discard: Option<Discard>,
}

/// How an image discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discard {
    /// Bytes of the unit that is given back; smaller parts may be kept as they are.
    pub granularity: u32,
    /// Bytes from the image's beginning to the first unit's.
    pub alignment: u32,
    /// Discarded data can be made unrecoverable ([`DiscardKind::Secure`]).
    pub secure: bool,
}

/// What must be true of discarded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardKind {
    /// Nothing: they may read as they were, or as zeros.
    Advice,
    /// No way leads back to them. Only where [`Discard::secure`] says so.
    Secure,
}

/// A descriptor that may be given to `preadv`, `pwritev` and `io_uring` directly: offsets in it are
/// offsets in the image.
#[derive(Debug, Clone, Copy)]
pub struct RawTarget<'a> {
    /// The file or block device.
    pub fd: BorrowedFd<'a>,
    /// Every buffer's address must be a multiple of this (`O_DIRECT`; else 1).
    pub memory_alignment: u32,
    /// Every offset and length must be a multiple of this (`O_DIRECT`; else 1).
    pub offset_alignment: u32,
}

/// An open disk image.
///
/// Calls block, and several threads call at once; calls on the same bytes at the same time are the
/// guest's race. Ranges lie inside [`Geometry::size`] and are multiples of
/// [`Geometry::logical_block`] except where the image was shrunk meanwhile; then the call fails.
/// An error carries its errno ([`io::Error::raw_os_error`]) where there is one: `ENOSPC` is told
/// from the others.
pub trait Image: Send + Sync + Debug {
    /// The image's present geometry.
    fn geometry(&self) -> Geometry;

    /// The descriptor under the image if its bytes lie in it as they are; then reads and writes may
    /// go there without the calls below. `None` for formats.
    fn raw(&self) -> Option<RawTarget<'_>> {
        None
    }

    /// Fills the buffers, in their order, with the bytes from `offset` on. Buffers of any alignment.
    ///
    /// # Errors
    /// All that the host gives; what the buffers hold then is undefined.
    fn read(&self, offset: u64, to: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Writes the buffers, in their order, from `offset` on. Buffers of any alignment. The buffers
    /// may change while they are read: the written bytes are then any mixture, and nothing else is
    /// harmed.
    ///
    /// # Errors
    /// All that the host gives; any part may have been written then.
    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Returns when every write that returned before this call is on stable storage, the data and
    /// what is needed to find it (`fdatasync` finished).
    ///
    /// # Errors
    /// All that the host gives. After a failure nothing is known of writes since the last flush.
    fn flush(&self) -> io::Result<()>;

    /// Gives bytes back.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where [`Geometry::discard`] does not offer it, and all that the host gives.
    fn discard(&self, offset: u64, len: u64, kind: DiscardKind) -> io::Result<()>;

    /// Makes bytes read as zeros; with `unmap` their space may be given back.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// Changes the size to `size` bytes, a multiple of [`SECTOR_SIZE`]. Of a block device, only its
    /// present size is read anew, and `size` may not be beyond it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the image cannot, and all that the host gives.
    fn resize(&self, size: u64) -> io::Result<()> {
        let _ = size;
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
}
