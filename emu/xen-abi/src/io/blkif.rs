//! `io/blkif.h`: block requests and responses, as 64-bit frontends lay them out
//! (`x86_64-abi`) and as 32-bit ones do (`x86_32-abi`, where a `u64` is aligned
//! to 4 bytes). Sectors are 512 bytes everywhere, whatever the disk's are.

use core::mem::offset_of;

/// Read.
pub const BLKIF_OP_READ: u8 = 0;
/// Write.
pub const BLKIF_OP_WRITE: u8 = 1;
/// Write that all earlier requests precede and that is on stable storage when
/// answered (`feature-barrier`).
pub const BLKIF_OP_WRITE_BARRIER: u8 = 2;
/// Flush of volatile caches (`feature-flush-cache`).
pub const BLKIF_OP_FLUSH_DISKCACHE: u8 = 3;
/// Was in use once.
pub const BLKIF_OP_RESERVED_1: u8 = 4;
/// Discard of sectors (`feature-discard`).
pub const BLKIF_OP_DISCARD: u8 = 5;
/// Request whose segments are in pages of their own
/// (`feature-max-indirect-segments`).
pub const BLKIF_OP_INDIRECT: u8 = 6;

/// Segments in a request.
pub const BLKIF_MAX_SEGMENTS_PER_REQUEST: usize = 11;
/// Pages of segments that an indirect request names.
pub const BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;
/// Segments in one of those pages.
pub const SEGS_PER_INDIRECT_PAGE: usize = 4096 / size_of::<BlkifRequestSegment>();

/// Discard so that the data cannot be brought back (`discard-secure`).
pub const BLKIF_DISCARD_SECURE: u8 = 1;

/// Not an operation of this backend: the frontend stops using it.
pub const BLKIF_RSP_EOPNOTSUPP: i16 = -2;
/// Failed.
pub const BLKIF_RSP_ERROR: i16 = -1;
/// Done.
pub const BLKIF_RSP_OKAY: i16 = 0;

/// `info` node: a CD-ROM.
pub const VDISK_CDROM: u32 = 1;
/// `info` node: a removable medium.
pub const VDISK_REMOVABLE: u32 = 2;
/// `info` node: not writable.
pub const VDISK_READONLY: u32 = 4;

/// Bytes of a sector in this interface.
pub const BLKIF_SECTOR_SIZE: u64 = 512;
/// Sectors of a granted page.
pub const BLKIF_SECTORS_PER_PAGE: u8 = 8;

/// Part of a request's data: some sectors of a granted page.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifRequestSegment {
    /// The page.
    pub gref: u32,
    /// First sector in it.
    pub first_sect: u8,
    /// Last sector in it, inclusive.
    pub last_sect: u8,
    /// Padding.
    pub pad: u16,
}

const _: () = assert!(size_of::<BlkifRequestSegment>() == 8);
const _: () = assert!(offset_of!(BlkifRequestSegment, first_sect) == 4);
const _: () = assert!(offset_of!(BlkifRequestSegment, last_sect) == 5);

/// Read, write, barrier or flush.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifRequest {
    /// `BLKIF_OP_*`.
    pub operation: u8,
    /// Segments in use.
    pub nr_segments: u8,
    /// The device, as the frontend calls it.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector_number: u64,
    /// Segments.
    pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
}

const _: () = assert!(size_of::<BlkifRequest>() == 112);
const _: () = assert!(offset_of!(BlkifRequest, nr_segments) == 1);
const _: () = assert!(offset_of!(BlkifRequest, handle) == 2);
const _: () = assert!(offset_of!(BlkifRequest, id) == 8);
const _: () = assert!(offset_of!(BlkifRequest, sector_number) == 16);
const _: () = assert!(offset_of!(BlkifRequest, seg) == 24);

/// Discard, in the slot of a [`BlkifRequest`].
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifRequestDiscard {
    /// `BLKIF_OP_DISCARD`.
    pub operation: u8,
    /// `BLKIF_DISCARD_SECURE` or 0.
    pub flag: u8,
    /// The device, as the frontend calls it.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector_number: u64,
    /// Number of sectors.
    pub nr_sectors: u64,
}

const _: () = assert!(size_of::<BlkifRequestDiscard>() == 32);
const _: () = assert!(offset_of!(BlkifRequestDiscard, flag) == 1);
const _: () = assert!(offset_of!(BlkifRequestDiscard, id) == 8);
const _: () = assert!(offset_of!(BlkifRequestDiscard, sector_number) == 16);
const _: () = assert!(offset_of!(BlkifRequestDiscard, nr_sectors) == 24);

/// Indirect request, in the slot of a [`BlkifRequest`].
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifRequestIndirect {
    /// `BLKIF_OP_INDIRECT`.
    pub operation: u8,
    /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
    pub indirect_op: u8,
    /// Segments in all pages.
    pub nr_segments: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector_number: u64,
    /// The device, as the frontend calls it.
    pub handle: u16,
    /// Padding.
    pub pad2: u16,
    /// Pages of segments, [`SEGS_PER_INDIRECT_PAGE`] in each.
    pub indirect_grefs: [u32; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
    /// Padding.
    pub pad3: u32,
}

const _: () = assert!(size_of::<BlkifRequestIndirect>() == 64);
const _: () = assert!(offset_of!(BlkifRequestIndirect, indirect_op) == 1);
const _: () = assert!(offset_of!(BlkifRequestIndirect, nr_segments) == 2);
const _: () = assert!(offset_of!(BlkifRequestIndirect, id) == 8);
const _: () = assert!(offset_of!(BlkifRequestIndirect, sector_number) == 16);
const _: () = assert!(offset_of!(BlkifRequestIndirect, handle) == 24);
const _: () = assert!(offset_of!(BlkifRequestIndirect, indirect_grefs) == 28);

/// Response to any request.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifResponse {
    /// The request's.
    pub id: u64,
    /// The request's.
    pub operation: u8,
    /// Padding.
    pub pad: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
    /// Padding.
    pub pad2: u32,
}

const _: () = assert!(size_of::<BlkifResponse>() == 16);
const _: () = assert!(offset_of!(BlkifResponse, operation) == 8);
const _: () = assert!(offset_of!(BlkifResponse, status) == 10);

/// [`BlkifRequest`] of a 32-bit frontend.
#[repr(C, packed(4))]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifX86_32Request {
    /// `BLKIF_OP_*`.
    pub operation: u8,
    /// Segments in use.
    pub nr_segments: u8,
    /// The device, as the frontend calls it.
    pub handle: u16,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector_number: u64,
    /// Segments.
    pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
}

const _: () = assert!(size_of::<BlkifX86_32Request>() == 108);
const _: () = assert!(offset_of!(BlkifX86_32Request, id) == 4);
const _: () = assert!(offset_of!(BlkifX86_32Request, sector_number) == 12);
const _: () = assert!(offset_of!(BlkifX86_32Request, seg) == 20);

/// [`BlkifRequestDiscard`] of a 32-bit frontend.
#[repr(C, packed(4))]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifX86_32RequestDiscard {
    /// `BLKIF_OP_DISCARD`.
    pub operation: u8,
    /// `BLKIF_DISCARD_SECURE` or 0.
    pub flag: u8,
    /// The device, as the frontend calls it.
    pub handle: u16,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector_number: u64,
    /// Number of sectors.
    pub nr_sectors: u64,
}

const _: () = assert!(size_of::<BlkifX86_32RequestDiscard>() == 28);
const _: () = assert!(offset_of!(BlkifX86_32RequestDiscard, id) == 4);
const _: () = assert!(offset_of!(BlkifX86_32RequestDiscard, sector_number) == 12);
const _: () = assert!(offset_of!(BlkifX86_32RequestDiscard, nr_sectors) == 20);

/// [`BlkifRequestIndirect`] of a 32-bit frontend.
#[repr(C, packed(4))]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifX86_32RequestIndirect {
    /// `BLKIF_OP_INDIRECT`.
    pub operation: u8,
    /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
    pub indirect_op: u8,
    /// Segments in all pages.
    pub nr_segments: u16,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector_number: u64,
    /// The device, as the frontend calls it.
    pub handle: u16,
    /// Padding.
    pub pad: u16,
    /// Pages of segments, [`SEGS_PER_INDIRECT_PAGE`] in each.
    pub indirect_grefs: [u32; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
    /// Padding.
    pub pad2: u64,
}

const _: () = assert!(size_of::<BlkifX86_32RequestIndirect>() == 64);
const _: () = assert!(offset_of!(BlkifX86_32RequestIndirect, nr_segments) == 2);
const _: () = assert!(offset_of!(BlkifX86_32RequestIndirect, id) == 4);
const _: () = assert!(offset_of!(BlkifX86_32RequestIndirect, sector_number) == 12);
const _: () = assert!(offset_of!(BlkifX86_32RequestIndirect, handle) == 20);
const _: () = assert!(offset_of!(BlkifX86_32RequestIndirect, indirect_grefs) == 24);

/// [`BlkifResponse`] to a 32-bit frontend.
#[repr(C, packed(4))]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkifX86_32Response {
    /// The request's.
    pub id: u64,
    /// The request's.
    pub operation: u8,
    /// Padding.
    pub pad: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
}

const _: () = assert!(size_of::<BlkifX86_32Response>() == 12);
const _: () = assert!(offset_of!(BlkifX86_32Response, operation) == 8);
const _: () = assert!(offset_of!(BlkifX86_32Response, status) == 10);
