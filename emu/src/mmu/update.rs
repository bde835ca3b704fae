//! Changing one page-table entry.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenner_emu_abi::frame::{self, FULL, TYPE_L1, TYPE_L4, TYPE_NONE};
use xenner_emu_abi::pte::{self, A, D, P};
use xenner_xen_abi::errno::{EBUSY, EINVAL};

use super::{rules, types};
use crate::mem::{boot_info, frame_record, word};

/// How the new entry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// As given.
    Plain,
    /// Accessed and dirty bits of the old entry stay.
    PreserveAd,
    /// Only if the entry still holds this value.
    IfEqual(u64),
}

/// Writes `value` to the entry at machine address `ma`, by the rules of the frame's type.
///
/// Returns the old entry.
///
/// # Errors
/// EINVAL or EBUSY as the rules say; nothing is changed then. [`Store::IfEqual`] with another
/// value in place gives that value and changes nothing.
#[inline]
pub fn entry(ma: u64, value: u64, how: Store) -> Result<u64, i64> {
    let mfn = ma >> 12;
    if mfn >= boot_info().nr_frames || ma & 7 != 0 {
        return Err(EINVAL);
    }
    loop {
        let record = frame_record(mfn).load(Relaxed);
        match frame::kind(record) {
            // The table stays one for as long as it is held here: its last reference may go on
            // another vcpu, and the entries with it.
            TYPE_L1 if types::get_held(mfn, TYPE_L1) => {
                let done = l1(ma, value, how);
                types::release(mfn);
                return done;
            }
            TYPE_L1 if record & FULL != 0 => return Err(EBUSY),
            // Ordinary memory, held as by a writable mapping so that it does not become a table.
            TYPE_NONE => match rules::take_writable(mfn) {
                Ok(()) => {
                    crate::race_window();
                    let old = store(ma, value, how);
                    rules::drop_writable(mfn);
                    return Ok(old);
                }
                Err(_) if frame::kind(frame_record(mfn).load(Relaxed)) != TYPE_NONE => {}
                Err(e) => return Err(e),
            },
            level @ 2..=TYPE_L4 => return upper(ma, value, how, level),
            // its type begins or ends, or the count changed just now
            TYPE_L1 => drop(types::lock()),
            _ => return Err(EINVAL),
        }
    }
}

fn l1(ma: u64, value: u64, how: Store) -> Result<u64, i64> {
    let new = rules::take_l1(value)?;
    crate::race_window();
    let old = store(ma, new, how);
    match how {
        Store::IfEqual(want) if want != old => rules::drop_l1(new),
        _ => rules::drop_l1(old),
    }
    Ok(old)
}

#[inline]
fn store(ma: u64, new: u64, how: Store) -> u64 {
    let slot = word(ma);
    match how {
        Store::Plain => slot.swap(new, SeqCst),
        Store::PreserveAd => {
            let mut old = slot.load(Relaxed);
            loop {
                match slot.compare_exchange(old, new | old & (A | D), SeqCst, Relaxed) {
                    Ok(v) => return v,
                    Err(v) => old = v,
                }
            }
        }
        Store::IfEqual(want) => match slot.compare_exchange(want, new, SeqCst, Relaxed) {
            Ok(v) | Err(v) => v,
        },
    }
}

fn upper(ma: u64, value: u64, how: Store, level: u32) -> Result<u64, i64> {
    let slot_index = (ma >> 3 & 511) as usize;
    if level == TYPE_L4 && types::in_hole(slot_index) {
        return Err(EINVAL);
    }
    let lock = types::lock();
    if frame::kind(frame_record(ma >> 12).load(Relaxed)) != level {
        return Err(EINVAL);
    }
    let old = word(ma).load(Relaxed);
    if matches!(how, Store::IfEqual(want) if want != old) {
        return Ok(old);
    }
    let mut new = value;
    if value & P != 0 {
        new = rules::upper(value, level)?;
        if how == Store::PreserveAd {
            new |= old & (A | D);
        }
        types::get(&lock, pte::mfn(value), level - 1).map_err(|_| EINVAL)?;
    }
    word(ma).store(new, SeqCst);
    if old & P != 0 {
        // before the table below may become ordinary memory: a TLB may still lead to it
        if old != new {
            crate::flush_all_after_upper_change();
        }
        types::put(&lock, pte::mfn(old));
    }
    Ok(old)
}
