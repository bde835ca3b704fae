//! The system calls that need raw pointers: vectored I/O on guest memory, open file description
//! locks, and the discard of block devices. No policy.

#![expect(unsafe_code)]
// UNSAFETY: the kernel takes addresses here, and no crate in use wraps these calls for memory that
// is not a Rust slice.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// The most buffers of one call (`IOV_MAX` of Linux).
const MAX_BUFFERS: usize = 1024;

/// One `preadv`: how many bytes were read, 0 at the end of the file.
pub(super) fn read_vectored(
    fd: BorrowedFd<'_>,
    offset: u64,
    to: &[VolatileSlice<'_>],
) -> io::Result<usize> {
    let offset = signed(offset)?;
    let to = &to[..to.len().min(MAX_BUFFERS)];
    let guards: Vec<_> = to.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast(),
            iov_len: guard.len(),
        })
        .collect();
    retry(|| {
        // SAFETY: every vector is the whole of a live volatile slice, whose memory may be written by
        // anybody at any time, and the guards live until after the call.
        unsafe { libc::preadv(fd.as_raw_fd(), vectors.as_ptr(), count(&vectors), offset) }
    })
}

/// One `pwritev`: how many bytes were written.
pub(super) fn write_vectored(
    fd: BorrowedFd<'_>,
    offset: u64,
    from: &[VolatileSlice<'_>],
) -> io::Result<usize> {
    let offset = signed(offset)?;
    let from = &from[..from.len().min(MAX_BUFFERS)];
    let guards: Vec<_> = from.iter().map(VolatileSlice::ptr_guard).collect();
    let vectors: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast_mut().cast(),
            iov_len: guard.len(),
        })
        .collect();
    retry(|| {
        // SAFETY: as for preadv; the kernel only reads through these vectors.
        unsafe { libc::pwritev(fd.as_raw_fd(), vectors.as_ptr(), count(&vectors), offset) }
    })
}

/// Vectors of one call as the kernel counts them; there are at most [`MAX_BUFFERS`].
fn count(vectors: &[libc::iovec]) -> i32 {
    i32::try_from(vectors.len()).unwrap_or(i32::MAX)
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(done) => return Ok(done),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// What is done to a byte of a file's locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockOperation {
    /// Others may lock it for reading too.
    ReadLock,
    /// Nobody's any more.
    Unlock,
}

/// Sets or drops the lock of this open file description on one byte, without waiting.
pub(super) fn lock_byte(fd: BorrowedFd<'_>, at: i64, what: LockOperation) -> io::Result<()> {
    let mut lock = one_byte(
        at,
        match what {
            LockOperation::ReadLock => libc::F_RDLCK,
            LockOperation::Unlock => libc::F_UNLCK,
        },
    );
    fcntl_lock(fd, libc::F_OFD_SETLK, &mut lock)
}

/// Whether somebody else's lock on this byte would keep one for writing away.
pub(super) fn is_locked(fd: BorrowedFd<'_>, at: i64) -> io::Result<bool> {
    let mut lock = one_byte(at, libc::F_WRLCK);
    fcntl_lock(fd, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn one_byte(at: i64, kind: i32) -> libc::flock {
    libc::flock {
        // The constants are 0 to 2.
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: at,
        l_len: 1,
        // Has to be 0 for locks of open file descriptions.
        l_pid: 0,
    }
}

fn fcntl_lock(fd: BorrowedFd<'_>, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    retry(|| {
        // SAFETY: both commands take a pointer to a flock, which they may write.
        let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) };
        result as isize
    })
    .map(drop)
}

/// `BLKDISCARD` of `linux/fs.h`.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// Gives a range of a block device back.
pub(super) fn discard_blocks(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    retry(|| {
        // SAFETY: the request takes a pointer to two 64-bit numbers, which it reads.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
        result as isize
    })
    .map(drop)
}
