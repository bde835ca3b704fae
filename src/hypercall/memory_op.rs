//! memory_op: reservations and the maps that a guest asks for.

use std::sync::PoisonError;

use xenner_emu_abi::frame::NOT_OWNED;
use xenner_emu_abi::layout::{DOMID, PAGE_SIZE};
use xenner_xen_abi::errno::*;
use xenner_xen_abi::memory::*;
use xenner_xen_abi::xen::DOMID_SELF;

use super::{Answer, Call};
use crate::frames;
use crate::memory::{HOLE_END, HOLE_START, pfn_to_mfn};

/// Type of RAM in a memory map (`E820_RAM`).
const E820_RAM: u32 = 1;
/// Extents done in one call before a look at the clock would be due; guests ask for fewer.
const MAX_EXTENTS: u64 = 1 << 16;

pub(super) fn memory_op(call: &Call<'_>) -> Answer {
    let [cmd, arg, ..] = call.args;
    let map = &call.domain.map;
    match cmd as u32 {
        XENMEM_INCREASE_RESERVATION => Ok(0),
        XENMEM_DECREASE_RESERVATION => decrease(call, arg),
        XENMEM_POPULATE_PHYSMAP => populate(call, arg),
        XENMEM_MAXIMUM_RAM_PAGE => Ok((map.ram_end / PAGE_SIZE - 1) as i64),
        XENMEM_CURRENT_RESERVATION => {
            own(call.guest.u16(arg)?)?;
            Ok(*pages(call) as i64)
        }
        XENMEM_MAXIMUM_RESERVATION => {
            own(call.guest.u16(arg)?)?;
            Ok(map.pages as i64)
        }
        XENMEM_MAXIMUM_GPFN => {
            own(call.guest.u16(arg)?)?;
            Ok(map.pages as i64 - 1)
        }
        XENMEM_MACHPHYS_MFN_LIST => Ok(0),
        XENMEM_MEMORY_MAP => memory_map(call, arg),
        XENMEM_MACHPHYS_MAPPING => {
            let start = call.domain.m2p_va;
            let out = [start, start + map.m2p_entries * 8, map.m2p_entries - 1];
            let bytes: Vec<u8> = out.iter().flat_map(|v| v.to_le_bytes()).collect();
            call.guest.write(arg, &bytes)?;
            Ok(0)
        }
        XENMEM_MACHINE_MEMORY_MAP
        | XENMEM_SET_MEMORY_MAP
        | XENMEM_SET_POD_TARGET
        | XENMEM_GET_POD_TARGET
        | XENMEM_CLAIM_PAGES
        | XENMEM_ACQUIRE_RESOURCE => Err(EPERM),
        XENMEM_ADD_TO_PHYSMAP | XENMEM_REMOVE_FROM_PHYSMAP => Err(EACCES),
        XENMEM_GET_VNUMAINFO => Err(EOPNOTSUPP),
        _ => Err(ENOSYS),
    }
}

fn own(dom: u16) -> Result<(), i64> {
    if dom == DOMID_SELF || dom == DOMID {
        Ok(())
    } else {
        Err(ESRCH)
    }
}

fn pages<'a>(call: &Call<'a>) -> std::sync::MutexGuard<'a, u64> {
    call.domain
        .hypercalls
        .pages
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// One range of RAM from 0 on: a PV guest's memory has no holes.
fn memory_map(call: &Call<'_>, arg: u64) -> Answer {
    let wanted = call.guest.u32(arg)?;
    let buffer = call.guest.u64(arg.wrapping_add(8))?;
    if wanted >= 1 {
        let mut entry = [0u8; 20];
        entry[8..16].copy_from_slice(&(call.domain.map.pages * PAGE_SIZE).to_le_bytes());
        entry[16..].copy_from_slice(&E820_RAM.to_le_bytes());
        call.guest.write(buffer, &entry)?;
    }
    call.guest.write(arg, &wanted.min(1).to_le_bytes())?;
    Ok(0)
}

/// Whether the domain is over: long lists are not worked through then.
fn over(call: &Call<'_>) -> bool {
    call.domain.end.is_over()
}

struct Reservation {
    list: u64,
    count: u64,
}

/// Reads a `struct xen_memory_reservation` of single pages of this domain.
fn reservation(call: &Call<'_>, arg: u64) -> Result<Option<Reservation>, i64> {
    let g = &call.guest;
    let r = Reservation {
        list: g.u64(arg)?,
        count: g.u64(arg.wrapping_add(8))?,
    };
    own(g.u16(arg.wrapping_add(24))?)?;
    // larger extents mean contiguous machine memory, which only drivers of hardware want
    Ok((g.u32(arg.wrapping_add(16))? == 0 && r.count <= MAX_EXTENTS).then_some(r))
}

/// The machine address of a frame of the domain's RAM.
fn ram(call: &Call<'_>, mfn: u64) -> Option<u64> {
    let ma = mfn.checked_mul(PAGE_SIZE)?;
    (ma < call.domain.map.ram_end && !(HOLE_START..HOLE_END).contains(&ma)).then_some(ma)
}

/// Takes pages back: they must be neither page tables nor mapped writable; their memory goes to
/// the host.
fn decrease(call: &Call<'_>, arg: u64) -> Answer {
    let Some(r) = reservation(call, arg)? else {
        return Ok(0);
    };
    let (m, map) = (&call.domain.memory, &call.domain.map);
    // one vcpu at a time gives or takes
    let mut pages = pages(call);
    for i in 0..r.count {
        let mfn = call.guest.u64(r.list.wrapping_add(i * 8))?;
        let Some(ma) = ram(call, mfn) else {
            return Ok(i as i64);
        };
        let record = frames::record(map, mfn);
        // in one step: another vcpu may be about to map or pin the frame
        if over(call) || !m.replace_u32(record, 0, NOT_OWNED).map_err(|_| EINVAL)? {
            return Ok(i as i64);
        }
        m.store(map.m2p + mfn * 8, u64::MAX).map_err(|_| EINVAL)?;
        m.discard(ma, PAGE_SIZE).map_err(|_| EINVAL)?;
        *pages = pages.saturating_sub(1);
    }
    Ok(r.count as i64)
}

/// Gives pages: each pseudo-physical page gets the machine frame that it had at the start.
fn populate(call: &Call<'_>, arg: u64) -> Answer {
    let Some(r) = reservation(call, arg)? else {
        return Ok(0);
    };
    let (m, map) = (&call.domain.memory, &call.domain.map);
    let mut pages = pages(call);
    let mut lowest = 0;
    for i in 0..r.count {
        let pfn = call.guest.u64(r.list.wrapping_add(i * 8))?;
        if pfn >= map.pages || over(call) {
            return Ok(i as i64);
        }
        let Some(mfn) = absent_frame(call, pfn, &mut lowest)? else {
            return Ok(i as i64);
        };
        // A vcpu that was about to map the frame when it went away may have counted that: no page
        // then, until the mapping is gone.
        let record = frames::record(map, mfn);
        if !m.replace_u32(record, NOT_OWNED, 0).map_err(|_| EINVAL)? {
            return Ok(i as i64);
        }
        m.store(map.m2p + mfn * 8, pfn).map_err(|_| EINVAL)?;
        *pages += 1;
        call.guest
            .write(r.list.wrapping_add(i * 8), &mfn.to_le_bytes())?;
    }
    Ok(r.count as i64)
}

/// A frame that was given back: the page's own one if that is out, else the lowest one. No page
/// below `lowest` is out; it moves up, so that a call looks at each page once.
fn absent_frame(call: &Call<'_>, pfn: u64, lowest: &mut u64) -> Result<Option<u64>, i64> {
    let (m, map) = (&call.domain.memory, &call.domain.map);
    let out = |mfn: u64| -> Result<bool, i64> {
        Ok(m.load_u32(frames::record(map, mfn)).map_err(|_| EINVAL)? == NOT_OWNED)
    };
    let own = pfn_to_mfn(pfn);
    if out(own)? {
        return Ok(Some(own));
    }
    while *lowest < map.pages {
        let mfn = pfn_to_mfn(*lowest);
        if out(mfn)? {
            return Ok(Some(mfn));
        }
        *lowest += 1;
    }
    Ok(None)
}
