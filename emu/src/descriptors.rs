//! Rules for descriptors in the guest's GDT and LDT (`xen/arch/x86` answers; the manual:
//! AMD APM volume 2, "Segment Descriptors").

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenner_xen_abi::arch_x86_64::{FIRST_RESERVED_GDT_BYTE, FLAT_KERNEL_CS};
use xenner_xen_abi::errno::EINVAL;

use crate::mem::entry;

#[cfg(test)]
mod tests;

const PRESENT: u64 = 1 << 47;
const CODE_OR_DATA: u64 = 1 << 44;
const PRIVILEGE_SHIFT: u32 = 45;
const CALL_GATE: u64 = 0xc;
/// First selector of the GDT that is not the guest's (`FIRST_RESERVED_GDT_BYTE`).
const FIRST_RESERVED: u64 = FIRST_RESERVED_GDT_BYTE as u64;

/// Checks a descriptor and returns it as it is to be stored: the privilege level of code and
/// data segments is raised to 3, that of call gates lowered to 0.
///
/// # Errors
/// EINVAL for system descriptors that would let the guest into ring 0.
pub fn fix(d: u64) -> Result<u64, i64> {
    if d & PRESENT == 0 {
        return Ok(d);
    }
    if d & CODE_OR_DATA != 0 {
        return Ok(d | 3 << PRIVILEGE_SHIFT);
    }
    match d >> 40 & 0xf {
        // the upper half of a 16-byte gate
        0 => Ok(d),
        CALL_GATE => call_gate(d),
        _ => Err(EINVAL),
    }
}

/// A call gate can be had but not used: at privilege 0 it faults with its selector as the error
/// code. Its own privilege is kept in the target's selector.
fn call_gate(d: u64) -> Result<u64, i64> {
    const RESERVED: u64 = 0xff << 32;
    let selector = d >> 16 & 0xffff;
    let local = selector & 4 != 0;
    let target = selector < FIRST_RESERVED || local || selector == u64::from(FLAT_KERNEL_CS);
    if !target || d & RESERVED != 0 {
        return Err(EINVAL);
    }
    let privilege = d >> PRIVILEGE_SHIFT & 3;
    Ok(d & !(3 << PRIVILEGE_SHIFT | 3 << 16) | privilege << 16)
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
