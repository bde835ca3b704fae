//! Records of the frame table ([`xenner_emu_abi::frame`]) as the process changes them.
//!
//! Who writes a frame of the domain's RAM counts as a writable mapping of it meanwhile: another vcpu
//! may unmap the frame and make it a page table.

use xenner_emu_abi::frame::{COUNT_ONE, FULL, NOT_OWNED, TYPE_MASK};
use xenner_emu_abi::layout::PAGE_SIZE;
use xenner_emu_abi::pte::{self, L1_FORBIDDEN, P, RW, US};

use crate::domain::layout::MachineMap;
use crate::guest_va::Fault;
use crate::memory::Memory;

#[cfg(test)]
mod tests;

/// Turns before a word that the guest changes all the time counts as one that cannot be changed.
const TURNS: u32 = 1 << 16;

/// Changes a word of guest memory in one step, if `f` has a new value for it. False if it has none,
/// if there is no such word, or if the guest changes it too often.
pub fn change(memory: &Memory, at: u64, mut f: impl FnMut(u32) -> Option<u32>) -> bool {
    for _ in 0..TURNS {
        let Ok(old) = memory.load_u32(at) else {
            return false;
        };
        let Some(new) = f(old) else {
            return false;
        };
        match memory.replace_u32(at, old, new) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(_) => return false,
        }
    }
    false
}

/// Machine address of a frame's record.
pub fn record(map: &MachineMap, mfn: u64) -> u64 {
    map.frame_table + mfn * 4
}

/// Counts a writable mapping of a frame of RAM. False if it is a page table, a descriptor page, not
/// the domain's, or mapped too often.
pub fn take_writable(memory: &Memory, map: &MachineMap, mfn: u64) -> bool {
    let refused = TYPE_MASK | NOT_OWNED | FULL;
    change(memory, record(map, mfn), |r| {
        (r & refused == 0).then_some(r + COUNT_ONE)
    })
}

/// Takes the count back. False if the record has none: a guest in ring 0 overwrote it.
pub fn put_writable(memory: &Memory, map: &MachineMap, mfn: u64) -> bool {
    change(memory, record(map, mfn), |r| r.checked_sub(COUNT_ONE))
}

/// Takes the entries of the L1 table in frame `mfn` from the first on, for as long as they are
/// ordinary: present, with allowed bits, of plain frames of the domain's RAM. Writable mappings are
/// counted, the user bit is added. The index of the first other entry, or 512.
///
/// This is the emulator's `mem::take_ordinary`; the vcpu that asks holds the MMU lock, so that no
/// frame gets a type meanwhile.
pub fn take_ordinary(memory: &Memory, map: &MachineMap, mfn: u64) -> usize {
    let ram = map.ram_end / PAGE_SIZE;
    if mfn >= ram {
        return 0;
    }
    (0..512)
        .find(|i| !take_entry(memory, map, ram, mfn * PAGE_SIZE + i * 8))
        .unwrap_or(512) as usize
}

fn take_entry(memory: &Memory, map: &MachineMap, ram: u64, at: u64) -> bool {
    let Ok(entry) = memory.load(at) else {
        return false;
    };
    let frame = pte::mfn(entry);
    if entry & P == 0 || entry & L1_FORBIDDEN != 0 || frame >= ram {
        return false;
    }
    let taken = if entry & RW != 0 {
        take_writable(memory, map, frame)
    } else {
        let record = memory.load_u32(record(map, frame));
        matches!(record, Ok(r) if r & (TYPE_MASK | NOT_OWNED) == 0)
    };
    taken && (entry & US != 0 || memory.fetch_or(at, US).is_ok())
}

/// A frame that the process writes. Frames above RAM are never page tables and are not counted.
#[derive(Debug)]
pub struct Held<'a> {
    memory: &'a Memory,
    map: &'a MachineMap,
    mfn: Option<u64>,
}

impl<'a> Held<'a> {
    /// Holds the frame of machine address `ma`.
    ///
    /// # Errors
    /// It is a page table, a descriptor page, or not the domain's.
    pub fn new(memory: &'a Memory, map: &'a MachineMap, ma: u64) -> Result<Self, Fault> {
        let mfn = (ma < map.ram_end).then_some(ma / PAGE_SIZE);
        if mfn.is_some_and(|mfn| !take_writable(memory, map, mfn)) {
            return Err(Fault);
        }
        Ok(Self { memory, map, mfn })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(mfn) = self.mfn {
            // what a guest in ring 0 did to its own records is its own affair
            let _ = put_writable(self.memory, self.map, mfn);
        }
    }
}
