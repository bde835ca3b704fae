//! The machine memory map of a domain: RAM, then what the emulator needs.
//!
//! From a large page above RAM on: the emulator's image and information pages, vcpu areas,
//! shared_info and grant table frames (the guest may map these), the emulator's page tables,
//! the frame table, the machine-to-physical table. What the emulator reaches by virtual address
//! has the offset of `xenner_emu_abi::layout`.

use xenner_emu_abi::area::AREA_SIZE;
use xenner_emu_abi::layout::{
    BOOT_INFO_VA, EMU_VA, FRAME_TABLE_VA, GRANT_FRAMES, INFO_PAGES, PAGE_SIZE, UNMAPPED_OFFSET,
    VCPU_AREA_VA, WINDOW_SIZE,
};

use crate::memory::{HOLE_END, HOLE_START, LARGE_PAGE, ram_end};

/// Machine addresses of everything, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct MachineMap {
    /// Pages of RAM.
    pub pages: u64,
    /// vcpus.
    pub vcpus: u64,
    /// First address above RAM.
    pub ram_end: u64,
    /// Start of the emulator's memory, on a large page.
    pub start: u64,
    /// shared_info; the first of the frames that the guest may map.
    pub shared_info: u64,
    /// The first grant table frame.
    pub grant_frames: u64,
    /// First address above the frames that the guest may map.
    pub shared_end: u64,
    /// The emulator's image.
    pub image: u64,
    /// Boot information, event channel table, CPUID table.
    pub info: u64,
    /// A page of zeroes.
    pub zero: u64,
    /// The page that ring 3 may execute.
    pub trampoline: u64,
    /// vcpu areas.
    pub areas: u64,
    /// L1 tables of the descriptor windows.
    pub windows: u64,
    /// The emulator's other page tables.
    pub tables: u64,
    /// First address above them.
    pub tables_end: u64,
    /// The frame table.
    pub frame_table: u64,
    /// The machine-to-physical table.
    pub m2p: u64,
    /// Entries of it.
    pub m2p_entries: u64,
    /// First address above all.
    pub end: u64,
}

/// vcpus whose windows one L1 table maps.
pub const WINDOWS_PER_TABLE: u64 = LARGE_PAGE / WINDOW_SIZE;

impl MachineMap {
    /// Lays a domain out.
    pub fn new(pages: u64, vcpus: u64) -> Self {
        let ram_end = ram_end(pages);
        let sizes = |start: u64| Self::at(pages, vcpus, ram_end, start);
        let map = sizes(ram_end.next_multiple_of(LARGE_PAGE));
        // nothing of the emulator lies in the hole either
        if ram_end <= HOLE_START && map.end > HOLE_START {
            sizes(HOLE_END)
        } else {
            map
        }
    }

    fn at(pages: u64, vcpus: u64, ram_end: u64, start: u64) -> Self {
        let place = |va: u64| start + (va - EMU_VA);
        let info = place(BOOT_INFO_VA);
        let mut next = start + UNMAPPED_OFFSET;
        let mut take = |bytes: u64| {
            let at = next;
            next += bytes.next_multiple_of(PAGE_SIZE);
            at
        };
        let shared_info = take(PAGE_SIZE);
        let grant_frames = take(GRANT_FRAMES * PAGE_SIZE);
        let shared_end = take(0);
        let zero = take(PAGE_SIZE);
        let trampoline = take(PAGE_SIZE);
        let windows = take(vcpus.div_ceil(WINDOWS_PER_TABLE) * PAGE_SIZE);
        let tables = take(0);
        let tables_end = place(FRAME_TABLE_VA);
        let frame_table = tables_end;
        let m2p = frame_table + (ram_end / PAGE_SIZE * 4).next_multiple_of(LARGE_PAGE);
        // the table covers the machine memory, itself included
        let mut m2p_bytes = LARGE_PAGE;
        while m2p_bytes / 8 * PAGE_SIZE < m2p + m2p_bytes {
            m2p_bytes += LARGE_PAGE;
        }
        let end = m2p + m2p_bytes;
        Self {
            pages,
            vcpus,
            ram_end,
            start,
            shared_info,
            grant_frames,
            shared_end,
            image: start,
            info,
            zero,
            trampoline,
            areas: place(VCPU_AREA_VA),
            windows,
            tables,
            tables_end,
            frame_table,
            m2p,
            m2p_entries: end / PAGE_SIZE,
            end,
        }
    }

    /// Bytes of the emulator's memory.
    pub fn extra(&self) -> u64 {
        self.end - self.start
    }
}

const _: () = assert!(BOOT_INFO_VA + INFO_PAGES * PAGE_SIZE <= VCPU_AREA_VA);
const _: () = assert!(VCPU_AREA_VA + AREA_SIZE <= EMU_VA + UNMAPPED_OFFSET);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lies_in_the_hole() {
        for mib in [32, 512, 3000, 4060, 4063, 4064, 4096, 16384, 131072] {
            let m = MachineMap::new(mib << 8, 128);
            assert!(m.start >= m.ram_end && m.start.is_multiple_of(LARGE_PAGE));
            assert!(m.end <= HOLE_START || m.start >= HOLE_END, "{mib}: {m:x?}");
            assert!(m.m2p_entries * 8 <= m.end - m.m2p);
            assert!(m.frame_table >= m.tables_end && m.tables < m.tables_end);
        }
    }
}
