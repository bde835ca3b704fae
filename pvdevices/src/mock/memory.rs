//! The memory of a made-up domain: some pages, used by frontend and backend at the same time.

// UNSAFETY: pages that several threads write at once, and their pointers for the grant table.
#![expect(unsafe_code)]

use std::cell::UnsafeCell;
use std::collections::{HashMap, HashSet};
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
struct Entry {
    frame: u64,
    access: Access,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<u32, Entry>,
    next: u32,
    /// Mappings that are held, by reference: for reading, for writing.
    active: HashMap<u32, (u32, u32)>,
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
        let table = Table {
            // The toolstack's entries come first.
            next: xenner_xen_abi::grant_table::GNTTAB_NR_RESERVED_ENTRIES,
            ..Table::default()
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
        let mut table = self.table();
        let gref = table.next;
        table.next += 1;
        table.entries.insert(gref, Entry { frame, access });
        gref
    }

    pub fn end(&self, gref: u32) -> bool {
        let mut table = self.table();
        if table.active.contains_key(&gref) {
            return false;
        }
        table.entries.remove(&gref).is_some()
    }

    pub fn revoke(&self, gref: u32) {
        self.table().entries.remove(&gref);
    }

    pub fn protect(&self, frame: u64) {
        self.table().protected.insert(frame);
    }

    pub fn mapped(&self) -> Vec<u32> {
        let mut mapped: Vec<u32> = self.table().active.keys().copied().collect();
        mapped.sort_unstable();
        mapped
    }

    pub fn maps(&self) -> u64 {
        self.table().maps
    }
}

// SAFETY: the pages live as long as the memory, which the table holds; protected frames are refused
// for writing.
unsafe impl GrantTable for MockGrants {
    fn map(&self, gref: u32, access: Access) -> Result<Granted, GrantError> {
        let mut table = self.table();
        table.maps += 1;
        let entry = *table
            .entries
            .get(&gref)
            .ok_or(GrantError::BadReference(gref))?;
        if access == Access::Write && entry.access == Access::Read {
            return Err(GrantError::ReadOnly(gref));
        }
        if access == Access::Write && table.protected.contains(&entry.frame) {
            return Err(GrantError::BadFrame(gref));
        }
        let page = self.memory.pointer(entry.frame);
        let page = page.ok_or(GrantError::BadFrame(gref))?;
        let (reads, writes) = table.active.entry(gref).or_default();
        *match access {
            Access::Read => reads,
            Access::Write => writes,
        } += 1;
        Ok(Granted {
            page,
            gref,
            access,
            frame: entry.frame,
        })
    }

    fn unmap(&self, granted: &Granted) {
        let mut table = self.table();
        let counts = table.active.get_mut(&granted.gref);
        let (reads, writes) = counts.expect("only what is mapped is unmapped");
        let count = match granted.access {
            Access::Read => &mut *reads,
            Access::Write => &mut *writes,
        };
        *count = count.checked_sub(1).expect("unmapped once for each map");
        if (*reads, *writes) == (0, 0) {
            table.active.remove(&granted.gref);
        }
    }
}
