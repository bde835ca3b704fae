//! From what a frontend wrote to what a disk does: every bound is checked here, before a page is
//! mapped or a byte of the image is touched.

use rustix::io::Errno;
use thiserror::Error;
use xenner_xen_abi::io::blkif::{BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR};

use super::policy::IoKind;
use super::protocol::{Body, DataOp, MAX_DIRECT, Segment};
use crate::domain::{GrantError, PAGE_SIZE};
use crate::image::{DiscardKind, Geometry, SECTOR_SIZE};

/// Segments of the largest indirect request that is taken (`feature-max-indirect-segments`).
pub const MAX_INDIRECT: u16 = 256;

const SECTORS_PER_PAGE: u8 = (PAGE_SIZE as u64 / SECTOR_SIZE) as u8;

/// Why a request is refused before the image sees it. Each is the frontend's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// No such operation, or one that the disk does not offer.
    #[error("The operation is not supported")]
    Unsupported,
    /// Too many segments, or none.
    #[error("{0} segments")]
    SegmentCount(u16),
    /// A segment's sectors are not in a page, or end before they begin.
    #[error("Sectors {first} to {last} of a page")]
    Sectors {
        /// `first_sect`.
        first: u8,
        /// `last_sect`.
        last: u8,
    },
    /// The range leaves the disk.
    #[error("{count} sectors from {sector} on leave a disk of {sectors}")]
    Range {
        /// The first sector.
        sector: u64,
        /// How many.
        count: u64,
        /// The disk's sectors.
        sectors: u64,
    },
    /// The range does not consist of whole logical blocks.
    #[error("{count} sectors from {sector} on are not blocks of {block} bytes")]
    Misaligned {
        /// The first sector.
        sector: u64,
        /// How many.
        count: u64,
        /// Bytes of a logical block.
        block: u32,
    },
    /// The disk is read-only.
    #[error("The disk is read-only")]
    ReadOnly,
    /// The drive is empty.
    #[error("There is no medium")]
    NoMedium,
    /// A page cannot be had.
    #[error(transparent)]
    Grant(#[from] GrantError),
}

impl Refused {
    /// The response's status.
    #[must_use]
    pub fn status(self) -> i16 {
        match self {
            Self::Unsupported => BLKIF_RSP_EOPNOTSUPP,
            _ => BLKIF_RSP_ERROR,
        }
    }
}

/// A request's range in the image, checked against the geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Range {
    /// Of what has none: a flush.
    pub const EMPTY: Self = Self { offset: 0, len: 0 };
}

/// What a request does, in this order: a flush, the data, a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What it counts as.
    pub kind: IoKind,
    /// Nothing else of this queue is under way while it runs.
    pub alone: bool,
    /// Everything written so far is made durable first.
    pub flush_before: bool,
    /// The data's part, if it has one.
    pub data: Option<Data>,
    /// What was written is made durable before the response.
    pub flush_after: bool,
}

/// What a request does to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// What.
    pub work: Work,
    /// Where.
    pub range: Range,
}

/// One call on the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// [`crate::image::Image::read`].
    Read,
    /// [`crate::image::Image::write`].
    Write,
    /// [`crate::image::Image::flush`].
    Flush,
    /// [`crate::image::Image::discard`].
    Discard(DiscardKind),
}

impl Work {
    /// What it counts as.
    #[must_use]
    pub fn kind(self) -> IoKind {
        match self {
            Self::Read => IoKind::Read,
            Self::Write => IoKind::Write,
            Self::Flush => IoKind::Flush,
            Self::Discard(_) => IoKind::Discard,
        }
    }
}

/// What a request counts as when it is refused.
#[must_use]
pub fn kind(body: &Body) -> Option<IoKind> {
    match body {
        Body::Direct { op, .. } => Some(kind_of(*op)),
        Body::Indirect { op, .. } => op.map(kind_of),
        Body::Discard { .. } => Some(IoKind::Discard),
        Body::Unknown => None,
    }
}

fn kind_of(op: DataOp) -> IoKind {
    match op {
        DataOp::Read => IoKind::Read,
        DataOp::Write | DataOp::Barrier => IoKind::Write,
        DataOp::Flush => IoKind::Flush,
    }
}

/// How many segments a direct request really has.
///
/// # Errors
/// [`Refused::SegmentCount`].
pub fn direct_count(count: u8) -> Result<usize, Refused> {
    if usize::from(count) > MAX_DIRECT {
        return Err(Refused::SegmentCount(count.into()));
    }
    Ok(count.into())
}

/// Plans a request that moves data through `segments`; `durable` for write-through.
///
/// # Errors
/// [`Refused`].
pub fn plan_data(
    op: DataOp,
    sector: u64,
    segments: &[Segment],
    geometry: &Geometry,
    durable: bool,
) -> Result<Plan, Refused> {
    if op != DataOp::Read && geometry.read_only && !(op == DataOp::Flush && segments.is_empty()) {
        return Err(Refused::ReadOnly);
    }
    // Only what flushes makes sense without data.
    if segments.is_empty() && matches!(op, DataOp::Read | DataOp::Write) {
        return Err(Refused::SegmentCount(0));
    }
    let data = if segments.is_empty() {
        None
    } else {
        let range = check_range(sector, sectors_of(segments)?, geometry)?;
        let work = match op {
            DataOp::Read => Work::Read,
            _ => Work::Write,
        };
        Some(Data { work, range })
    };
    let writes = data.is_some_and(|data| data.work == Work::Write);
    let kind = match (op, data) {
        (DataOp::Read, _) => IoKind::Read,
        (_, Some(_)) => IoKind::Write,
        (_, None) => IoKind::Flush,
    };
    Ok(Plan {
        kind,
        alone: op == DataOp::Barrier,
        flush_before: matches!(op, DataOp::Barrier | DataOp::Flush),
        data,
        flush_after: writes && (durable || op == DataOp::Barrier),
    })
}

/// Plans a discard; `durable` for write-through.
///
/// # Errors
/// [`Refused`].
pub fn plan_discard(
    sector: u64,
    count: u64,
    secure: bool,
    geometry: &Geometry,
    durable: bool,
) -> Result<Plan, Refused> {
    let Some(discard) = geometry.discard else {
        return Err(Refused::Unsupported);
    };
    if geometry.read_only {
        return Err(Refused::ReadOnly);
    }
    if secure && !discard.secure {
        return Err(Refused::Unsupported);
    }
    let range = check_range(sector, count, geometry)?;
    let kind = if secure {
        DiscardKind::Secure
    } else {
        DiscardKind::Advice
    };
    let work = Work::Discard(kind);
    Ok(Plan {
        kind: IoKind::Discard,
        alone: false,
        flush_before: false,
        data: (count > 0).then_some(Data { work, range }),
        flush_after: count > 0 && durable,
    })
}

/// Where a segment lies in its page: the first byte and how many.
///
/// # Errors
/// [`Refused::Sectors`].
pub fn part_of_page(segment: &Segment) -> Result<(usize, usize), Refused> {
    let (first, last) = (segment.first_sect, segment.last_sect);
    if first > last || last >= SECTORS_PER_PAGE {
        return Err(Refused::Sectors { first, last });
    }
    let sector = SECTOR_SIZE as usize;
    Ok((
        usize::from(first) * sector,
        usize::from(last - first + 1) * sector,
    ))
}

fn sectors_of(segments: &[Segment]) -> Result<u64, Refused> {
    let mut bytes = 0;
    for segment in segments {
        bytes += part_of_page(segment)?.1 as u64;
    }
    Ok(bytes / SECTOR_SIZE)
}

fn check_range(sector: u64, count: u64, geometry: &Geometry) -> Result<Range, Refused> {
    let sectors = geometry.size / SECTOR_SIZE;
    if sector.checked_add(count).is_none_or(|end| end > sectors) {
        return Err(Refused::Range {
            sector,
            count,
            sectors,
        });
    }
    let block = geometry.logical_block;
    let per_block = u64::from(block) / SECTOR_SIZE;
    if !sector.is_multiple_of(per_block) || !count.is_multiple_of(per_block) {
        return Err(Refused::Misaligned {
            sector,
            count,
            block,
        });
    }
    Ok(Range {
        offset: sector * SECTOR_SIZE,
        len: count * SECTOR_SIZE,
    })
}

/// The errno of a failed call on an image; `EIO` where it carries none.
#[must_use]
pub fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
