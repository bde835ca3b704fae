//! An image as one device sees it: with the device's block sizes, write cache and right to write,
//! and with what the node says of zeros, discards and guessed formats.

use std::io;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::buffers::{self, AlignedBuffer};
use super::config::DetectZeroes;
use super::probe::{self, PROBED_BYTES};
use super::{DiscardKind, Geometry, Image, RawTarget};

/// What a device wants of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Who it is, for messages and to detach: the device's id.
    pub user: String,
    /// It never writes.
    pub read_only: bool,
    /// Other processes may write the image too (`share-rw`).
    pub share_rw: bool,
    /// Bytes of a logical block, if not the image's.
    pub logical_block: Option<u32>,
    /// Bytes of a physical block, if not the image's.
    pub physical_block: Option<u32>,
    /// Bytes that are discarded at once, if not the image's; 0 for no discards.
    pub discard_granularity: Option<u32>,
}

impl Attachment {
    /// A device that reads and writes, with the image's own sizes.
    pub fn new(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            read_only: false,
            share_rw: false,
            logical_block: None,
            physical_block: None,
            discard_granularity: None,
        }
    }
}

/// What the node adds to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodePolicy {
    /// Writes of zeros.
    pub(super) detect_zeroes: DetectZeroes,
    /// The format was guessed to be raw and has to stay so.
    pub(super) guessed_raw: bool,
}

/// The image that the device gets.
#[derive(Debug)]
pub(super) struct AttachedImage {
    image: Arc<dyn Image>,
    device: Attachment,
    policy: NodePolicy,
}

impl AttachedImage {
    pub(super) fn new(image: Arc<dyn Image>, device: Attachment, policy: NodePolicy) -> Self {
        Self {
            image,
            device,
            policy,
        }
    }

    fn writable(&self) -> io::Result<()> {
        match self.device.read_only {
            true => Err(io::Error::from_raw_os_error(libc::EROFS)),
            false => Ok(()),
        }
    }

    /// Writes the first sector from a copy, so that the guest cannot change what was looked at.
    fn write_first(&self, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut first = AlignedBuffer::new(PROBED_BYTES, PROBED_BYTES);
        let looked_at = buffers::gather(from, 0, first.bytes());
        if probe::format(first.bytes()) != "raw" {
            log::warn!(
                target: "xenner::block",
                "Disk of {}: a write that would make the raw image look like another format is \
                 refused; name the format (format=raw) to allow it",
                self.device.user
            );
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        self.image.write(0, &[first.head(looked_at)])?;
        let rest = buffers::skipped(from, looked_at);
        match rest.is_empty() {
            true => Ok(()),
            false => self.image.write(looked_at as u64, &rest),
        }
    }
}

impl Image for AttachedImage {
    fn geometry(&self) -> Geometry {
        let image = self.image.geometry();
        let logical = self.device.logical_block.unwrap_or(image.logical_block);
        let physical = self.device.physical_block.unwrap_or(image.physical_block);
        let discard = match self.device.discard_granularity {
            Some(0) => None,
            Some(granularity) => image.discard.map(|mut discard| {
                discard.granularity = granularity;
                discard.alignment = 0;
                discard
            }),
            None => image.discard,
        };
        let read_only = self.device.read_only || image.read_only;
        Geometry {
            size: image.size,
            logical_block: logical,
            physical_block: physical.max(logical),
            read_only,
            discard: discard.filter(|_| !read_only),
        }
    }

    fn raw(&self) -> Option<RawTarget<'_>> {
        let plain = !self.policy.guessed_raw && self.policy.detect_zeroes == DetectZeroes::Off;
        self.image.raw().filter(|_| plain || self.device.read_only)
    }

    fn read(&self, offset: u64, to: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.image.read(offset, to)
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.writable()?;
        if self.policy.detect_zeroes != DetectZeroes::Off && buffers::all_zero(from) {
            let unmap = self.policy.detect_zeroes == DetectZeroes::Unmap;
            let len = buffers::total(from) as u64;
            self.image.write_zeroes(offset, len, unmap)
        } else if self.policy.guessed_raw && offset == 0 {
            self.write_first(from)
        } else {
            self.image.write(offset, from)
        }
    }

    fn flush(&self) -> io::Result<()> {
        match self.device.read_only {
            true => Ok(()),
            false => self.image.flush(),
        }
    }

    fn discard(&self, offset: u64, len: u64, kind: DiscardKind) -> io::Result<()> {
        self.writable()?;
        self.image.discard(offset, len, kind)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.writable()?;
        self.image.write_zeroes(offset, len, unmap)
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.image.resize(size)
    }
}
