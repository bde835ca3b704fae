//! Walking the guest's page tables through the direct map.

use core::sync::atomic::Ordering::Relaxed;

use xenner_emu_abi::layout::in_hole;
use xenner_emu_abi::pte::{self, ADDR, P, PSE};

use super::rules;
use crate::mem::{boot_info, entry, word};

/// Machine address of the L1 entry that maps `va` under the L4 at `cr3`, if all upper levels
/// are there.
#[inline]
pub fn l1_entry(cr3: u64, va: u64) -> Option<u64> {
    if in_hole(va) {
        return None;
    }
    let mut table = cr3 >> 12 & (ADDR >> 12);
    for level in [4, 3, 2] {
        let e = entry(table, pte::index(va, level)).load(Relaxed);
        if e & P == 0 || e & PSE != 0 {
            return None;
        }
        table = pte::mfn(e);
        if table >= boot_info().nr_frames {
            return None;
        }
    }
    Some(table << 12 | (pte::index(va, 1) as u64) << 3)
}

/// Machine address that `va` is mapped to, if it is, with the L1 entry.
pub fn translate(cr3: u64, va: u64) -> Option<(u64, u64)> {
    let e = word(l1_entry(cr3, va)?).load(Relaxed);
    if e & P == 0 {
        return None;
    }
    let mfn = pte::mfn(e);
    if mfn >= boot_info().nr_frames && !rules::shared(mfn) {
        return None;
    }
    Some((e & ADDR | va & 0xfff, e))
}
