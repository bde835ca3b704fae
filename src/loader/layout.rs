//! Places a kernel in pseudo-physical and virtual memory and refuses what
//! does not fit, by the rules of `elf_xen_addr_calc_check` in Xen's
//! `common/libelf`.

use super::WordSize;
use super::elf::Load;
use super::error::Cause;
use super::notes::{PaeMode, XenNotes};

/// Largest span of a kernel in memory (bytes): beyond it no kernel fits its
/// own address space (Linux maps 1 GiB at most).
const MAX_SPAN: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// A kernel's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Lowest `p_paddr`.
    pub(super) pstart: u64,
    /// End of the highest segment, in terms of `p_paddr`.
    pub(super) pend: u64,
    /// Virtual address of the first instruction.
    pub(super) entry: u64,
}

/// Checks and places. `e_entry` is the ELF header's, used without an ENTRY
/// note, the span that of [`span`].
pub(super) fn place(
    word: WordSize,
    e_entry: u64,
    (pstart, pend): (u64, u64),
    notes: &XenNotes,
) -> Result<Layout, Cause> {
    if word == WordSize::Bits32Pae && notes.pae_mode == PaeMode::No {
        return Err(Cause::NoPae);
    }
    let below = pstart.checked_sub(notes.paddr_offset).ok_or_else(|| {
        bad(format!(
            "lowest physical address {pstart:#x} is below PADDR_OFFSET {:#x}",
            notes.paddr_offset
        ))
    })?;
    let wraps = || {
        bad(format!(
            "the kernel at physical address {pstart:#x}, VIRT_BASE {:#x}, ends beyond its address space",
            notes.virt_base
        ))
    };
    let top = match word {
        WordSize::Bits64 => u64::MAX,
        WordSize::Bits32Pae => u64::from(u32::MAX),
    };
    let kstart = notes.virt_base.checked_add(below).ok_or_else(wraps)?;
    let kend = kstart.checked_add(pend - pstart).ok_or_else(wraps)?;
    if kend > top {
        return Err(wraps());
    }
    let entry = notes.entry.unwrap_or(e_entry);
    check_within("entry", entry, kstart, kend)?;
    if let Some(page) = notes.hypercall_page {
        check_within("hypercall page", page, kstart, kend)?;
        let last = page | (PAGE - 1);
        if page % PAGE != 0 || last >= kend.next_multiple_of(PAGE) {
            return Err(bad(format!("hypercall page {page:#x} is not a page of it")));
        }
    }
    if let Some(p2m) = notes.init_p2m
        && (kstart..kend).contains(&p2m)
    {
        return Err(bad(format!("INIT_P2M {p2m:#x} lies within the kernel")));
    }
    Ok(Layout {
        pstart,
        pend,
        entry,
    })
}

/// Lowest and highest physical address of segments that make a kernel.
pub(super) fn span(loads: &[Load]) -> Result<(u64, u64), Cause> {
    let (mut pstart, mut pend, mut copied) = (u64::MAX, 0, 0u64);
    for load in loads {
        let end = load
            .paddr
            .checked_add(load.memsz)
            .ok_or_else(|| bad(format!("the segment at {:#x} ends beyond 2^64", load.paddr)))?;
        if load.filesz > load.memsz {
            return Err(bad(format!(
                "the segment at {:#x} has {} bytes for {} of memory",
                load.paddr, load.filesz, load.memsz
            )));
        }
        pstart = pstart.min(load.paddr);
        pend = pend.max(end);
        copied = copied.saturating_add(load.memsz);
    }
    if pend <= pstart {
        return Err(bad("nothing to load".to_owned()));
    }
    let span = pend - pstart;
    if span > MAX_SPAN {
        return Err(Cause::TooLarge {
            what: "the kernel in memory",
            size: span,
            limit: MAX_SPAN,
        });
    }
    if copied > 2 * span {
        return Err(bad("segments overlap too often".to_owned()));
    }
    Ok((pstart, pend))
}

fn check_within(what: &str, at: u64, kstart: u64, kend: u64) -> Result<(), Cause> {
    if (kstart..kend).contains(&at) {
        return Ok(());
    }
    Err(bad(format!(
        "{what} {at:#x} is outside the kernel, {kstart:#x} to {kend:#x}"
    )))
}

fn bad(what: String) -> Cause {
    Cause::BadLayout(what)
}
