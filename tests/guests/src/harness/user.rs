//! One user address space: a code page, data pages, a page that may not be
//! executed and one that may not be written. Addresses below are user
//! addresses; the kernel reaches the pages through the initial mapping.

use super::machine::mfn_of;
use super::paging::{self, A, D, NX, P, RW, TABLE, US, entry, index};
use super::xen::mmuext;
use crate::arch::memory::{self, PAGE};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use xenner_xen_abi::xen::MMUEXT_NEW_USER_BASEPTR;

/// Code page.
pub const CODE: u64 = 0x40_0000;
/// Two writable pages.
pub const DATA: u64 = 0x40_1000;
/// Their end, top of the user stack.
pub const STACK_TOP: u64 = 0x40_3000;
/// A page without write permission.
pub const RO: u64 = 0x40_3000;
/// A page without execute permission.
pub const NOEXEC: u64 = 0x40_4000;
/// An address that is not mapped.
pub const NONE: u64 = 0x40_8000;

static ALIAS: AtomicU64 = AtomicU64::new(0);
static L4: AtomicU64 = AtomicU64::new(0);

/// Build the address space and load it; 0 or the first error.
pub fn init() -> i64 {
    match build() {
        Ok(l4) => {
            L4.store(l4, Relaxed);
            load()
        }
        Err(e) => e,
    }
}

/// Make it the user address space of this vCPU.
pub fn load() -> i64 {
    mmuext(MMUEXT_NEW_USER_BASEPTR, mfn_of(L4.load(Relaxed)), 0)
}

/// Address of its L4 table.
pub fn l4() -> u64 {
    L4.load(Relaxed)
}

/// Kernel address of the code page.
pub fn code_alias() -> u64 {
    ALIAS.load(Relaxed)
}

/// Kernel address of a user address.
pub fn alias(va: u64) -> u64 {
    code_alias() + (va - CODE)
}

fn build() -> Result<u64, i64> {
    let pages = memory::alloc_pages(5).ok_or(-12)?;
    ALIAS.store(pages, Relaxed);
    let e = |i: u64, flags: u64| {
        (
            index(CODE, 1) + i,
            entry(mfn_of(pages + i * PAGE), flags | P | US | A | D),
        )
    };
    let l1 = paging::table(&[
        e(0, 0),
        e(1, RW | NX),
        e(2, RW | NX),
        e(3, NX),
        e(4, RW | NX),
    ])?;
    let up = |level, t| (index(CODE, level), entry(mfn_of(t), TABLE));
    let l2 = paging::table(&[up(2, l1)])?;
    let l3 = paging::table(&[up(3, l2)])?;
    paging::pinned(4, &[up(4, l3)])
}
