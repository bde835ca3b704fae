//! What the host says of a file or block device: block sizes, the alignment of `O_DIRECT`, what can
//! be discarded.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags};

use super::buffers::AlignedBuffer;
use super::sys;
use super::{Discard, SECTOR_SIZE};

/// What requests to a file have to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes that buffers' addresses have to be multiples of; 1 without `O_DIRECT`.
    pub(super) memory_align: u32,
    /// Bytes that offsets and lengths have to be multiples of; 1 without `O_DIRECT`.
    pub(super) offset_align: u32,
    /// Bytes of a device's logical block; 512 for files.
    pub(super) logical_block: u32,
    /// Bytes that are written without reading first.
    pub(super) physical_block: u32,
    /// What can be given back, if anything.
    pub(super) discard: Option<Discard>,
}

/// The largest block that Linux knows and the guest's page holds.
const MAX_BLOCK: u32 = 4096;
/// Alignments to try where the kernel does not tell (before Linux 6.1, or no regular file).
const ALIGNMENTS: [u32; 4] = [512, 1024, 2048, 4096];

/// Asks the host about an open file.
pub(super) fn limits(fd: BorrowedFd<'_>, device: bool, direct: bool) -> io::Result<Limits> {
    let sector = SECTOR_SIZE as u32;
    let (mut logical, mut physical) = (sector, sector);
    if device {
        logical = valid_block(rustix::fs::ioctl_blksszget(fd)?, sector);
        physical = valid_block(rustix::fs::ioctl_blkpbszget(fd)?, logical).max(logical);
    }
    let (memory_align, offset_align) = match direct {
        true => alignment(fd, device, logical)?,
        false => (1, 1),
    };
    Ok(Limits {
        memory_align,
        offset_align,
        logical_block: logical,
        physical_block: physical.max(offset_align),
        discard: match device {
            true => device_discard(fd),
            false => Some(file_discard(fd)?),
        },
    })
}

fn valid_block(bytes: u32, otherwise: u32) -> u32 {
    let valid = bytes.is_power_of_two() && (SECTOR_SIZE as u32..=MAX_BLOCK).contains(&bytes);
    if valid { bytes } else { otherwise }
}

/// Alignment of memory and of offsets that `O_DIRECT` needs.
fn alignment(fd: BorrowedFd<'_>, device: bool, logical: u32) -> io::Result<(u32, u32)> {
    if let Ok(stat) = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0
        && stat.stx_dio_offset_align != 0
        && stat.stx_dio_mem_align.is_power_of_two()
        && stat.stx_dio_offset_align.is_power_of_two()
    {
        // Less than a sector is never asked for, and a copy costs less than a case of its own.
        return Ok((
            stat.stx_dio_mem_align,
            stat.stx_dio_offset_align.max(logical),
        ));
    }
    if device {
        return Ok((logical, logical));
    }
    // Reading tells: too small a unit is refused with EINVAL, even at the end of an empty file.
    for unit in ALIGNMENTS {
        let mut buffer = AlignedBuffer::new(unit as usize, MAX_BLOCK as usize);
        match sys::read_vectored(fd, 0, &[buffer.head(unit as usize)]) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok((unit, unit)),
        }
    }
    Ok((MAX_BLOCK, MAX_BLOCK))
}

/// Files give whole blocks of their file system back.
fn file_discard(fd: BorrowedFd<'_>) -> io::Result<Discard> {
    let block = rustix::fs::fstat(fd)?.st_blksize;
    let block = u32::try_from(block)
        .ok()
        .filter(|block| block.is_power_of_two());
    Ok(Discard {
        granularity: block
            .unwrap_or(MAX_BLOCK)
            .clamp(SECTOR_SIZE as u32, 1 << 20),
        alignment: 0,
        secure: false,
    })
}

/// What sysfs says of the device's queue; a partition's is that of its disk.
fn device_discard(fd: BorrowedFd<'_>) -> Option<Discard> {
    let device = rustix::fs::fstat(fd).ok()?.st_rdev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let base = format!("/sys/dev/block/{major}:{minor}");
    let number = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("{base}/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let queue = |name: &str| {
        number(&format!("queue/{name}")).or_else(|| number(&format!("../queue/{name}")))
    };
    if queue("discard_max_bytes")? == 0 {
        return None;
    }
    let granularity = u32::try_from(queue("discard_granularity")?).ok()?;
    Some(Discard {
        granularity: granularity.max(SECTOR_SIZE as u32),
        alignment: u32::try_from(number("discard_alignment").unwrap_or(0)).unwrap_or(0),
        secure: false,
    })
}
