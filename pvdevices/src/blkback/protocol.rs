//! blkif on the wire (`xen/include/public/io/blkif.h`): ring entries in and out, in the layouts of
//! 64- and 32-bit frontends. Pure functions of bytes that were copied out of the ring; what a
//! request may do to a given disk is [`super::request`]'s matter.
//!
//! All sector numbers are in units of 512 bytes, whatever the disk's logical block is.

use xenner_xen_abi::io::blkif::{
    BLKIF_DISCARD_SECURE, BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST, BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
};

/// Bytes of a segment descriptor (`struct blkif_request_segment`).
pub const SEGMENT_SIZE: usize = 8;
/// Segment descriptors of one indirect page.
pub const SEGMENTS_PER_PAGE: usize = crate::domain::PAGE_SIZE / SEGMENT_SIZE;
/// Direct segments of a request.
pub const MAX_DIRECT: usize = BLKIF_MAX_SEGMENTS_PER_REQUEST;
/// Bytes of the largest ring entry.
pub const MAX_ENTRY: usize = 112;

/// The layout that the frontend's compiler gave the ring's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// `x86_64-abi`: 64-bit members are aligned to 8.
    X86_64,
    /// `x86_32-abi`: 64-bit members are aligned to 4.
    X86_32,
}

impl Abi {
    /// Bytes of a ring entry.
    #[must_use]
    pub fn entry_size(self) -> usize {
        match self {
            Self::X86_64 => 112,
            Self::X86_32 => 108,
        }
    }

    /// Where `id` is in each kind of request; all that follows is packed alike in both layouts.
    fn id_offset(self) -> usize {
        match self {
            Self::X86_64 => 8,
            Self::X86_32 => 4,
        }
    }
}

/// A part of a granted page (`struct blkif_request_segment`), unchecked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segment {
    /// The page's grant reference.
    pub gref: u32,
    /// Its first sector in the page.
    pub first_sect: u8,
    /// Its last sector in the page, this one included.
    pub last_sect: u8,
}

impl Segment {
    fn decode(bytes: &[u8]) -> Self {
        Self {
            gref: u32_at(bytes, 0),
            first_sect: bytes[4],
            last_sect: bytes[5],
        }
    }
}

/// What moves data, and when it counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataOp {
    /// `BLKIF_OP_READ`.
    Read,
    /// `BLKIF_OP_WRITE`.
    Write,
    /// `BLKIF_OP_WRITE_BARRIER`.
    Barrier,
    /// `BLKIF_OP_FLUSH_DISKCACHE`, which may carry data to be written after the flush.
    Flush,
}

impl DataOp {
    fn decode(op: u8) -> Option<Self> {
        match op {
            BLKIF_OP_READ => Some(Self::Read),
            BLKIF_OP_WRITE => Some(Self::Write),
            BLKIF_OP_WRITE_BARRIER => Some(Self::Barrier),
            BLKIF_OP_FLUSH_DISKCACHE => Some(Self::Flush),
            _ => None,
        }
    }
}

/// What a ring entry asks for. Nothing is checked but the operation's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Data in direct segments.
    Direct {
        /// What to do with it.
        op: DataOp,
        /// The first sector on the disk.
        sector: u64,
        /// How many segments the frontend says there are; beyond [`MAX_DIRECT`] none is real.
        count: u8,
        /// The entry's segments, the first `count` of them meant.
        segments: [Segment; MAX_DIRECT],
    },
    /// Data in segments that are listed in other granted pages.
    Indirect {
        /// What to do with it; `None` for what cannot be indirect.
        op: Option<DataOp>,
        /// The first sector on the disk.
        sector: u64,
        /// How many segments there are.
        count: u16,
        /// The pages that list them, [`SEGMENTS_PER_PAGE`] each.
        pages: [u32; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
    },
    /// Sectors that are needed no more.
    Discard {
        /// The first sector on the disk.
        sector: u64,
        /// How many.
        count: u64,
        /// They must not be recoverable.
        secure: bool,
    },
    /// An operation that blkif does not have.
    Unknown,
}

/// A request as the frontend wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The frontend's own number, given back with the response.
    pub id: u64,
    /// The operation that the response names: for an indirect request what it does.
    pub op: u8,
    /// What is asked for.
    pub body: Body,
}

impl Request {
    /// Decodes a ring entry.
    #[must_use]
    pub fn decode(entry: &[u8; MAX_ENTRY], abi: Abi) -> Self {
        let id_at = abi.id_offset();
        let op = entry[0];
        let mut request = Self {
            id: u64_at(entry, id_at),
            op,
            body: Body::Unknown,
        };
        let sector = u64_at(entry, id_at + 8);
        let rest = &entry[id_at + 16..];
        if let Some(op) = DataOp::decode(op) {
            request.body = Body::Direct {
                op,
                sector,
                count: entry[1],
                segments: std::array::from_fn(|i| Segment::decode(&rest[i * SEGMENT_SIZE..])),
            };
        } else if op == BLKIF_OP_INDIRECT {
            request.op = entry[1];
            request.body = Body::Indirect {
                op: DataOp::decode(entry[1])
                    .filter(|op| matches!(op, DataOp::Read | DataOp::Write)),
                sector,
                count: u16::from_le_bytes([entry[2], entry[3]]),
                // A handle and two bytes of padding come first.
                pages: std::array::from_fn(|i| u32_at(rest, 4 + i * 4)),
            };
        } else if op == BLKIF_OP_DISCARD {
            request.body = Body::Discard {
                sector,
                count: u64_at(rest, 0),
                secure: entry[1] & BLKIF_DISCARD_SECURE != 0,
            };
        }
        request
    }
}

/// Decodes the segments of an indirect page; `bytes` is a multiple of [`SEGMENT_SIZE`].
pub fn indirect_segments(bytes: &[u8]) -> impl Iterator<Item = Segment> + '_ {
    bytes.chunks_exact(SEGMENT_SIZE).map(Segment::decode)
}

/// A response (`struct blkif_response`): `status` is one of `BLKIF_RSP_*`. Both layouts have the
/// same members at the same places; the 64-bit one has four bytes of padding behind them.
#[must_use]
pub fn response(id: u64, op: u8, status: i16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    bytes[8] = op;
    bytes[10..].copy_from_slice(&status.to_le_bytes());
    bytes
}

fn u32_at(bytes: &[u8], off: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[off..off + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], off: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[off..off + 8]);
    u64::from_le_bytes(value)
}
