//! Rules for descriptors in the guest's GDT and LDT (`xen/arch/x86` answers; the manual:
//! AMD APM volume 2, "Segment Descriptors").

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenner_xen_abi::errno::EINVAL;

use crate::mem::entry;

/// Checks a descriptor and returns it as it is to be stored: the privilege level of code and
/// data segments is raised to 3.
///
/// # Errors
/// EINVAL for system descriptors that would let the guest into ring 0.
pub fn fix(d: u64) -> Result<u64, i64> {
    const PRESENT: u64 = 1 << 47;
    const CODE_OR_DATA: u64 = 1 << 44;
    if d & PRESENT == 0 {
        return Ok(d);
    }
    if d & CODE_OR_DATA != 0 {
        return Ok(d | 3 << 45);
    }
    // type 0 is the upper half of a 16-byte gate
    if d >> 40 & 0xf == 0 {
        Ok(d)
    } else {
        Err(EINVAL)
    }
}

/// Checks a page that becomes a descriptor page, and fixes its descriptors up.
///
/// # Errors
/// EINVAL if one is not allowed.
pub fn validate_page(mfn: u64) -> Result<(), i64> {
    for i in 0..512 {
        let slot = entry(mfn, i);
        let old = slot.load(Relaxed);
        let new = fix(old)?;
        if new != old {
            slot.store(new, SeqCst);
        }
    }
    Ok(())
}
