//! Walks of hostile page tables.

use super::*;
use xenner_emu_abi::frame;
use xenner_emu_abi::pte::{A, D, NX, US};

const PAGES: u64 = 64;
const L4: u64 = 1;
const L3: u64 = 2;
const L2: u64 = 3;
const L1: u64 = 4;
/// Mapped writable at VA, read-only at the page behind it.
const DATA: u64 = 8;
const READ_ONLY: u64 = 9;
const VA: u64 = 0xffff_ffff_8000_0000;
const TABLE: u64 = P | RW | US | A | D;

struct Space {
    memory: Memory,
    map: MachineMap,
}

impl Space {
    /// Two pages at VA: writable, then read-only. Nothing behind them.
    fn new() -> Self {
        let map = MachineMap::new(PAGES, 1);
        let memory = Memory::new(PAGES, map.start, map.extra()).unwrap();
        let space = Self { memory, map };
        space.set(L4, 511, L3 << 12 | TABLE);
        space.set(L3, 510, L2 << 12 | TABLE);
        space.set(L2, 0, L1 << 12 | TABLE);
        space.set(L1, 0, DATA << 12 | P | RW | US | NX);
        space.set(L1, 1, READ_ONLY << 12 | P | US);
        space
    }

    fn set(&self, table: u64, i: u64, e: u64) {
        self.memory.store(table * PAGE_SIZE + i * 8, e).unwrap();
    }

    fn va(&self) -> GuestVa<'_> {
        // flags in the low bits of CR3 do not matter
        GuestVa::new(&self.memory, &self.map, L4 << 12 | 0x18)
    }

    fn translate(&self, va: u64, write: bool) -> Result<u64, Fault> {
        self.va().translate(va, write)
    }
}

#[test]
fn pages_are_found() {
    let s = Space::new();
    assert_eq!(s.translate(VA, true), Ok(DATA << 12));
    assert_eq!(s.translate(VA + 0xfff, true), Ok((DATA << 12) + 0xfff));
    assert_eq!(
        s.translate(VA + 0x1234, false),
        Ok((READ_ONLY << 12) + 0x234)
    );
    assert_eq!(i64::from(Fault), EFAULT);
}

#[test]
fn what_is_not_there_is_a_fault() {
    let s = Space::new();
    for va in [0, VA + 0x2000, VA + (1 << 21), VA - 1, u64::MAX] {
        assert_eq!(s.translate(va, false), Err(Fault), "{va:#x}");
    }
    for (table, i) in [(L4, 511), (L3, 510), (L2, 0), (L1, 0)] {
        let s = Space::new();
        s.set(table, i, 0xff_f000 & !P);
        assert_eq!(s.translate(VA, false), Err(Fault), "table {table}");
    }
}

#[test]
fn read_only_at_any_level_is_read_only() {
    let s = Space::new();
    assert_eq!(s.translate(VA + 0x1000, true), Err(Fault));
    for (table, i, next) in [(L4, 511, L3), (L3, 510, L2), (L2, 0, L1)] {
        let s = Space::new();
        s.set(table, i, next << 12 | (TABLE & !RW));
        assert_eq!(s.translate(VA, true), Err(Fault), "table {table}");
        assert_eq!(s.translate(VA, false), Ok(DATA << 12), "table {table}");
    }
}

#[test]
fn large_pages_are_not_followed() {
    for (table, i, next) in [(L4, 511, L3), (L3, 510, L2), (L2, 0, L1)] {
        let s = Space::new();
        s.set(table, i, next << 12 | TABLE | PSE);
        assert_eq!(s.translate(VA, false), Err(Fault), "table {table}");
    }
    // in an L1 the bit is PAT's
    let s = Space::new();
    s.set(L1, 0, DATA << 12 | P | RW | PSE);
    assert_eq!(s.translate(VA, true), Ok(DATA << 12));
}

#[test]
fn the_hypervisors_addresses_are_not_the_guests() {
    let s = Space::new();
    // whatever stands in the slots
    for slot in 0..512 {
        s.set(L4, slot, L3 << 12 | TABLE);
    }
    for slot in 0..512 {
        s.set(L3, slot, L2 << 12 | TABLE);
    }
    for va in [0xffff_8000_0000_0000, 0xffff_87ff_c000_0000] {
        assert_eq!(s.translate(va, false), Err(Fault), "{va:#x}");
    }
    assert!(s.translate(0xffff_8800_0000_0000, false).is_ok());
    assert!(s.translate(0x7fff_c000_0000, false).is_ok());
    // not canonical: the same slots by another name
    for va in [
        0x8000_0000_0000,
        0x1_0000_0000_0000,
        VA ^ 1 << 63,
        0xfffe_ffff_8000_0000,
    ] {
        assert_eq!(s.translate(va, false), Err(Fault), "{va:#x}");
    }
}

#[test]
fn tables_and_pages_lie_in_the_guests_memory() {
    let hostile = |map: &MachineMap| {
        [
            map.ram_end,
            map.image,
            map.areas,
            map.tables,
            map.shared_info - PAGE_SIZE,
            map.shared_end,
            map.end,
            0xfee0_0000,
            pte::ADDR,
        ]
    };
    for (table, i) in [(L4, 511), (L3, 510), (L2, 0), (L1, 0)] {
        let s = Space::new();
        for ma in hostile(&s.map) {
            s.set(table, i, ma | TABLE);
            assert_eq!(
                s.translate(VA, false),
                Err(Fault),
                "{ma:#x} in table {table}"
            );
        }
    }
    let s = Space::new();
    for cr3 in hostile(&s.map) {
        let va = GuestVa::new(&s.memory, &s.map, cr3);
        assert_eq!(va.translate(VA, false), Err(Fault), "{cr3:#x}");
    }
    // shared_info and grant frames may be mapped
    for ma in [s.map.shared_info, s.map.shared_end - PAGE_SIZE] {
        s.set(L1, 0, ma | P | RW);
        assert_eq!(s.translate(VA + 8, true), Ok(ma + 8));
    }
}

#[test]
fn accesses_cross_pages_wherever_those_lie() {
    let s = Space::new();
    s.set(L1, 1, (DATA - 1) << 12 | P | RW);
    let text: Vec<u8> = (0..200).collect();
    s.va().write(VA + 0x1000 - 100, &text).unwrap();
    let mut back = [0; 200];
    s.va().read(VA + 0x1000 - 100, &mut back).unwrap();
    assert_eq!(back[..], text);
    let mut half = [0; 100];
    s.memory.read((DATA - 1) << 12, &mut half).unwrap();
    assert_eq!(
        half[..],
        text[100..],
        "the second page lies below the first"
    );
    assert_eq!(s.va().u16(VA + 0xfff), Ok(u16::from_le_bytes([99, 100])));
    assert_eq!(
        s.va().u64(VA + 0x1000),
        Ok(u64::from_le_bytes(std::array::from_fn(|i| 100 + i as u8)))
    );
    assert_eq!(
        s.va().u32(VA + 0x1000),
        Ok(u32::from_le_bytes([100, 101, 102, 103]))
    );
}

#[test]
fn a_fault_in_the_middle_keeps_what_was_before_it() {
    let s = Space::new();
    assert_eq!(s.va().write(VA + 0xffe, b"abcd"), Err(Fault));
    assert_eq!(s.va().u16(VA + 0xffe), Ok(u16::from_le_bytes(*b"ab")));
    assert_eq!(s.va().u16(VA + 0x1000), Ok(0), "the read-only page");
    let mut buf = [0; 8];
    assert_eq!(s.va().read(VA + 0x1ffc, &mut buf), Err(Fault));
}

#[test]
fn accesses_do_not_wrap_around() {
    let s = Space::new();
    s.set(L3, 511, L2 << 12 | TABLE);
    s.set(L2, 511, L1 << 12 | TABLE);
    s.set(L1, 511, DATA << 12 | P | RW);
    assert!(s.translate(u64::MAX, true).is_ok());
    assert_eq!(s.va().write(u64::MAX - 3, &[1; 8]), Err(Fault));
    assert!(s.va().write(u64::MAX - 3, &[1; 4]).is_ok());
    assert!(s.va().read(u64::MAX, &mut []).is_ok());
}

#[test]
fn a_frame_is_held_while_it_is_written() {
    let s = Space::new();
    let record = s.map.frame_table + DATA * 4;
    s.memory.store_u32(record, frame::COUNT_ONE).unwrap();
    let held = Held::new(&s.memory, &s.map, DATA << 12).unwrap();
    assert_eq!(s.memory.load_u32(record).unwrap(), 2 * frame::COUNT_ONE);
    drop(held);
    assert_eq!(s.va().write(VA + 8, b"x"), Ok(()));
    assert_eq!(s.memory.load_u32(record).unwrap(), frame::COUNT_ONE);
    // the mapping is still there, but another vcpu made a page table of the frame meanwhile
    for typed in [
        frame::TYPE_L1 | frame::COUNT_ONE,
        frame::TYPE_SEGDESC | frame::COUNT_ONE,
        frame::NOT_OWNED,
        frame::FULL,
    ] {
        s.memory.store_u32(record, typed).unwrap();
        assert_eq!(s.va().write(VA + 8, b"y"), Err(Fault), "{typed:#x}");
        assert_eq!(s.memory.load_u32(record).unwrap(), typed);
    }
    let mut byte = [0];
    s.va().read(VA + 8, &mut byte).unwrap();
    assert_eq!(&byte, b"x");
    // shared frames have no record
    assert!(Held::new(&s.memory, &s.map, s.map.shared_info).is_ok());
}
