//! `memory.h`: `memory_op` commands and their arguments.

use core::mem::offset_of;

/// Allocate extents.
pub const XENMEM_INCREASE_RESERVATION: u32 = 0;
/// Give extents back.
pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
/// Highest frame of the machine.
pub const XENMEM_MAXIMUM_RAM_PAGE: u32 = 2;
/// Pages of the domain.
pub const XENMEM_CURRENT_RESERVATION: u32 = 3;
/// Pages that it may have.
pub const XENMEM_MAXIMUM_RESERVATION: u32 = 4;
/// Frames of the machine-to-physical table.
pub const XENMEM_MACHPHYS_MFN_LIST: u32 = 5;
/// Allocate extents at given frames.
pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
/// Map a special page.
pub const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
/// The domain's memory map.
pub const XENMEM_MEMORY_MAP: u32 = 9;
/// The machine's memory map.
pub const XENMEM_MACHINE_MEMORY_MAP: u32 = 10;
/// Swap extents.
pub const XENMEM_EXCHANGE: u32 = 11;
/// Where the machine-to-physical table is.
pub const XENMEM_MACHPHYS_MAPPING: u32 = 12;
/// Set a domain's memory map.
pub const XENMEM_SET_MEMORY_MAP: u32 = 13;
/// Highest frame of a domain.
pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
/// Unmap a page.
pub const XENMEM_REMOVE_FROM_PHYSMAP: u32 = 15;
/// Populate-on-demand target.
pub const XENMEM_SET_POD_TARGET: u32 = 16;
/// Populate-on-demand target.
pub const XENMEM_GET_POD_TARGET: u32 = 17;
/// Memory sharing.
pub const XENMEM_GET_SHARING_FREED_PAGES: u32 = 18;
/// Memory sharing.
pub const XENMEM_GET_SHARING_SHARED_PAGES: u32 = 19;
/// Paging.
pub const XENMEM_PAGING_OP: u32 = 20;
/// Access control.
pub const XENMEM_ACCESS_OP: u32 = 21;
/// Memory sharing.
pub const XENMEM_SHARING_OP: u32 = 22;
/// Map special pages.
pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u32 = 23;
/// Reserve pages.
pub const XENMEM_CLAIM_PAGES: u32 = 24;
/// Frames of the 32-bit machine-to-physical table.
pub const XENMEM_MACHPHYS_COMPAT_MFN_LIST: u32 = 25;
/// Virtual NUMA.
pub const XENMEM_GET_VNUMAINFO: u32 = 26;
/// Reserved device memory.
pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u32 = 27;
/// Map a resource.
pub const XENMEM_ACQUIRE_RESOURCE: u32 = 28;

/// `MemoryMapEntry::kind`: RAM.
pub const XEN_E820_RAM: u32 = 1;
/// `MemoryMapEntry::kind`: reserved.
pub const XEN_E820_RESERVED: u32 = 2;

/// `xen_memory_reservation`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryReservation {
    /// Address of the list of frames.
    pub extent_start: u64,
    /// Its length.
    pub nr_extents: u64,
    /// Log2 of the pages of one extent.
    pub extent_order: u32,
    /// Address bits and NUMA node.
    pub mem_flags: u32,
    /// Domain.
    pub domid: u16,
    /// Padding.
    pub pad: [u16; 3],
}

const _: () = assert!(size_of::<MemoryReservation>() == 32);
const _: () = assert!(offset_of!(MemoryReservation, extent_start) == 0);
const _: () = assert!(offset_of!(MemoryReservation, nr_extents) == 8);
const _: () = assert!(offset_of!(MemoryReservation, extent_order) == 16);
const _: () = assert!(offset_of!(MemoryReservation, mem_flags) == 20);
const _: () = assert!(offset_of!(MemoryReservation, domid) == 24);
const _: () = assert!(offset_of!(MemoryReservation, pad) == 26);

/// `xen_memory_exchange`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryExchange {
    /// What is given.
    pub input: MemoryReservation,
    /// What is got.
    pub output: MemoryReservation,
    /// Out: input extents done.
    pub nr_exchanged: u64,
}

const _: () = assert!(size_of::<MemoryExchange>() == 72);
const _: () = assert!(offset_of!(MemoryExchange, input) == 0);
const _: () = assert!(offset_of!(MemoryExchange, output) == 32);
const _: () = assert!(offset_of!(MemoryExchange, nr_exchanged) == 64);

/// `xen_machphys_mfn_list`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MachphysMfnList {
    /// Room in the list.
    pub max_extents: u32,
    /// Padding.
    pub pad0: u32,
    /// Address of the list.
    pub extent_start: u64,
    /// Out: its length.
    pub nr_extents: u32,
    /// Padding.
    pub pad1: u32,
}

const _: () = assert!(size_of::<MachphysMfnList>() == 24);
const _: () = assert!(offset_of!(MachphysMfnList, max_extents) == 0);
const _: () = assert!(offset_of!(MachphysMfnList, pad0) == 4);
const _: () = assert!(offset_of!(MachphysMfnList, extent_start) == 8);
const _: () = assert!(offset_of!(MachphysMfnList, nr_extents) == 16);
const _: () = assert!(offset_of!(MachphysMfnList, pad1) == 20);

/// `xen_machphys_mapping`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MachphysMapping {
    /// First byte of the table.
    pub v_start: u64,
    /// End of its room.
    pub v_end: u64,
    /// Highest frame that has an entry.
    pub max_mfn: u64,
}

const _: () = assert!(size_of::<MachphysMapping>() == 24);
const _: () = assert!(offset_of!(MachphysMapping, v_start) == 0);
const _: () = assert!(offset_of!(MachphysMapping, v_end) == 8);
const _: () = assert!(offset_of!(MachphysMapping, max_mfn) == 16);

/// `xen_add_to_physmap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AddToPhysmap {
    /// Domain.
    pub domid: u16,
    /// Pages, for ranges.
    pub size: u16,
    /// Kind of source.
    pub space: u32,
    /// Index in it.
    pub idx: u64,
    /// Where to.
    pub gpfn: u64,
}

const _: () = assert!(size_of::<AddToPhysmap>() == 24);
const _: () = assert!(offset_of!(AddToPhysmap, domid) == 0);
const _: () = assert!(offset_of!(AddToPhysmap, size) == 2);
const _: () = assert!(offset_of!(AddToPhysmap, space) == 4);
const _: () = assert!(offset_of!(AddToPhysmap, idx) == 8);
const _: () = assert!(offset_of!(AddToPhysmap, gpfn) == 16);

/// `xen_memory_map`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryMap {
    /// Room, then number of entries.
    pub nr_entries: u32,
    /// Padding.
    pub pad: u32,
    /// Address of `MemoryMapEntry` records, 20 bytes each.
    pub buffer: u64,
}

const _: () = assert!(size_of::<MemoryMap>() == 16);
const _: () = assert!(offset_of!(MemoryMap, nr_entries) == 0);
const _: () = assert!(offset_of!(MemoryMap, pad) == 4);
const _: () = assert!(offset_of!(MemoryMap, buffer) == 8);

/// One entry of a memory map (e820, 20 bytes, packed).
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryMapEntry {
    /// Start.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// `XEN_E820_*`.
    pub kind: u32,
}

const _: () = assert!(size_of::<MemoryMapEntry>() == 20);
const _: () = assert!(offset_of!(MemoryMapEntry, addr) == 0);
const _: () = assert!(offset_of!(MemoryMapEntry, size) == 8);
const _: () = assert!(offset_of!(MemoryMapEntry, kind) == 16);

/// Argument of the calls that name a domain alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Domid {
    /// Domain.
    pub domid: u16,
}

const _: () = assert!(size_of::<Domid>() == 2);
const _: () = assert!(offset_of!(Domid, domid) == 0);
