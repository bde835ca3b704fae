//! A frame that the domain granted, mapped for a backend (`xen/include/public/grant_table.h`).
//!
//! This is the one place where a backend touches the domain's memory: bounds are checked here, the
//! mapping is taken back when a [`Grant`] is dropped.

// UNSAFETY: loads, stores and copies through the pointer of a mapped frame.
#![expect(unsafe_code)]

use std::fmt::{self, Debug};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{PAGE_SIZE, SharedPage};
use thiserror::Error;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BS;

/// What a backend wants to do with a granted frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it: any grant serves.
    Read,
    /// Read and write it: a grant with `GTF_readonly` does not serve.
    Write,
}

/// Why a grant reference gives no frame. Each is the frontend's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GrantError {
    /// No entry of the table, or one that grants domain 0 nothing.
    #[error("Grant reference {0} grants nothing")]
    BadReference(u32),
    /// The frame is granted for reading only.
    #[error("Grant reference {0} is read-only")]
    ReadOnly(u32),
    /// The frame is not the domain's memory, or is one that must not be written (a page table).
    #[error("Grant reference {0} names a frame that cannot be shared")]
    BadFrame(u32),
}

/// A mapped frame as a [`GrantTable`] gives it out and takes it back.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// Where the frame's [`PAGE_SIZE`] bytes are in this process.
    pub page: NonNull<u8>,
    /// The grant reference.
    pub gref: u32,
    /// What it was mapped for.
    pub access: Access,
    /// The machine frame number.
    pub frame: u64,
}

/// A domain's grant table as domain 0 uses it.
///
/// # Safety
/// [`GrantTable::map`] returns a page that stays mapped, readable and writable in this process for
/// as long as the table lives, even when the domain ends the grant. While an [`Access::Write`]
/// mapping is held, the frame must not be of a kind that the domain's kernel must not write.
pub unsafe trait GrantTable: Send + Sync + Debug {
    /// Maps the frame behind a grant reference.
    ///
    /// # Errors
    /// [`GrantError`].
    fn map(&self, gref: u32, access: Access) -> Result<Granted, GrantError>;

    /// Takes a mapping back; called once for each [`Self::map`].
    fn unmap(&self, granted: &Granted);
}

/// A granted frame, mapped until dropped.
pub struct Grant {
    granted: Granted,
    table: Arc<dyn GrantTable>,
}

// SAFETY: the pointer is to memory that any thread may use; every access is atomic or volatile.
unsafe impl Send for Grant {}
// SAFETY: as for Send.
unsafe impl Sync for Grant {}

impl Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.granted.fmt(f)
    }
}

impl Grant {
    /// Maps the frame behind a grant reference.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn map(table: &Arc<dyn GrantTable>, gref: u32, access: Access) -> Result<Self, GrantError> {
        Ok(Self {
            granted: table.map(gref, access)?,
            table: table.clone(),
        })
    }

    /// The grant reference.
    #[must_use]
    pub fn gref(&self) -> u32 {
        self.granted.gref
    }

    /// Whether it was mapped for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.granted.access == Access::Write
    }

    /// The frame's bytes for system calls that read or write them (`iovec`). The domain may change
    /// them at any moment, and the pointer is valid as long as this grant.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.granted.page.as_ptr()
    }

    /// The frame's bytes.
    #[must_use]
    pub fn slice(&self) -> VolatileSlice<'_, BS<'_, ()>> {
        // SAFETY: the table promises PAGE_SIZE mapped bytes for as long as it lives, and `self`
        // keeps it alive for the slice's lifetime.
        unsafe { VolatileSlice::new(self.as_ptr(), PAGE_SIZE) }
    }

    /// Copies bytes out of the frame; false (and nothing copied) if the range leaves it.
    #[must_use]
    pub fn copy_out(&self, off: usize, buf: &mut [u8]) -> bool {
        let Ok(part) = self.slice().subslice(off, buf.len()) else {
            return false;
        };
        part.copy_to(buf);
        true
    }

    /// Copies bytes into the frame; false (and nothing copied) if the range leaves it or the frame
    /// was not mapped for writing.
    #[must_use]
    pub fn copy_in(&self, off: usize, data: &[u8]) -> bool {
        if !self.is_writable() {
            return false;
        }
        let Ok(part) = self.slice().subslice(off, data.len()) else {
            return false;
        };
        part.copy_from(data);
        true
    }

    fn word(&self, off: usize) -> &AtomicU32 {
        assert!(off.is_multiple_of(4) && off + 4 <= PAGE_SIZE);
        // SAFETY: inside the mapped page (asserted) and aligned, alive as long as `self`; the
        // domain changes it too, hence atomic.
        unsafe { &*self.as_ptr().add(off).cast::<AtomicU32>() }
    }
}

impl SharedPage for Grant {
    fn load_u32(&self, off: usize) -> u32 {
        self.word(off).load(Ordering::Acquire)
    }

    fn store_u32(&self, off: usize, value: u32) {
        self.word(off).store(value, Ordering::Release);
    }

    fn read(&self, off: usize, buf: &mut [u8]) {
        assert!(
            self.copy_out(off, buf),
            "range {off}+{} in a page",
            buf.len()
        );
    }

    fn write(&self, off: usize, data: &[u8]) {
        assert!(
            self.copy_in(off, data),
            "range {off}+{} in a page",
            data.len()
        );
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.table.unmap(&self.granted);
    }
}
