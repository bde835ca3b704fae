//! Lists of guest buffers: their length, their rest after some bytes, and copies to and from them.

use std::io;

use vm_memory::VolatileSlice;

/// Bytes in all buffers.
pub(super) fn total(buffers: &[VolatileSlice<'_>]) -> usize {
    buffers.iter().map(VolatileSlice::len).sum()
}

/// The buffers without their first `skip` bytes.
pub(super) fn skipped<'a>(
    buffers: &[VolatileSlice<'a>],
    mut skip: usize,
) -> Vec<VolatileSlice<'a>> {
    let mut rest = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let cut = skip.min(buffer.len());
        skip -= cut;
        // Never fails: the cut lies in the buffer.
        if let Ok(left) = buffer.offset(cut)
            && !left.is_empty()
        {
            rest.push(left);
        }
    }
    rest
}

/// Zeroes all buffers.
pub(super) fn zero(buffers: &[VolatileSlice<'_>]) {
    const ZEROS: [u8; 4096] = [0; 4096];
    for buffer in buffers {
        let mut left = *buffer;
        while !left.is_empty() {
            let part = left.len().min(ZEROS.len());
            left.copy_from(&ZEROS[..part]);
            match left.offset(part) {
                Ok(rest) => left = rest,
                Err(_) => break,
            }
        }
    }
}

/// Fills the buffers, from their byte `at` on, with `data`; returns how much fitted.
pub(super) fn scatter(data: &[u8], buffers: &[VolatileSlice<'_>], at: usize) -> usize {
    let mut done = 0;
    for buffer in skipped(buffers, at) {
        let part = buffer.len().min(data.len() - done);
        if part == 0 {
            break;
        }
        buffer.copy_from(&data[done..done + part]);
        done += part;
    }
    done
}

/// Fills `data` with what the buffers hold from their byte `at` on; returns how much there was.
pub(super) fn gather(buffers: &[VolatileSlice<'_>], at: usize, data: &mut [u8]) -> usize {
    let mut done = 0;
    for buffer in skipped(buffers, at) {
        let part = buffer.len().min(data.len() - done);
        if part == 0 {
            break;
        }
        buffer.copy_to(&mut data[done..done + part]);
        done += part;
    }
    done
}

/// Memory whose address is a multiple of `align`, for `O_DIRECT`.
#[derive(Debug)]
pub(super) struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` zero bytes.
    pub(super) fn new(len: usize, align: usize) -> Self {
        let bytes = vec![0; len + align];
        let start = bytes.as_ptr().align_offset(align).min(align);
        Self { bytes, start, len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    /// Its first `len` bytes as a guest buffer.
    pub(super) fn head(&mut self, len: usize) -> VolatileSlice<'_> {
        VolatileSlice::from(&mut self.bytes()[..len])
    }
}

/// Reads until the buffers are full; what lies behind the end of the file is zeros. `step` is one
/// system call.
pub(super) fn fill(
    mut offset: u64,
    to: &[VolatileSlice<'_>],
    step: impl Fn(u64, &[VolatileSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut left = to.to_vec();
    while !left.is_empty() {
        let done = step(offset, &left)?;
        if done == 0 {
            zero(&left);
            return Ok(());
        }
        offset += done as u64;
        left = skipped(&left, done);
    }
    Ok(())
}

/// Writes until the buffers are done. `step` is one system call.
pub(super) fn drain(
    mut offset: u64,
    from: &[VolatileSlice<'_>],
    step: impl Fn(u64, &[VolatileSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut left = from.to_vec();
    while !left.is_empty() {
        let done = step(offset, &left)?;
        if done == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        offset += done as u64;
        left = skipped(&left, done);
    }
    Ok(())
}

/// Whether all bytes are zero. The guest may change them meanwhile: then the answer is right for
/// some mixture of what they were.
pub(super) fn all_zero(list: &[VolatileSlice<'_>]) -> bool {
    let mut chunk = [0_u8; 4096];
    let total = total(list);
    let mut done = 0;
    for buffer in list {
        let mut left = *buffer;
        while !left.is_empty() {
            let part = left.copy_to(&mut chunk[..]);
            if part == 0 || chunk[..part].iter().any(|byte| *byte != 0) {
                return false;
            }
            done += part;
            match left.offset(part) {
                Ok(rest) => left = rest,
                Err(_) => return false,
            }
        }
    }
    done == total
}
