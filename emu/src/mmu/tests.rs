//! The page-table rules, on an arena that stands for machine memory.

use core::sync::atomic::Ordering::Relaxed;

use xenner_emu_abi::frame::{self, NOT_OWNED, PINNED, TYPE_L1, TYPE_L4, TYPE_NONE};
use xenner_emu_abi::pte::{A, NX, P, PCD, PSE, RW, US};
use xenner_xen_abi::errno::{EBUSY, EINVAL};

use super::update::{self, Store};
use super::{rules, types};
use crate::mem::{entry, frame_record, host};

/// Frames of the little address space: L4, L3, L2, L1, and pages.
const L4: u64 = 1;
const L3: u64 = 2;
const L2: u64 = 3;
const L1: u64 = 4;
const PAGE: u64 = 8;

fn set(table: u64, i: usize, e: u64) {
    entry(table, i).store(e, Relaxed);
}

fn get(table: u64, i: usize) -> u64 {
    entry(table, i).load(Relaxed)
}

fn record(mfn: u64) -> (u32, u32) {
    let r = frame_record(mfn).load(Relaxed);
    (frame::kind(r), frame::count(r))
}

/// One page mapped at slot 0 of every level.
fn space() {
    host::install(32, 4);
    set(L4, 0, L3 << 12 | P | RW);
    set(L3, 0, L2 << 12 | P | RW);
    set(L2, 0, L1 << 12 | P | RW);
    set(L1, 0, PAGE << 12 | P | RW | A);
    set(L1, 511, (PAGE + 1) << 12 | P | NX);
}

#[test]
fn pin_types_all_levels_and_unpin_undoes_it() {
    space();
    assert_eq!(types::pin(&types::lock(), L4, TYPE_L4), Ok(()));
    assert_eq!(
        [L4, L3, L2, L1].map(record),
        [(4, 1), (3, 1), (2, 1), (1, 1)]
    );
    assert_eq!(
        record(PAGE),
        (TYPE_NONE, 1),
        "a writable mapping is counted"
    );
    assert_eq!(record(PAGE + 1), (TYPE_NONE, 0), "a read-only one is not");
    assert_eq!(
        get(L1, 0),
        PAGE << 12 | P | RW | A | US,
        "ring 3 may use it"
    );
    assert_ne!(get(L4, 256), 0, "the emulator's slots are there");
    assert_eq!(
        types::pin(&types::lock(), L4, TYPE_L4),
        Err(EINVAL),
        "pinned already"
    );
    assert_eq!(types::unpin(&types::lock(), L4), Ok(()));
    assert_eq!([L4, L3, L2, L1, PAGE].map(record), [(0, 0); 5]);
    assert_eq!(types::unpin(&types::lock(), L4), Err(EINVAL));
}

#[test]
fn a_failed_pin_leaves_nothing_behind() {
    space();
    set(L1, 300, 31 << 20 | P);
    set(L1, 5, (PAGE + 2) << 12 | P | RW);
    assert_eq!(types::pin(&types::lock(), L4, TYPE_L4), Err(EINVAL));
    assert_eq!([L4, L3, L2, L1, PAGE, PAGE + 2].map(record), [(0, 0); 6]);
    assert_eq!(frame_record(L4).load(Relaxed) & PINNED, 0);
}

#[test]
fn tables_are_not_mapped_writable() {
    space();
    set(L1, 1, L2 << 12 | P | RW);
    assert_eq!(types::pin(&types::lock(), L4, TYPE_L4), Err(EINVAL));
    set(L1, 1, L2 << 12 | P);
    assert_eq!(types::pin(&types::lock(), L4, TYPE_L4), Ok(()));
    let at = (L1 << 12) + 8;
    assert_eq!(
        update::entry(at, L2 << 12 | P | RW, Store::Plain),
        Err(EBUSY)
    );
    // and what is mapped writable does not become a table
    assert_eq!(types::pin(&types::lock(), PAGE, TYPE_L1), Err(EINVAL));
    assert_eq!(
        update::entry(L1 << 12, 0, Store::Plain),
        Ok(PAGE << 12 | P | RW | A | US)
    );
    assert_eq!(types::pin(&types::lock(), PAGE, TYPE_L1), Ok(()));
}

#[test]
fn one_frame_one_type() {
    space();
    assert_eq!(types::pin(&types::lock(), L4, TYPE_L4), Ok(()));
    assert_eq!(types::pin(&types::lock(), L2, TYPE_L1), Err(EINVAL));
    assert_eq!(
        types::pin(&types::lock(), L1, TYPE_L1),
        Ok(()),
        "one more reference"
    );
    assert_eq!(record(L1), (1, 2));
    // an L2 as L3
    let at = (L4 << 12) + 8;
    assert_eq!(
        update::entry(at, L2 << 12 | P | RW, Store::Plain),
        Err(EINVAL)
    );
    assert_eq!(update::entry(at, L3 << 12 | P | RW, Store::Plain), Ok(0));
    assert_eq!(record(L3), (3, 2));
    assert_eq!(
        update::entry(at, 0, Store::Plain),
        Ok(L3 << 12 | P | RW | US | A)
    );
    assert_eq!(record(L3), (3, 1));
}

#[test]
fn entries_that_are_refused() {
    space();
    for bad in [
        PAGE << 12 | P | PSE,
        PAGE << 12 | P | PCD,
        PAGE << 12 | P | 1 << 59,
        28 << 30 | P,
        0x1f << 40 | P,
    ] {
        assert_eq!(rules::take_l1(bad), Err(EINVAL), "{bad:#x}");
    }
    frame_record(PAGE).store(NOT_OWNED, Relaxed);
    assert_eq!(rules::take_l1(PAGE << 12 | P), Err(EINVAL));
    assert_eq!(rules::take_l1(PAGE << 12 | P | RW), Err(EINVAL));
    assert_eq!(frame_record(PAGE).load(Relaxed), NOT_OWNED);
    assert_eq!(
        rules::take_l1(29 << 12 | P | RW),
        Ok(29 << 12 | P | RW | US),
        "shared frames"
    );
    assert_eq!(
        rules::take_l1(0xdead_0000),
        Ok(0xdead_0000),
        "what is not present is free"
    );
    assert!(rules::upper(L1 << 12 | P | PSE, 2).is_err());
}

#[test]
fn the_hypervisors_slots_are_not_the_guests() {
    space();
    set(L4, 260, PAGE << 12 | P | RW);
    assert_eq!(types::pin(&types::lock(), L4, TYPE_L4), Ok(()));
    assert_ne!(get(L4, 260), PAGE << 12 | P | RW);
    let at = (L4 << 12) + 260 * 8;
    assert_eq!(update::entry(at, 0, Store::Plain), Err(EINVAL));
}

#[test]
fn stores_keep_what_they_should() {
    space();
    assert_eq!(types::pin(&types::lock(), L1, TYPE_L1), Ok(()));
    let at = L1 << 12;
    let old = PAGE << 12 | P | RW | A | US;
    assert_eq!(
        update::entry(at, (PAGE + 2) << 12 | P, Store::IfEqual(1)),
        Ok(old)
    );
    assert_eq!(get(L1, 0), old, "compared unequal");
    assert_eq!(record(PAGE), (TYPE_NONE, 1));
    assert_eq!(
        update::entry(at, (PAGE + 2) << 12 | P | RW, Store::PreserveAd),
        Ok(old)
    );
    assert_eq!(get(L1, 0), (PAGE + 2) << 12 | P | RW | US | A);
    assert_eq!([record(PAGE), record(PAGE + 2)], [(0, 0), (0, 1)]);
    assert_eq!(
        update::entry(PAGE << 12, 0x1234, Store::Plain),
        Ok(0),
        "ordinary memory"
    );
    assert_eq!(update::entry(40 << 12, 0, Store::Plain), Err(EINVAL));
}
