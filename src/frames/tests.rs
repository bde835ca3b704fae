use super::*;
use xenner_emu_abi::frame::TYPE_L1;
use xenner_emu_abi::pte::{NX, PCD};

const TABLE: u64 = 3;
const FIRST: u64 = 1024;

/// A domain whose frame [`TABLE`] maps 512 frames from [`FIRST`] on, writable.
fn table() -> (Memory, MachineMap) {
    let map = MachineMap::new(2048, 1);
    let memory = Memory::new(map.pages, map.start, map.extra()).unwrap();
    for i in 0..512 {
        set(&memory, i, (FIRST + i) << 12 | P | RW | NX);
    }
    (memory, map)
}

fn set(memory: &Memory, i: u64, entry: u64) {
    memory.store(TABLE * PAGE_SIZE + i * 8, entry).unwrap();
}

fn entry(memory: &Memory, i: u64) -> u64 {
    memory.load(TABLE * PAGE_SIZE + i * 8).unwrap()
}

fn count(memory: &Memory, map: &MachineMap, i: u64) -> u32 {
    memory.load_u32(record(map, FIRST + i)).unwrap() / COUNT_ONE
}

#[test]
fn a_whole_table_is_taken() {
    let (memory, map) = table();
    set(&memory, 7, (FIRST + 7) << 12 | P | NX);
    assert_eq!(take_ordinary(&memory, &map, TABLE), 512);
    for i in 0..512 {
        assert_eq!(entry(&memory, i) & US, US);
        assert_eq!(count(&memory, &map, i), u32::from(i != 7));
    }
}

#[test]
fn the_first_other_entry_ends_it() {
    type Change = fn(&Memory, &MachineMap);
    let others: [Change; 5] = [
        |memory, _| set(memory, 300, 0),
        |memory, _| set(memory, 300, (FIRST + 300) << 12 | P | PCD),
        |memory, map| set(memory, 300, map.ram_end | P | RW),
        |memory, map| {
            memory
                .store_u32(record(map, FIRST + 300), TYPE_L1 | COUNT_ONE)
                .unwrap()
        },
        |memory, map| {
            memory
                .store_u32(record(map, FIRST + 300), NOT_OWNED)
                .unwrap()
        },
    ];
    for other in others {
        let (memory, map) = table();
        other(&memory, &map);
        let before = entry(&memory, 300);
        assert_eq!(take_ordinary(&memory, &map, TABLE), 300);
        assert_eq!(entry(&memory, 300), before);
        assert_eq!(count(&memory, &map, 299), 1);
        assert_eq!(count(&memory, &map, 301), 0);
    }
}

#[test]
fn a_frame_that_is_not_there_has_no_entries() {
    let (memory, map) = table();
    for mfn in [map.ram_end / PAGE_SIZE, 1 << 40, u64::MAX] {
        assert_eq!(take_ordinary(&memory, &map, mfn), 0);
    }
}
