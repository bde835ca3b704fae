//! The domain's grant table as its backends use it (`xen/include/public/grant_table.h`,
//! version 1 entries).
//!
//! Mapping sets `GTF_reading` and `GTF_writing` in the entry, so that the guest knows what is in
//! use. A frame that is mapped for writing counts as a writable mapping in the frame table: it
//! cannot become a page table meanwhile.

// UNSAFETY: keeps the promise of `GrantTable`, that pages stay mapped.
#![expect(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{debug, warn};
use xenner_emu_abi::frame::NOT_OWNED;
use xenner_emu_abi::layout::{GRANT_FRAMES, PAGE_SIZE};
use xenner_pvdevices::domain::{Access, BACKEND_DOMID, GrantError, GrantTable, Granted};
use xenner_xen_abi::grant_table::{
    GRANT_ENTRIES_V1_PER_PAGE, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_TYPE_MASK,
    GTF_WRITING,
};

use crate::domain::layout::MachineMap;
use crate::frames;
use crate::memory::Memory;

#[cfg(test)]
mod tests;

/// Entries of the table.
const ENTRIES: usize = GRANT_FRAMES as usize * GRANT_ENTRIES_V1_PER_PAGE as usize;

/// How one entry is in use.
#[derive(Clone, Copy, Debug, Default)]
struct Active {
    frame: u32,
    readers: u32,
    writers: u32,
}

impl Active {
    fn is_idle(self) -> bool {
        self.readers + self.writers == 0
    }
}

/// The backends' side of a domain's grant table.
#[derive(Debug)]
pub struct Grants {
    memory: Memory,
    map: MachineMap,
    active: Mutex<Vec<Active>>,
}

impl Grants {
    /// The table of the domain with this memory.
    pub fn new(memory: Memory, map: MachineMap) -> Arc<Self> {
        Arc::new(Self {
            memory,
            map,
            active: Mutex::new(vec![Active::default(); ENTRIES]),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Machine address of an entry.
    fn entry(&self, gref: u32) -> u64 {
        self.map.grant_frames + u64::from(gref) * 8
    }

    /// Sets the flags that tell the guest of the use, if the entry grants it.
    fn claim(&self, gref: u32, access: Access) -> Result<(), GrantError> {
        let used = match access {
            Access::Read => GTF_READING,
            Access::Write => GTF_READING | GTF_WRITING,
        };
        let mut refusal = GrantError::BadReference(gref);
        let claimed = frames::change(&self.memory, self.entry(gref), |word| {
            match permits(word, gref, access) {
                Ok(()) => Some(word | u32::from(used)),
                Err(e) => {
                    refusal = e;
                    None
                }
            }
        });
        if claimed { Ok(()) } else { Err(refusal) }
    }

    /// Takes flags back that tell of a use that is over.
    fn disclaim(&self, gref: u32, over: u16) {
        let clear = |word| Some(word & !u32::from(over));
        if !frames::change(&self.memory, self.entry(gref), clear) {
            warn!(target: "xenner::gnttab", "reference {gref}: its flags cannot be cleared");
        }
    }

    /// Counts a mapping of the frame, if it may be mapped.
    fn take_frame(&self, frame: u32, access: Access) -> bool {
        let mfn = u64::from(frame);
        if mfn >= self.map.ram_end / PAGE_SIZE {
            return false;
        }
        match access {
            Access::Read => {
                let record = self.memory.load_u32(frames::record(&self.map, mfn));
                matches!(record, Ok(r) if r & NOT_OWNED == 0)
            }
            Access::Write => frames::take_writable(&self.memory, &self.map, mfn),
        }
    }

    fn put_frame(&self, frame: u32) {
        if !frames::put_writable(&self.memory, &self.map, u64::from(frame)) {
            warn!(target: "xenner::gnttab", "frame {frame:#x}: its count is wrong");
        }
    }

    /// The frame behind a claimed entry.
    fn frame_of(&self, gref: u32, active: &Active) -> Option<u32> {
        if active.is_idle() {
            self.memory.load_u32(self.entry(gref) + 4).ok()
        } else {
            // what is in use stays what it was
            Some(active.frame)
        }
    }

    fn try_map(
        &self,
        active: &mut Active,
        gref: u32,
        access: Access,
    ) -> Result<Granted, GrantError> {
        let bad = GrantError::BadFrame(gref);
        let frame = self.frame_of(gref, active).ok_or(bad)?;
        let at = u64::from(frame) * PAGE_SIZE;
        let page = self.memory.page(at).map_err(|_| bad)?;
        if !self.take_frame(frame, access) {
            return Err(bad);
        }
        active.frame = frame;
        match access {
            Access::Read => active.readers += 1,
            Access::Write => active.writers += 1,
        }
        Ok(Granted {
            page,
            gref,
            access,
            frame: u64::from(frame),
        })
    }
}

/// Whether the entry with this first word (flags and domain) grants what is wanted.
fn permits(word: u32, gref: u32, access: Access) -> Result<(), GrantError> {
    let (flags, domid) = (word as u16, (word >> 16) as u16);
    if flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS || domid != BACKEND_DOMID {
        return Err(GrantError::BadReference(gref));
    }
    if access == Access::Write && flags & GTF_READONLY != 0 {
        return Err(GrantError::ReadOnly(gref));
    }
    Ok(())
}

/// The flags of uses that an entry does not have any more.
fn over(active: Active) -> u16 {
    let writing = if active.writers == 0 { GTF_WRITING } else { 0 };
    let reading = if active.is_idle() { GTF_READING } else { 0 };
    writing | reading
}

// SAFETY: a page is in one of the memory's mappings, which live as long as `self.memory`; a frame
// mapped for writing has no type, and its count keeps it from getting one.
unsafe impl GrantTable for Grants {
    fn map(&self, gref: u32, access: Access) -> Result<Granted, GrantError> {
        let mut table = self.lock();
        let active = table
            .get_mut(gref as usize)
            .ok_or(GrantError::BadReference(gref))?;
        self.claim(gref, access)?;
        let mapped = self.try_map(active, gref, access);
        if let Err(e) = mapped {
            debug!(target: "xenner::gnttab", "{e}");
            self.disclaim(gref, over(*active));
        }
        mapped
    }

    fn unmap(&self, granted: &Granted) {
        let mut table = self.lock();
        let Some(active) = table.get_mut(granted.gref as usize) else {
            return;
        };
        match granted.access {
            Access::Read => active.readers = active.readers.saturating_sub(1),
            Access::Write => {
                active.writers = active.writers.saturating_sub(1);
                self.put_frame(active.frame);
            }
        }
        // the data is in place before the guest sees the grant unused: the exchange orders it
        self.disclaim(granted.gref, over(*active));
    }
}
