//! The memory of a made-up domain: some pages, used by frontend and backend at the same time.

// UNSAFETY: pages that several threads write at once, and their pointers for the grant table.
#![expect(unsafe_code)]

use std::cell::UnsafeCell;
use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::VolatileSlice;

use crate::domain::{Access, GrantError, GrantTable, Granted, PAGE_SIZE, SharedPage};

#[repr(C, align(4096))]
struct Frame(UnsafeCell<[u8; PAGE_SIZE]>);

/// Memory of a number of pages, zero at first. Frames count from 0.
pub struct MockMemory(Box<[Frame]>);

// SAFETY: the pages are only reached through atomic and volatile accesses.
unsafe impl Send for MockMemory {}
// SAFETY: as for Send.
unsafe impl Sync for MockMemory {}

impl Debug for MockMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MockMemory({} pages)", self.0.len())
    }
}

impl MockMemory {
    /// Memory of `pages` pages.
    #[must_use]
    pub fn new(pages: usize) -> Arc<Self> {
        let zero = || Frame(UnsafeCell::new([0; PAGE_SIZE]));
        Arc::new(Self((0..pages).map(|_| zero()).collect()))
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.0.len() as u64
    }

    /// A page; panics if there is no such frame.
    #[must_use]
    pub fn page(self: &Arc<Self>, frame: u64) -> MockPage {
        assert!(frame < self.pages(), "no frame {frame}");
        MockPage {
            memory: self.clone(),
            frame,
        }
    }

    fn pointer(&self, frame: u64) -> Option<NonNull<u8>> {
        let frame = self.0.get(usize::try_from(frame).ok()?)?;
        NonNull::new(frame.0.get().cast())
    }
}

/// A page as the domain itself uses it.
#[derive(Debug, Clone)]
pub struct MockPage {
    memory: Arc<MockMemory>,
    frame: u64,
}

impl MockPage {
    /// Its frame.
    #[must_use]
    pub fn frame(&self) -> u64 {
        self.frame
    }

    fn pointer(&self) -> *mut u8 {
        let pointer = self.memory.pointer(self.frame);
        pointer.expect("frame was checked").as_ptr()
    }

    fn slice(&self, off: usize, len: usize) -> VolatileSlice<'_> {
        // SAFETY: a frame's PAGE_SIZE bytes, which live as long as the memory that self holds.
        let page = unsafe { VolatileSlice::new(self.pointer(), PAGE_SIZE) };
        page.subslice(off, len).expect("range within the page")
    }

    fn word(&self, off: usize) -> &AtomicU32 {
        assert!(off.is_multiple_of(4) && off + 4 <= PAGE_SIZE);
        // SAFETY: within the frame and aligned (asserted); alive as long as self.
        unsafe { &*self.pointer().add(off).cast::<AtomicU32>() }
    }
}

impl SharedPage for MockPage {
    fn load_u32(&self, off: usize) -> u32 {
        self.word(off).load(Ordering::Acquire)
    }

    fn store_u32(&self, off: usize, value: u32) {
        self.word(off).store(value, Ordering::Release);
    }

    fn read(&self, off: usize, buf: &mut [u8]) {
        self.slice(off, buf.len()).copy_to(buf);
    }

    fn write(&self, off: usize, data: &[u8]) {
        self.slice(off, data.len()).copy_from(data);
    }
}

/// What an entry of the grant table grants domain 0.
#[derive(Debug, Clone, Copy)]
struct Rights {
    frame: u64,
    access: Access,
}

/// An entry: what is granted now, and the mappings that are held.
#[derive(Debug, Default)]
struct Entry {
    rights: Option<Rights>,
    reads: u32,
    writes: u32,
}

impl Entry {
    fn is_mapped(&self) -> bool {
        self.reads + self.writes > 0
    }

    fn count(&mut self, access: Access) -> &mut u32 {
        match access {
            Access::Read => &mut self.reads,
            Access::Write => &mut self.writes,
        }
    }
}

#[derive(Debug)]
struct Table {
    entries: Vec<Entry>,
    /// Frames of a kind that must not be written (page tables).
    protected: HashSet<u64>,
    /// Calls of map.
    maps: u64,
}

/// The grant table of a made-up domain; counts mappings as Xen's active entries do.
#[derive(Debug)]
pub(super) struct MockGrants {
    memory: Arc<MockMemory>,
    table: Mutex<Table>,
}

impl MockGrants {
    pub fn new(memory: Arc<MockMemory>) -> Self {
        // The toolstack's entries come first.
        let reserved = xenner_xen_abi::grant_table::GNTTAB_NR_RESERVED_ENTRIES;
        let table = Table {
            entries: (0..reserved).map(|_| Entry::default()).collect(),
            protected: HashSet::new(),
            maps: 0,
        };
        Self {
            memory,
            table: Mutex::new(table),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn grant(&self, frame: u64, access: Access) -> u32 {
        let entries = &mut self.table().entries;
        // References are not used again, so that a stale one is found out.
        let gref = u32::try_from(entries.len()).expect("a free reference");
        entries.push(Entry {
            rights: Some(Rights { frame, access }),
            ..Entry::default()
        });
        gref
    }

    pub fn end(&self, gref: u32) -> bool {
        match self.table().entries.get_mut(gref as usize) {
            Some(entry) if !entry.is_mapped() => entry.rights.take().is_some(),
            _ => false,
        }
    }

    pub fn revoke(&self, gref: u32) {
        if let Some(entry) = self.table().entries.get_mut(gref as usize) {
            entry.rights = None;
        }
    }

    pub fn protect(&self, frame: u64) {
        self.table().protected.insert(frame);
    }

    pub fn mapped(&self) -> Vec<u32> {
        let table = self.table();
        let entries = (0..).zip(&table.entries);
        let mapped = entries.filter(|(_, entry)| entry.is_mapped());
        mapped.map(|(gref, _)| gref).collect()
    }

    pub fn maps(&self) -> u64 {
        self.table().maps
    }
}

// SAFETY: the pages live as long as the memory, which the table holds; protected frames are refused
// for writing.
unsafe impl GrantTable for MockGrants {
    fn map(&self, gref: u32, access: Access) -> Result<Granted, GrantError> {
        let table = &mut *self.table();
        table.maps += 1;
        let entry = table.entries.get_mut(gref as usize);
        let entry = entry.ok_or(GrantError::BadReference(gref))?;
        let rights = entry.rights.ok_or(GrantError::BadReference(gref))?;
        if access == Access::Write && rights.access == Access::Read {
            return Err(GrantError::ReadOnly(gref));
        }
        if access == Access::Write && table.protected.contains(&rights.frame) {
            return Err(GrantError::BadFrame(gref));
        }
        let page = self.memory.pointer(rights.frame);
        let page = page.ok_or(GrantError::BadFrame(gref))?;
        *entry.count(access) += 1;
        Ok(Granted {
            page,
            gref,
            access,
            frame: rights.frame,
        })
    }

    fn unmap(&self, granted: &Granted) {
        let entry = &mut self.table().entries[granted.gref as usize];
        let count = entry.count(granted.access);
        *count = count.checked_sub(1).expect("unmapped once for each map");
    }
}
