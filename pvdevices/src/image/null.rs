//! An image without a medium: it reads as zeros and forgets what is written (QEMU's `null-co`).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::VolatileSlice;

use super::{Discard, DiscardKind, Geometry, Image, SECTOR_SIZE, buffers};

#[derive(Debug)]
pub(super) struct NullImage {
    size: AtomicU64,
}

impl NullImage {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size: AtomicU64::new(size / SECTOR_SIZE * SECTOR_SIZE),
        }
    }
}

impl Image for NullImage {
    fn geometry(&self) -> Geometry {
        let block = SECTOR_SIZE as u32;
        Geometry {
            size: self.size.load(Ordering::Acquire),
            logical_block: block,
            physical_block: block,
            read_only: false,
            discard: Some(Discard {
                granularity: block,
                alignment: 0,
                secure: false,
            }),
        }
    }

    fn read(&self, _offset: u64, to: &[VolatileSlice<'_>]) -> io::Result<()> {
        buffers::zero(to);
        Ok(())
    }

    fn write(&self, _offset: u64, _from: &[VolatileSlice<'_>]) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64, _kind: DiscardKind) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        Ok(())
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}
