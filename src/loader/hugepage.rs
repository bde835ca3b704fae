//! Large zeroed buffers, with huge pages where the host gives them: half a
//! kernel's LZ4 unpacking time is page faults.

// UNSAFETY: madvise on memory that this module has just allocated.
#![expect(unsafe_code)]

use rustix::mm::{Advice, madvise};

const HUGE: usize = 2 << 20;

/// `len` zero bytes. Pages not written to take no memory.
pub(super) fn zeroed(len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let start = buffer.as_mut_ptr();
    let skip = start.align_offset(HUGE);
    if let Some(inner) = len.checked_sub(skip).map(|rest| rest / HUGE * HUGE)
        && inner > 0
    {
        // SAFETY: `start + skip .. + inner` lies within `buffer`, is page
        // aligned, and MADV_HUGEPAGE changes no content.
        let advised = unsafe { madvise(start.add(skip).cast(), inner, Advice::LinuxHugepage) };
        if let Err(e) = advised {
            log::debug!(target: "loader", "No huge pages for the kernel image: {e}");
        }
    }
    buffer
}
