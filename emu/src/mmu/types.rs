//! Types of frames: taking and dropping references, validating whole tables.
//!
//! All of it runs under the domain's MMU lock ([`lock`]).

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use xenner_emu_abi::frame::{
    self, BUSY, COUNT_ONE, FULL, PINNED, TYPE_L1, TYPE_L4, TYPE_MASK, TYPE_NONE, TYPE_SEGDESC,
};
use xenner_emu_abi::layout::{HOLE_END_SLOT, HOLE_FIRST_SLOT};
use xenner_emu_abi::pte::{self, P};
use xenner_xen_abi::errno::{EBUSY, EINVAL};

use super::rules;
use crate::mem::{boot_info, entry, frame_record, next_used, take_ordinary};

static LOCK: AtomicBool = AtomicBool::new(false);

/// Proof that the MMU lock is held.
#[derive(Debug)]
pub struct MmuLock(());

/// Takes the MMU lock; spins with TLB flush requests served.
pub fn lock() -> MmuLock {
    while LOCK.swap(true, Acquire) {
        crate::spin(|| !LOCK.load(Relaxed));
    }
    MmuLock(())
}

impl Drop for MmuLock {
    fn drop(&mut self) {
        LOCK.store(false, Release);
    }
}

/// Takes one more reference to a frame that has the type already. Needs no lock: a type that is
/// held does not end. False: the long way is needed.
#[inline]
pub fn get_held(mfn: u64, kind: u32) -> bool {
    if mfn >= boot_info().nr_frames {
        return false;
    }
    let slot = frame_record(mfn);
    let record = slot.load(Relaxed);
    record & (TYPE_MASK | BUSY | FULL) == kind
        && slot
            .compare_exchange(record, record + COUNT_ONE, Acquire, Relaxed)
            .is_ok()
}

/// Drops a reference that is not the last. Needs no lock. False: the long way is needed.
#[inline]
pub fn put_held(mfn: u64) -> bool {
    let slot = frame_record(mfn);
    let record = slot.load(Relaxed);
    crate::race_window();
    frame::count(record) > 1
        && slot
            .compare_exchange(record, record - COUNT_ONE, Release, Relaxed)
            .is_ok()
}

/// Drops a reference, by the short way if that does.
#[inline]
pub fn release(mfn: u64) {
    if !put_held(mfn) {
        put(&lock(), mfn);
    }
}

/// [`release`] for the entry code, which drops a base pointer's reference itself if it is not the last.
pub extern "C" fn release_l4(mfn: u64) {
    release(mfn);
}

/// The entry code dropped the last reference to an L1 table that it held while it changed an entry:
/// the type ends, unless somebody has taken it anew.
pub extern "C" fn l1_released(mfn: u64) {
    let lock = lock();
    let record = frame_record(mfn).load(Relaxed);
    if record & (TYPE_MASK | BUSY) == TYPE_L1 && frame::count(record) == 0 {
        end(&lock, mfn, record);
    }
}

/// Takes a reference to a frame as a page table of `kind` (the level) or as a descriptor
/// page, validating it if it has no type yet.
///
/// # Errors
/// EINVAL if the frame is not the domain's or its content is not allowed; EBUSY if it has
/// another type.
pub fn get(lock: &MmuLock, mfn: u64, kind: u32) -> Result<(), i64> {
    if !rules::owned(mfn) {
        return Err(EINVAL);
    }
    let slot = frame_record(mfn);
    let mut record = slot.load(Relaxed);
    while frame::kind(record) == kind {
        if record & (BUSY | FULL) != 0 {
            return Err(EBUSY);
        }
        // counts change without the lock
        match slot.compare_exchange(record, record + COUNT_ONE, Acquire, Relaxed) {
            Ok(_) => return Ok(()),
            Err(seen) => record = seen,
        }
    }
    // typed first, so that a table that maps itself writable is found out; a frame that is
    // mapped writable has a count and stays what it is. Nobody else changes entries meanwhile.
    if slot
        .compare_exchange(0, kind | COUNT_ONE | BUSY, Acquire, Relaxed)
        .is_err()
    {
        return Err(EBUSY);
    }
    if rules::WRITABLE_DROPPED.load(SeqCst) != 0 {
        rules::WRITABLE_DROPPED.store(0, SeqCst);
        crate::flush_stale_mappings();
    }
    crate::race_window();
    let valid = match kind {
        TYPE_L1 => validate_l1(mfn),
        TYPE_SEGDESC => crate::descriptors::validate_page(mfn),
        level => validate_upper(lock, mfn, level),
    };
    if valid.is_ok() {
        slot.fetch_and(!BUSY, Release);
    } else {
        slot.store(0, Release);
    }
    valid
}

/// Drops a reference to a frame's type; with the last one the type ends.
pub fn put(lock: &MmuLock, mfn: u64) {
    let slot = frame_record(mfn);
    let mut record = slot.load(Relaxed);
    while frame::count(record) > 1 {
        match slot.compare_exchange(record, record - COUNT_ONE, Release, Relaxed) {
            Ok(_) => return,
            Err(seen) => record = seen,
        }
    }
    if !end(lock, mfn, record) {
        // somebody took a reference just now: this one is not the last any more
        put(lock, mfn);
    }
}

/// Ends the type of a frame whose record says that nobody else holds it. False: the record
/// changed meanwhile.
fn end(lock: &MmuLock, mfn: u64, record: u32) -> bool {
    let slot = frame_record(mfn);
    let kind = frame::kind(record);
    if kind == TYPE_NONE {
        return true;
    }
    // from here on entries are not changed without the lock
    if slot
        .compare_exchange(record, record | BUSY, Acquire, Relaxed)
        .is_err()
    {
        return false;
    }
    crate::race_window();
    match kind {
        TYPE_L1 => drop_l1_entries(mfn, 512),
        TYPE_SEGDESC => {}
        kind => drop_entries(lock, mfn, kind, 512),
    }
    crate::race_window();
    slot.store(0, Release);
    true
}

/// Whether a table maps 2 MiB of memory in one piece, as a kernel maps all memory when it starts:
/// the one case that is worth leaving the guest for, and that processes do not make.
fn is_one_piece(mfn: u64) -> bool {
    let [first, last] = [0, 511].map(|i| entry(mfn, i).load(Relaxed));
    first & last & P != 0 && pte::mfn(first) + 511 == pte::mfn(last)
}

fn validate_l1(mfn: u64) -> Result<(), i64> {
    let mut i = if is_one_piece(mfn) {
        crate::take_many(mfn)
    } else {
        0
    };
    i = next_used(mfn, i.min(512));
    while i < 512 {
        i = take_ordinary(mfn, i, boot_info().nr_frames);
        if i >= 512 {
            break;
        }
        let slot = entry(mfn, i);
        let old = slot.load(Relaxed);
        match rules::take_l1(old) {
            Ok(new) if new == old => {}
            Ok(new) => slot.store(new, Relaxed),
            Err(_) => {
                drop_l1_entries(mfn, i);
                return Err(EINVAL);
            }
        }
        i = next_used(mfn, i + 1);
    }
    Ok(())
}

/// Drops the references that the entries below `end` of a validated L1 table hold.
fn drop_l1_entries(mfn: u64, end: usize) {
    let mut i = next_used(mfn, 0);
    while i < end {
        rules::drop_l1(entry(mfn, i).load(Relaxed));
        i = next_used_quick(mfn, i + 1);
    }
}

/// [`next_used`], with the common case of an adjacent entry first.
#[inline]
fn next_used_quick(mfn: u64, i: usize) -> usize {
    if i < 512 && entry(mfn, i).load(Relaxed) != 0 {
        i
    } else {
        next_used(mfn, i)
    }
}

fn validate_upper(lock: &MmuLock, mfn: u64, level: u32) -> Result<(), i64> {
    let mut i = next_used(mfn, 0);
    while i < 512 {
        if level == TYPE_L4 && in_hole(i) {
            i = next_used(mfn, HOLE_END_SLOT);
            continue;
        }
        let slot = entry(mfn, i);
        let old = slot.load(Relaxed);
        if old & P != 0 {
            let new = rules::upper(old, level)
                .and_then(|new| get(lock, pte::mfn(old), level - 1).map(|()| new));
            match new {
                Ok(new) => slot.store(new, Relaxed),
                Err(_) => {
                    drop_entries(lock, mfn, level, i);
                    return Err(EINVAL);
                }
            }
        }
        i = next_used(mfn, i + 1);
    }
    if level == TYPE_L4 {
        install_hole(mfn);
    }
    Ok(())
}

/// Drops the references that the entries below `end` of a validated table hold.
fn drop_entries(lock: &MmuLock, mfn: u64, level: u32, end: usize) {
    let mut i = next_used(mfn, 0);
    while i < end {
        if level == TYPE_L4 && in_hole(i) {
            i = next_used(mfn, HOLE_END_SLOT);
            continue;
        }
        let e = entry(mfn, i).load(Relaxed);
        if e & P != 0 {
            put(lock, pte::mfn(e));
        }
        i = next_used(mfn, i + 1);
    }
}

/// Whether an L4 slot is the hypervisor's.
pub fn in_hole(slot: usize) -> bool {
    (HOLE_FIRST_SLOT..HOLE_END_SLOT).contains(&slot)
}

fn install_hole(mfn: u64) {
    for (i, e) in boot_info().hole_l4.iter().enumerate() {
        entry(mfn, HOLE_FIRST_SLOT + i).store(*e, Relaxed);
    }
}

/// Pins a frame as a page table of `level`.
///
/// # Errors
/// EINVAL if it is pinned already, or as for [`get`].
pub fn pin(lock: &MmuLock, mfn: u64, level: u32) -> Result<(), i64> {
    if !rules::owned(mfn) || frame_record(mfn).load(Relaxed) & PINNED != 0 {
        return Err(EINVAL);
    }
    get(lock, mfn, level).map_err(|_| EINVAL)?;
    frame_record(mfn).fetch_or(PINNED, Relaxed);
    Ok(())
}

/// Undoes a pin.
///
/// # Errors
/// EINVAL if the frame is not pinned.
pub fn unpin(lock: &MmuLock, mfn: u64) -> Result<(), i64> {
    if !rules::owned(mfn) || frame_record(mfn).load(Relaxed) & PINNED == 0 {
        return Err(EINVAL);
    }
    frame_record(mfn).fetch_and(!PINNED, Relaxed);
    put(lock, mfn);
    Ok(())
}
