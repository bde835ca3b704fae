//! The domain's guest-physical memory.
//!
//! RAM starts at 0 and, beyond [`HOLE_START`], goes on above [`HOLE_END`], because the local
//! APIC's page lies between. What the emulator needs lies above RAM. Pages are anonymous and
//! appear as they are touched, so a large domain that uses little costs little.
// UNSAFETY: advises the kernel about mappings that vm-memory made.
#![expect(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};
use xenner_emu_abi::layout::PAGE_SIZE;

/// First machine address of the hole in RAM.
pub const HOLE_START: u64 = 0xfe00_0000;
/// First machine address above it.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// Large pages: regions are aligned to this, so that the kernel can use them.
pub const LARGE_PAGE: u64 = 2 << 20;

/// Memory that cannot be had or reached.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The host gives no memory.
    #[error("-m: The host gives no {mib} MiB of memory for the domain")]
    Map {
        /// What was asked for.
        mib: u64,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An address outside of guest-physical memory.
    #[error("Guest-physical address {address:#x} ({len} bytes) is not memory")]
    Access {
        /// Address.
        address: u64,
        /// Bytes.
        len: usize,
    },
}

/// Guest-physical memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory {
    map: Arc<GuestMemoryMmap<()>>,
}

/// The machine frame of a domain's page: the identity, but for the hole.
pub const fn pfn_to_mfn(pfn: u64) -> u64 {
    if pfn < HOLE_START / PAGE_SIZE {
        pfn
    } else {
        pfn + (HOLE_END - HOLE_START) / PAGE_SIZE
    }
}

/// First machine address above `pages` pages of RAM.
pub const fn ram_end(pages: u64) -> u64 {
    if pages == 0 {
        0
    } else {
        (pfn_to_mfn(pages - 1) + 1) * PAGE_SIZE
    }
}

impl Memory {
    /// Maps `pages` pages of RAM, and `extra` bytes from `extra_start` on for the emulator.
    ///
    /// # Errors
    /// The host gives no memory.
    pub fn new(pages: u64, extra_start: u64, extra: u64) -> Result<Self, MemoryError> {
        let low = (pages * PAGE_SIZE).min(HOLE_START);
        let mut ranges = vec![(0, low)];
        if pages * PAGE_SIZE > low {
            ranges.push((HOLE_END, pages * PAGE_SIZE - low));
        }
        ranges.push((extra_start, extra));
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| MemoryError::Map {
            mib: (pages * PAGE_SIZE) >> 20,
            source,
        };
        let mut regions = Vec::new();
        for (start, len) in ranges {
            regions.push(region(start, len).map_err(fail)?);
        }
        let map = GuestMemoryMmap::from_regions(regions).map_err(|e| fail(e.into()))?;
        Ok(Self { map: Arc::new(map) })
    }

    /// The regions as guest-physical start, length and host address.
    pub fn regions(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.map
            .iter()
            .map(|r| (r.start_addr().0, r.len(), r.as_ptr() as u64))
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// The range is not all memory.
    pub fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len();
        self.map
            .read_slice(buf, GuestAddress(address))
            .map_err(|_| MemoryError::Access { address, len })
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The range is not all memory.
    pub fn write(&self, address: u64, buf: &[u8]) -> Result<(), MemoryError> {
        self.map
            .write_slice(buf, GuestAddress(address))
            .map_err(|_| MemoryError::Access {
                address,
                len: buf.len(),
            })
    }

    /// Reads 8 bytes at an 8-aligned address, at once.
    ///
    /// # Errors
    /// The address is not memory.
    pub fn load(&self, address: u64) -> Result<u64, MemoryError> {
        self.map
            .load(GuestAddress(address), Ordering::SeqCst)
            .map_err(|_| MemoryError::Access { address, len: 8 })
    }

    /// Writes 8 bytes at an 8-aligned address, at once.
    ///
    /// # Errors
    /// The address is not memory.
    pub fn store(&self, address: u64, value: u64) -> Result<(), MemoryError> {
        self.map
            .store(value, GuestAddress(address), Ordering::SeqCst)
            .map_err(|_| MemoryError::Access { address, len: 8 })
    }

    /// Reads 4 bytes at a 4-aligned address, at once (acquire).
    ///
    /// # Errors
    /// The address is not memory.
    pub fn load_u32(&self, address: u64) -> Result<u32, MemoryError> {
        self.map
            .load(GuestAddress(address), Ordering::Acquire)
            .map_err(|_| MemoryError::Access { address, len: 4 })
    }

    /// Writes 4 bytes at a 4-aligned address, at once (release).
    ///
    /// # Errors
    /// The address is not memory.
    pub fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryError> {
        self.map
            .store(value, GuestAddress(address), Ordering::Release)
            .map_err(|_| MemoryError::Access { address, len: 4 })
    }

    /// Replaces the 4 bytes at a 4-aligned address if they are `old`; false if they are not.
    ///
    /// # Errors
    /// The address is not memory.
    pub fn replace_u32(&self, address: u64, old: u32, new: u32) -> Result<bool, MemoryError> {
        let shift = (address & 4) * 8;
        let word = self.atomic(address & !7)?;
        let field = 0xffff_ffffu64 << shift;
        let swap = |whole: u64| {
            (whole & field == u64::from(old) << shift)
                .then_some(whole & !field | u64::from(new) << shift)
        };
        Ok(word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, swap)
            .is_ok())
    }

    /// Writes a byte, at once.
    ///
    /// # Errors
    /// The address is not memory.
    pub fn store_u8(&self, address: u64, value: u8) -> Result<(), MemoryError> {
        self.map
            .store(value, GuestAddress(address), Ordering::SeqCst)
            .map_err(|_| MemoryError::Access { address, len: 1 })
    }

    /// Sets bits in the 8 bytes at an 8-aligned address and returns what was there.
    ///
    /// # Errors
    /// The address is not memory.
    pub fn fetch_or(&self, address: u64, bits: u64) -> Result<u64, MemoryError> {
        Ok(self.atomic(address)?.fetch_or(bits, Ordering::SeqCst))
    }

    /// Keeps only the given bits in the 8 bytes at an 8-aligned address; returns what was there.
    ///
    /// # Errors
    /// The address is not memory.
    pub fn fetch_and(&self, address: u64, bits: u64) -> Result<u64, MemoryError> {
        Ok(self.atomic(address)?.fetch_and(bits, Ordering::SeqCst))
    }

    /// Where the page at a page-aligned address is in this process. It is mapped as long as `self`
    /// (or a clone) is there.
    ///
    /// # Errors
    /// The address is not that of a page of memory.
    pub fn page(&self, address: u64) -> Result<NonNull<u8>, MemoryError> {
        let len = PAGE_SIZE as usize;
        let fail = || MemoryError::Access { address, len };
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(fail());
        }
        let slice = self
            .map
            .get_slice(GuestAddress(address), len)
            .map_err(|_| fail())?;
        NonNull::new(slice.ptr_guard_mut().as_ptr()).ok_or_else(fail)
    }

    fn atomic(&self, address: u64) -> Result<&AtomicU64, MemoryError> {
        let fail = || MemoryError::Access { address, len: 8 };
        if address & 7 != 0 {
            return Err(fail());
        }
        let slice = self
            .map
            .get_slice(GuestAddress(address), 8)
            .map_err(|_| fail())?;
        // SAFETY: the slice is 8 mapped and aligned bytes (regions are page-aligned), alive as long
        // as `self`; the guest changes them too, hence atomic.
        Ok(unsafe { &*slice.ptr_guard_mut().as_ptr().cast::<AtomicU64>() })
    }

    /// Gives pages back to the host; they read as zeroes afterwards.
    ///
    /// # Errors
    /// The range is not all memory.
    pub fn discard(&self, address: u64, len: u64) -> Result<(), MemoryError> {
        let fail = || MemoryError::Access {
            address,
            len: len as usize,
        };
        let slice = self
            .map
            .get_slice(GuestAddress(address), len as usize)
            .map_err(|_| fail())?;
        // SAFETY: the slice is inside one of our private anonymous mappings; losing its content is
        // what is asked for.
        let rc = unsafe {
            libc::madvise(
                slice.ptr_guard_mut().as_ptr().cast(),
                len as usize,
                libc::MADV_DONTNEED,
            )
        };
        if rc == 0 { Ok(()) } else { Err(fail()) }
    }
}

fn region(
    start: u64,
    len: u64,
) -> Result<GuestRegionMmap<()>, Box<dyn std::error::Error + Send + Sync>> {
    let len = len.next_multiple_of(PAGE_SIZE) as usize;
    let map = MmapRegion::new(len)?;
    // SAFETY: advice about a mapping that was just made; it changes no content.
    unsafe { libc::madvise(map.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    GuestRegionMmap::new(map, GuestAddress(start)).ok_or_else(|| "address overflow".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_skip_the_hole() {
        assert_eq!(pfn_to_mfn(0xfdfff), 0xfdfff);
        assert_eq!(pfn_to_mfn(0xfe000), 0x100000);
        assert_eq!(ram_end(0x1000), 0x100_0000);
        assert_eq!(ram_end(0xfe001), 0x1_0000_1000);
    }

    #[test]
    fn accesses_outside_memory_are_errors() {
        let m = Memory::new(16, LARGE_PAGE, 4096).unwrap();
        m.write(0, b"x").unwrap();
        assert!(m.write(16 * 4096 - 1, b"xy").is_err());
        assert!(m.fetch_or(4, 1).is_err());
        assert_eq!(m.fetch_or(8, 5).unwrap(), 0);
        assert_eq!(m.load(8).unwrap(), 5);
        assert!(m.load(1 << 40).is_err());
        assert!(m.replace_u32(8, 5, 7).unwrap());
        assert!(!m.replace_u32(8, 5, 9).unwrap());
        assert!(m.replace_u32(12, 0, 1).unwrap());
        assert_eq!(m.load(8).unwrap(), 1 << 32 | 7);
    }
}
