use super::*;
use xenner_emu_abi::frame::{COUNT_ONE, FULL};
use xenner_pvdevices::domain::Grant;

const FRAME: u32 = 5;
const GREF: u32 = 9;

fn table() -> (Memory, MachineMap, Arc<dyn GrantTable>) {
    let map = MachineMap::new(256, 1);
    let memory = Memory::new(map.pages, map.start, map.extra()).unwrap();
    let grants = Grants::new(memory.clone(), map);
    (memory, map, grants)
}

fn grant(memory: &Memory, map: &MachineMap, gref: u32, flags: u16, frame: u32) {
    let at = map.grant_frames + u64::from(gref) * 8;
    memory.store_u32(at + 4, frame).unwrap();
    memory.store_u32(at, u32::from(flags)).unwrap();
}

fn flags(memory: &Memory, map: &MachineMap) -> u16 {
    let word = memory.load_u32(map.grant_frames + u64::from(GREF) * 8);
    word.unwrap() as u16
}

fn record(memory: &Memory, map: &MachineMap) -> u32 {
    memory
        .load_u32(map.frame_table + u64::from(FRAME) * 4)
        .unwrap()
}

#[test]
fn a_mapping_shows_in_the_entry_and_in_the_frame_table() {
    let (memory, map, grants) = table();
    grant(&memory, &map, GREF, GTF_PERMIT_ACCESS, FRAME);
    let read = Grant::map(&grants, GREF, Access::Read).unwrap();
    assert_eq!(flags(&memory, &map), GTF_PERMIT_ACCESS | GTF_READING);
    let write = Grant::map(&grants, GREF, Access::Write).unwrap();
    let both = GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING;
    assert_eq!(flags(&memory, &map), both);
    assert_eq!(record(&memory, &map), COUNT_ONE);
    assert!(write.copy_in(8, b"hello"));
    let mut seen = [0; 5];
    memory
        .read(u64::from(FRAME) * PAGE_SIZE + 8, &mut seen)
        .unwrap();
    assert_eq!(&seen, b"hello");
    assert!(!read.copy_in(0, b"x"), "mapped for reading only");
    assert!(!write.copy_in(4094, b"xyz"), "leaves the page");
    drop(write);
    assert_eq!(flags(&memory, &map), GTF_PERMIT_ACCESS | GTF_READING);
    assert_eq!(record(&memory, &map), 0);
    drop(read);
    assert_eq!(flags(&memory, &map), GTF_PERMIT_ACCESS);
}

#[test]
fn what_is_not_granted_is_not_mapped() {
    let (memory, map, grants) = table();
    let try_map = |gref, access| Grant::map(&grants, gref, access).map(|_| ()).unwrap_err();
    assert_eq!(try_map(GREF, Access::Read), GrantError::BadReference(GREF));
    let beyond = ENTRIES as u32;
    assert_eq!(
        try_map(beyond, Access::Read),
        GrantError::BadReference(beyond)
    );
    grant(&memory, &map, GREF, GTF_PERMIT_ACCESS | GTF_READONLY, FRAME);
    assert_eq!(try_map(GREF, Access::Write), GrantError::ReadOnly(GREF));
    // for another domain
    let at = map.grant_frames + u64::from(GREF) * 8;
    memory
        .store_u32(at, u32::from(GTF_PERMIT_ACCESS) | 3 << 16)
        .unwrap();
    assert_eq!(try_map(GREF, Access::Read), GrantError::BadReference(GREF));
}

#[test]
fn frames_that_cannot_be_shared_leave_no_trace() {
    let (memory, map, grants) = table();
    let record = map.frame_table + u64::from(FRAME) * 4;
    for (frame, kind) in [(FRAME, 1), (FRAME, NOT_OWNED), (256, 0), (u32::MAX, 0)] {
        memory.store_u32(record, kind).unwrap();
        grant(&memory, &map, GREF, GTF_PERMIT_ACCESS, frame);
        let refused = Grant::map(&grants, GREF, Access::Write);
        assert_eq!(refused.map(|_| ()).unwrap_err(), GrantError::BadFrame(GREF));
        assert_eq!(flags(&memory, &map), GTF_PERMIT_ACCESS);
        assert_eq!(memory.load_u32(record).unwrap(), kind);
    }
    // a page table may be read
    memory.store_u32(record, 1).unwrap();
    grant(&memory, &map, GREF, GTF_PERMIT_ACCESS, FRAME);
    drop(Grant::map(&grants, GREF, Access::Read).unwrap());
    // the count stops long before it could wrap
    memory.store_u32(record, FULL).unwrap();
    assert!(Grant::map(&grants, GREF, Access::Write).is_err());
}

#[test]
fn an_entry_in_use_keeps_its_frame() {
    let (memory, map, grants) = table();
    grant(&memory, &map, GREF, GTF_PERMIT_ACCESS, FRAME);
    let first = Grant::map(&grants, GREF, Access::Write).unwrap();
    grant(&memory, &map, GREF, GTF_PERMIT_ACCESS, 77);
    let second = Grant::map(&grants, GREF, Access::Write).unwrap();
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!(record(&memory, &map), 2 * COUNT_ONE);
    drop((first, second));
    assert_eq!(record(&memory, &map), 0);
}
