//! Raw images: the bytes of a file or block device, or a part of them, as they are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::VolatileSlice;

use super::file::HostFile;
use super::{Discard, DiscardKind, Geometry, Image, ImageError, RawTarget, SECTOR_SIZE, buffers};

/// An image whose bytes lie in a file as they are.
#[derive(Debug)]
pub(super) struct RawImage {
    file: Arc<HostFile>,
    offset: u64,
    /// Bytes from `offset` on, a multiple of [`SECTOR_SIZE`].
    size: AtomicU64,
    /// The size was given and does not follow the file's.
    fixed: bool,
    discards: bool,
}

impl RawImage {
    /// The bytes of `file` from `offset` on: `size` of them, or all. `discards` if what is given
    /// back is given back to the host.
    pub(super) fn new(
        file: Arc<HostFile>,
        offset: u64,
        size: Option<u64>,
        discards: bool,
    ) -> Result<Self, ImageError> {
        let available = file.size();
        let end = offset.checked_add(size.unwrap_or(0));
        let whole = offset.is_multiple_of(SECTOR_SIZE)
            && size.is_none_or(|size| size.is_multiple_of(SECTOR_SIZE));
        if !whole || end.is_none_or(|end| end > available) {
            return Err(ImageError::Range {
                path: file.path().to_owned(),
                offset,
                size: size.unwrap_or(0),
                available,
            });
        }
        let bytes = size.unwrap_or_else(|| sectors(available - offset));
        Ok(Self {
            file,
            offset,
            size: AtomicU64::new(bytes),
            fixed: size.is_some(),
            discards,
        })
    }

    /// The place in the file of a range that lies in the image.
    fn place(&self, offset: u64, len: u64) -> io::Result<u64> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.size.load(Ordering::Acquire)) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(self.offset + offset)
    }

    fn writable(&self) -> io::Result<()> {
        match self.file.is_writable() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EROFS)),
        }
    }

    /// Discards are told of only where blocks lie in the file as they do in the image.
    fn discard_limits(&self) -> Option<Discard> {
        let discard = self.file.limits().discard?;
        let shift = u32::try_from(self.offset % u64::from(discard.granularity)).ok()?;
        let alignment = (discard.alignment + discard.granularity - shift) % discard.granularity;
        self.discards.then_some(Discard {
            alignment,
            ..discard
        })
    }
}

impl Image for RawImage {
    fn geometry(&self) -> Geometry {
        let limits = self.file.limits();
        Geometry {
            size: self.size.load(Ordering::Acquire),
            logical_block: limits.logical_block,
            physical_block: limits.physical_block,
            read_only: !self.file.is_writable(),
            discard: self.discard_limits(),
        }
    }

    fn raw(&self) -> Option<RawTarget<'_>> {
        let limits = self.file.limits();
        // Behind an odd end the host reads nothing where the guest has to see zeros.
        let whole = self.size.load(Ordering::Acquire) <= self.file.size();
        (self.offset == 0 && whole).then(|| RawTarget {
            fd: self.file.fd(),
            memory_alignment: limits.memory_align,
            offset_alignment: limits.offset_align,
        })
    }

    fn read(&self, offset: u64, to: &[VolatileSlice<'_>]) -> io::Result<()> {
        let at = self.place(offset, buffers::total(to) as u64)?;
        self.file.read(at, to)
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.writable()?;
        let at = self.place(offset, buffers::total(from) as u64)?;
        self.file.write(at, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn discard(&self, offset: u64, len: u64, kind: DiscardKind) -> io::Result<()> {
        self.writable()?;
        let at = self.place(offset, len)?;
        if !self.discards || kind == DiscardKind::Secure {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        self.file.discard(at, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.writable()?;
        let at = self.place(offset, len)?;
        self.file.write_zeroes(at, len, unmap && self.discards)
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.writable()?;
        if self.fixed {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let end = self.offset.checked_add(size);
        let end = end.ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        self.file.resize(end)?;
        let bytes = match self.file.is_device() {
            true => sectors(self.file.size().saturating_sub(self.offset)),
            false => size,
        };
        self.size.store(bytes, Ordering::Release);
        Ok(())
    }
}

/// Whole sectors that hold this many bytes.
fn sectors(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(SECTOR_SIZE).unwrap_or(bytes)
}
