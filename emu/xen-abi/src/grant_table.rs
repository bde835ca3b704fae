//! `grant_table.h`: `grant_table_op` commands, entries and statuses.

use core::mem::offset_of;

/// Map.
pub const GNTTABOP_MAP_GRANT_REF: u32 = 0;
/// Unmap.
pub const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
/// Frames of the table.
pub const GNTTABOP_SETUP_TABLE: u32 = 2;
/// Dump to Xen's console.
pub const GNTTABOP_DUMP_TABLE: u32 = 3;
/// Give a page away.
pub const GNTTABOP_TRANSFER: u32 = 4;
/// Copy between pages.
pub const GNTTABOP_COPY: u32 = 5;
/// Size of the table.
pub const GNTTABOP_QUERY_SIZE: u32 = 6;
/// Unmap and move a mapping.
pub const GNTTABOP_UNMAP_AND_REPLACE: u32 = 7;
/// Choose the layout.
pub const GNTTABOP_SET_VERSION: u32 = 8;
/// Frames of the version 2 status array.
pub const GNTTABOP_GET_STATUS_FRAMES: u32 = 9;
/// Layout of a domain.
pub const GNTTABOP_GET_VERSION: u32 = 10;
/// Swap two entries.
pub const GNTTABOP_SWAP_GRANT_REF: u32 = 11;
/// ARM only.
pub const GNTTABOP_CACHE_FLUSH: u32 = 12;

/// Entries that the toolstack may use.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
/// The console ring's entry.
pub const GNTTAB_RESERVED_CONSOLE: u32 = 0;
/// The xenstore ring's entry.
pub const GNTTAB_RESERVED_XENSTORE: u32 = 1;

/// Map for devices.
pub const GNTMAP_DEVICE_MAP: u32 = 1;
/// Map for the processor.
pub const GNTMAP_HOST_MAP: u32 = 2;
/// Read-only.
pub const GNTMAP_READONLY: u32 = 4;
/// For user mode too.
pub const GNTMAP_APPLICATION_MAP: u32 = 8;
/// `host_addr` is the machine address of an entry.
pub const GNTMAP_CONTAINS_PTE: u32 = 16;

/// Unused entry.
pub const GTF_INVALID: u16 = 0;
/// Access is granted.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// A page is awaited.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// Another domain's grant (version 2).
pub const GTF_TRANSITIVE: u16 = 3;
/// Bits of the kind.
pub const GTF_TYPE_MASK: u16 = 3;
/// Read-only.
pub const GTF_READONLY: u16 = 4;
/// In use for reading.
pub const GTF_READING: u16 = 8;
/// In use for writing.
pub const GTF_WRITING: u16 = 16;
/// Cache attribute.
pub const GTF_PWT: u16 = 32;
/// Cache attribute.
pub const GTF_PCD: u16 = 64;
/// Cache attribute.
pub const GTF_PAT: u16 = 128;
/// Part of a page (version 2).
pub const GTF_SUB_PAGE: u16 = 256;
/// Transfer under way.
pub const GTF_TRANSFER_COMMITTED: u16 = 4;
/// Transfer done.
pub const GTF_TRANSFER_COMPLETED: u16 = 8;
/// The source is a grant.
pub const GNTCOPY_SOURCE_GREF: u16 = 1;
/// The destination is a grant.
pub const GNTCOPY_DEST_GREF: u16 = 2;

/// Done.
pub const GNTST_OKAY: i16 = 0;
/// Undefined error.
pub const GNTST_GENERAL_ERROR: i16 = -1;
/// Unknown domain.
pub const GNTST_BAD_DOMAIN: i16 = -2;
/// Bad reference.
pub const GNTST_BAD_GNTREF: i16 = -3;
/// Bad handle.
pub const GNTST_BAD_HANDLE: i16 = -4;
/// Bad virtual address.
pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
/// Bad device address.
pub const GNTST_BAD_DEV_ADDR: i16 = -6;
/// No room in the I/O MMU.
pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
/// Not allowed.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
/// Bad page.
pub const GNTST_BAD_PAGE: i16 = -9;
/// A copy crosses a page.
pub const GNTST_BAD_COPY_ARG: i16 = -10;
/// Page address too large.
pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
/// Try again.
pub const GNTST_EAGAIN: i16 = -12;
/// No handles left.
pub const GNTST_NO_SPACE: i16 = -13;

/// Version 1 entries in a page.
pub const GRANT_ENTRIES_V1_PER_PAGE: u32 = 512;
/// Version 2 entries in a page.
pub const GRANT_ENTRIES_V2_PER_PAGE: u32 = 256;

/// Version 1 entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GrantEntryV1 {
    /// `GTF_*`.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// Frame.
    pub frame: u32,
}

const _: () = assert!(size_of::<GrantEntryV1>() == 8);
const _: () = assert!(offset_of!(GrantEntryV1, flags) == 0);
const _: () = assert!(offset_of!(GrantEntryV1, domid) == 2);
const _: () = assert!(offset_of!(GrantEntryV1, frame) == 4);

/// Version 2 entry, full-page form.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GrantEntryV2 {
    /// `GTF_*`.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// Offset and length in the sub-page form.
    pub pad: u32,
    /// Frame.
    pub frame: u64,
}

const _: () = assert!(size_of::<GrantEntryV2>() == 16);
const _: () = assert!(offset_of!(GrantEntryV2, flags) == 0);
const _: () = assert!(offset_of!(GrantEntryV2, domid) == 2);
const _: () = assert!(offset_of!(GrantEntryV2, pad) == 4);
const _: () = assert!(offset_of!(GrantEntryV2, frame) == 8);

/// Argument of `GNTTABOP_MAP_GRANT_REF`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabMapGrantRef {
    /// Where to.
    pub host_addr: u64,
    /// `GNTMAP_*`.
    pub flags: u32,
    /// Reference.
    pub grant_ref: u32,
    /// Granting domain.
    pub dom: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Out: handle.
    pub handle: u32,
    /// Out: device address.
    pub dev_bus_addr: u64,
}

const _: () = assert!(size_of::<GnttabMapGrantRef>() == 32);
const _: () = assert!(offset_of!(GnttabMapGrantRef, host_addr) == 0);
const _: () = assert!(offset_of!(GnttabMapGrantRef, flags) == 8);
const _: () = assert!(offset_of!(GnttabMapGrantRef, grant_ref) == 12);
const _: () = assert!(offset_of!(GnttabMapGrantRef, dom) == 16);
const _: () = assert!(offset_of!(GnttabMapGrantRef, status) == 18);
const _: () = assert!(offset_of!(GnttabMapGrantRef, handle) == 20);
const _: () = assert!(offset_of!(GnttabMapGrantRef, dev_bus_addr) == 24);

/// Argument of `GNTTABOP_UNMAP_GRANT_REF`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabUnmapGrantRef {
    /// Where.
    pub host_addr: u64,
    /// Device address.
    pub dev_bus_addr: u64,
    /// Handle.
    pub handle: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

const _: () = assert!(size_of::<GnttabUnmapGrantRef>() == 24);
const _: () = assert!(offset_of!(GnttabUnmapGrantRef, host_addr) == 0);
const _: () = assert!(offset_of!(GnttabUnmapGrantRef, dev_bus_addr) == 8);
const _: () = assert!(offset_of!(GnttabUnmapGrantRef, handle) == 16);
const _: () = assert!(offset_of!(GnttabUnmapGrantRef, status) == 20);
const _: () = assert!(offset_of!(GnttabUnmapGrantRef, pad) == 22);

/// Argument of `GNTTABOP_SETUP_TABLE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabSetupTable {
    /// Domain.
    pub dom: u16,
    /// Padding.
    pub pad0: u16,
    /// Frames wanted.
    pub nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad1: [u16; 3],
    /// Address of the list of frames.
    pub frame_list: u64,
}

const _: () = assert!(size_of::<GnttabSetupTable>() == 24);
const _: () = assert!(offset_of!(GnttabSetupTable, dom) == 0);
const _: () = assert!(offset_of!(GnttabSetupTable, pad0) == 2);
const _: () = assert!(offset_of!(GnttabSetupTable, nr_frames) == 4);
const _: () = assert!(offset_of!(GnttabSetupTable, status) == 8);
const _: () = assert!(offset_of!(GnttabSetupTable, pad1) == 10);
const _: () = assert!(offset_of!(GnttabSetupTable, frame_list) == 16);

/// Argument of `GNTTABOP_DUMP_TABLE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabDumpTable {
    /// Domain.
    pub dom: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
}

const _: () = assert!(size_of::<GnttabDumpTable>() == 4);
const _: () = assert!(offset_of!(GnttabDumpTable, dom) == 0);
const _: () = assert!(offset_of!(GnttabDumpTable, status) == 2);

/// Source or destination of `GnttabCopy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabCopyPtr {
    /// Frame, or reference in the low half.
    pub frame_or_ref: u64,
    /// Domain.
    pub domid: u16,
    /// Offset in the page.
    pub offset: u16,
    /// Padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<GnttabCopyPtr>() == 16);
const _: () = assert!(offset_of!(GnttabCopyPtr, frame_or_ref) == 0);
const _: () = assert!(offset_of!(GnttabCopyPtr, domid) == 8);
const _: () = assert!(offset_of!(GnttabCopyPtr, offset) == 10);
const _: () = assert!(offset_of!(GnttabCopyPtr, pad) == 12);

/// Argument of `GNTTABOP_COPY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabCopy {
    /// From.
    pub source: GnttabCopyPtr,
    /// To.
    pub dest: GnttabCopyPtr,
    /// Bytes.
    pub len: u16,
    /// `GNTCOPY_*`.
    pub flags: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

const _: () = assert!(size_of::<GnttabCopy>() == 40);
const _: () = assert!(offset_of!(GnttabCopy, source) == 0);
const _: () = assert!(offset_of!(GnttabCopy, dest) == 16);
const _: () = assert!(offset_of!(GnttabCopy, len) == 32);
const _: () = assert!(offset_of!(GnttabCopy, flags) == 34);
const _: () = assert!(offset_of!(GnttabCopy, status) == 36);
const _: () = assert!(offset_of!(GnttabCopy, pad) == 38);

/// Argument of `GNTTABOP_QUERY_SIZE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabQuerySize {
    /// Domain.
    pub dom: u16,
    /// Padding.
    pub pad0: u16,
    /// Out: frames in use.
    pub nr_frames: u32,
    /// Out: most frames.
    pub max_nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad1: u16,
}

const _: () = assert!(size_of::<GnttabQuerySize>() == 16);
const _: () = assert!(offset_of!(GnttabQuerySize, dom) == 0);
const _: () = assert!(offset_of!(GnttabQuerySize, pad0) == 2);
const _: () = assert!(offset_of!(GnttabQuerySize, nr_frames) == 4);
const _: () = assert!(offset_of!(GnttabQuerySize, max_nr_frames) == 8);
const _: () = assert!(offset_of!(GnttabQuerySize, status) == 12);
const _: () = assert!(offset_of!(GnttabQuerySize, pad1) == 14);

/// Argument of `GNTTABOP_UNMAP_AND_REPLACE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabUnmapAndReplace {
    /// Where.
    pub host_addr: u64,
    /// Mapping to put there.
    pub new_addr: u64,
    /// Handle.
    pub handle: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

const _: () = assert!(size_of::<GnttabUnmapAndReplace>() == 24);
const _: () = assert!(offset_of!(GnttabUnmapAndReplace, host_addr) == 0);
const _: () = assert!(offset_of!(GnttabUnmapAndReplace, new_addr) == 8);
const _: () = assert!(offset_of!(GnttabUnmapAndReplace, handle) == 16);
const _: () = assert!(offset_of!(GnttabUnmapAndReplace, status) == 20);
const _: () = assert!(offset_of!(GnttabUnmapAndReplace, pad) == 22);

/// Argument of `GNTTABOP_SET_VERSION`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabSetVersion {
    /// Wanted, then current version.
    pub version: u32,
}

const _: () = assert!(size_of::<GnttabSetVersion>() == 4);
const _: () = assert!(offset_of!(GnttabSetVersion, version) == 0);

/// Argument of `GNTTABOP_GET_STATUS_FRAMES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabGetStatusFrames {
    /// Frames.
    pub nr_frames: u32,
    /// Domain.
    pub dom: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Address of the list of frames.
    pub frame_list: u64,
}

const _: () = assert!(size_of::<GnttabGetStatusFrames>() == 16);
const _: () = assert!(offset_of!(GnttabGetStatusFrames, nr_frames) == 0);
const _: () = assert!(offset_of!(GnttabGetStatusFrames, dom) == 4);
const _: () = assert!(offset_of!(GnttabGetStatusFrames, status) == 6);
const _: () = assert!(offset_of!(GnttabGetStatusFrames, frame_list) == 8);

/// Argument of `GNTTABOP_GET_VERSION`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabGetVersion {
    /// Domain.
    pub dom: u16,
    /// Padding.
    pub pad: u16,
    /// Out: version.
    pub version: u32,
}

const _: () = assert!(size_of::<GnttabGetVersion>() == 8);
const _: () = assert!(offset_of!(GnttabGetVersion, dom) == 0);
const _: () = assert!(offset_of!(GnttabGetVersion, pad) == 2);
const _: () = assert!(offset_of!(GnttabGetVersion, version) == 4);

/// Argument of `GNTTABOP_SWAP_GRANT_REF`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GnttabSwapGrantRef {
    /// First reference.
    pub ref_a: u32,
    /// Second reference.
    pub ref_b: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

const _: () = assert!(size_of::<GnttabSwapGrantRef>() == 12);
const _: () = assert!(offset_of!(GnttabSwapGrantRef, ref_a) == 0);
const _: () = assert!(offset_of!(GnttabSwapGrantRef, ref_b) == 4);
const _: () = assert!(offset_of!(GnttabSwapGrantRef, status) == 8);
const _: () = assert!(offset_of!(GnttabSwapGrantRef, pad) == 10);
