//! Page tables: entry bits, walking, making pages read-only, building tables.

use super::machine::{info, mfn_of, va_of};
use super::xen::{mmu_update1, mmuext, update_va_mapping};
use crate::arch::memory::{self, PAGE, read64};
use xenner_xen_abi::xen::*;

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const RW: u64 = 2;
/// User.
pub const US: u64 = 4;
/// Accessed.
pub const A: u64 = 0x20;
/// Dirty.
pub const D: u64 = 0x40;
/// Page size, in levels 2 and 3.
pub const PSE: u64 = 0x80;
/// No execution.
pub const NX: u64 = 1 << 63;
/// Frame bits of an entry.
pub const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Flags of an ordinary page.
pub const DATA: u64 = P | RW | A | D;
/// Flags of a read-only page.
pub const RO: u64 = P | A;
/// Flags of an upper-level entry.
pub const TABLE: u64 = P | RW | US | A | D;

/// Frame of an entry.
pub fn frame(e: u64) -> u64 {
    (e & FRAME) >> 12
}

/// Entry that maps a machine frame.
pub fn entry(mfn: u64, flags: u64) -> u64 {
    mfn << 12 | flags
}

/// Index of an address at a level (1 to 4).
pub fn index(va: u64, level: u32) -> u64 {
    va >> (12 + 9 * (level - 1)) & 511
}

/// Address (in the initial mapping) of the entry for `va` at `level`, in the
/// tables under the L4 at `l4`; `None` if a table is missing.
pub fn entry_at(l4: u64, va: u64, level: u32) -> Option<u64> {
    let mut table = l4;
    let mut l = 4;
    loop {
        let e = table + index(va, l) * 8;
        if l == level {
            return Some(e);
        }
        let v = read64(e);
        if v & P == 0 {
            return None;
        }
        table = va_of(frame(v));
        if table >= mapped_end() {
            return None;
        }
        l -= 1;
    }
}

/// End of what the tables of the initial mapping can be reached through.
fn mapped_end() -> u64 {
    info().pt_base + info().nr_pt_frames * PAGE + (512 << 10)
}

/// The same in the builder's tables, which the kernel runs on.
pub fn kernel_entry_at(va: u64, level: u32) -> Option<u64> {
    entry_at(info().pt_base, va, level)
}

/// Machine address of what lies at an address of the initial mapping.
pub fn maddr(va: u64) -> u64 {
    mfn_of(va) << 12 | va & (PAGE - 1)
}

/// Map a page of the initial mapping read-only.
pub fn set_ro(va: u64) -> i64 {
    update_va_mapping(va, entry(mfn_of(va), RO), UVMF_INVLPG)
}

/// Map a page of the initial mapping writable again.
pub fn set_rw(va: u64) -> i64 {
    update_va_mapping(va, entry(mfn_of(va), DATA), UVMF_INVLPG)
}

/// A fresh page, filled by `fill`, read-only and pinned as a table of `level`.
/// The result is its address or the error.
pub fn pinned(level: u32, fill: &[(u64, u64)]) -> Result<u64, i64> {
    let va = table(fill)?;
    match mmuext(MMUEXT_PIN_L1_TABLE + level - 1, mfn_of(va), 0) {
        0 => Ok(va),
        e => {
            set_rw(va);
            Err(e)
        }
    }
}

/// A fresh page with entries, read-only, not pinned.
pub fn table(fill: &[(u64, u64)]) -> Result<u64, i64> {
    let va = memory::alloc_page().ok_or(-12)?;
    for &(i, e) in fill {
        memory::write64(va + i * 8, e);
    }
    match set_ro(va) {
        0 => Ok(va),
        e => Err(e),
    }
}

/// Unpin a table and make its page writable again.
pub fn unpin(va: u64) -> i64 {
    let r = mmuext(MMUEXT_UNPIN_TABLE, mfn_of(va), 0);
    if r != 0 { r } else { set_rw(va) }
}

/// A region of 2 MiB with its own L3, L2 and L1 in a free slot of the kernel's L4.
#[derive(Clone, Copy)]
pub struct Region {
    /// First address.
    pub va: u64,
    /// Its L1.
    pub l1: u64,
    /// Its L2.
    pub l2: u64,
    /// Its L3.
    pub l3: u64,
}

impl Region {
    /// Put a region into an L4 slot; its L1 is empty.
    pub fn new(slot: u64) -> Result<Self, i64> {
        let l1 = table(&[])?;
        let l2 = table(&[(0, entry(mfn_of(l1), TABLE))])?;
        let l3 = table(&[(0, entry(mfn_of(l2), TABLE))])?;
        let l4e = maddr(info().pt_base) + slot * 8;
        match mmu_update1(l4e, entry(mfn_of(l3), TABLE)) {
            0 => Ok(Self {
                va: (0xffff_0000_0000_0000 * u64::from(slot > 255)) | (slot << 39),
                l1,
                l2,
                l3,
            }),
            e => Err(e),
        }
    }

    /// Take it out again.
    pub fn remove(self) -> i64 {
        let slot = index(self.va, 4);
        let r = mmu_update1(maddr(info().pt_base) + slot * 8, 0);
        if r != 0 {
            return r;
        }
        for va in [self.l3, self.l2, self.l1] {
            let r = set_rw(va);
            if r != 0 {
                return r;
            }
        }
        0
    }
}
