//! Which entries a table of each level may hold, and what is added to them.

use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use xenner_emu_abi::frame::{COUNT_ONE, FULL, NOT_OWNED, TYPE_MASK};
use xenner_emu_abi::pte::{self, A, AVAILABLE, G, L1_FORBIDDEN, P, PCD, PSE, PWT, RW, US};
use xenner_xen_abi::errno::{EBUSY, EINVAL};

use crate::mem::{boot_info, frame_record};

/// Bits that no present entry of L2-L4 may have.
const UPPER_FORBIDDEN: u64 = PSE | G | PCD | PWT | 0x7ff0_0000_0000_0000 & !AVAILABLE;

/// Not 0: a writable mapping went away, and a TLB may still know it. No frame becomes a page
/// table before the TLBs are flushed, or the guest could go on writing to it unseen. The entry
/// code sets it too.
pub static WRITABLE_DROPPED: AtomicU8 = AtomicU8::new(0);

/// Whether a frame is memory of the domain.
pub fn owned(mfn: u64) -> bool {
    let info = boot_info();
    mfn < info.nr_frames && frame_record(mfn).load(Relaxed) & NOT_OWNED == 0
}
/// Whether a frame is one that the VMM shares with the guest.
pub fn shared(mfn: u64) -> bool {
    let info = boot_info();
    mfn >= info.shared_start && mfn < info.shared_end
}

/// Takes a reference to a frame below `nr_frames` as a writable mapping does: while it is held the
/// frame gets no type. In one step, so that nobody ever sees a count that is not to stay.
///
/// # Errors
/// EINVAL for a frame that is not the domain's; EBUSY for a page table or descriptor page, or
/// for more mappings than are counted.
#[inline]
pub fn take_writable(mfn: u64) -> Result<(), i64> {
    let slot = frame_record(mfn);
    let mut record = slot.load(Relaxed);
    loop {
        if record & (TYPE_MASK | NOT_OWNED | FULL) != 0 {
            return Err(if record & NOT_OWNED != 0 {
                EINVAL
            } else {
                EBUSY
            });
        }
        crate::race_window();
        match slot.compare_exchange(record, record + COUNT_ONE, Acquire, Relaxed) {
            Ok(_) => return Ok(()),
            Err(seen) => record = seen,
        }
    }
}

/// Drops what [`take_writable`] took.
#[inline]
pub fn drop_writable(mfn: u64) {
    frame_record(mfn).fetch_sub(COUNT_ONE, Release);
}

/// Checks a new L1 entry and takes the reference that a writable mapping holds on its frame;
/// returns the entry as it is to be stored.
///
/// # Errors
/// EINVAL for forbidden bits or a frame that is not the domain's; EBUSY as [`take_writable`].
#[inline]
pub fn take_l1(entry: u64) -> Result<u64, i64> {
    if entry & P == 0 {
        return Ok(entry);
    }
    if entry & L1_FORBIDDEN != 0 {
        return Err(EINVAL);
    }
    let mfn = pte::mfn(entry);
    if mfn < boot_info().nr_frames {
        if entry & RW != 0 {
            take_writable(mfn)?;
        } else if frame_record(mfn).load(Relaxed) & NOT_OWNED != 0 {
            return Err(EINVAL);
        }
    } else if !shared(mfn) {
        return Err(EINVAL);
    }
    Ok(entry | US)
}

/// Drops what [`take_l1`] took for an entry that is no longer in a validated table.
#[inline]
pub fn drop_l1(entry: u64) {
    if entry & (P | RW) == P | RW {
        let mfn = pte::mfn(entry);
        if mfn < boot_info().nr_frames {
            // first: whoever finds the count at zero is to find this as well
            WRITABLE_DROPPED.store(1, SeqCst);
            drop_writable(mfn);
        }
    }
}

/// Checks the bits of a new present entry of a table of `level` 2-4 and returns it as it is
/// to be stored. The frame it names is the caller's affair.
///
/// # Errors
/// EINVAL for forbidden bits.
pub fn upper(entry: u64, level: u32) -> Result<u64, i64> {
    if entry & UPPER_FORBIDDEN != 0 {
        return Err(EINVAL);
    }
    Ok(entry | US | if level == 4 { A } else { 0 })
}
