//! One open file or block device of the host: opened as the cache mode says, locked, read, written,
//! discarded, zeroed and resized.
//!
//! Knows no formats and no guests. Every image ends here, formats by way of their library.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use vm_memory::VolatileSlice;
use xenner_console::{FdSource, fdset_number};

use super::buffers::{self, AlignedBuffer};
use super::config::{CacheConfig, FileConfig, FileKind, Locking};
use super::error::ImageError;
use super::host::{self, Limits};
use super::lock::{self, Claim, LockFault};
use super::sys;

/// The most bytes that are copied at once where buffers do not suit `O_DIRECT`.
const BOUNCE_BYTES: usize = 1 << 20;

/// The most buffers of one call (`IOV_MAX` of Linux).
const MAX_SLICES: usize = 1024;

/// An open file or block device.
#[derive(Debug)]
pub(super) struct HostFile {
    fd: OwnedFd,
    path: PathBuf,
    device: bool,
    writable: bool,
    cache: CacheConfig,
    limits: Limits,
    /// Bytes, as they were when the file was opened or resized last.
    size: AtomicU64,
    claim: Option<Claim>,
    no_punch: AtomicBool,
    no_zero: AtomicBool,
    /// Writes of parts of a block take turns: a part is written by reading the block, changing it
    /// and writing it. Writes of whole blocks need no turn, for one that meets a part of its blocks
    /// is the guest's race.
    parts: Mutex<()>,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    /// For writing as well.
    pub(super) write: bool,
    /// Past the page cache, and whether flushes count.
    pub(super) cache: CacheConfig,
}

impl HostFile {
    /// Opens the file; nothing is locked yet.
    pub(super) fn open(
        config: &FileConfig,
        access: Access,
        fds: &mut dyn FdSource,
    ) -> Result<Self, ImageError> {
        let path = config.path.clone();
        let fd = open_fd(&path, access, fds)?;
        let device = check_kind(&fd, &path, config.kind)?;
        let limits = host::limits(fd.as_fd(), device, access.cache.direct)
            .map_err(query(&path, "limits"))?;
        let size = read_size(fd.as_fd()).map_err(query(&path, "size"))?;
        let mut file = Self::new(fd, path, access.cache, limits, size);
        (file.device, file.writable) = (device, access.write);
        Ok(file)
    }

    /// A file that can be written.
    fn new(fd: OwnedFd, path: PathBuf, cache: CacheConfig, limits: Limits, size: u64) -> Self {
        Self {
            fd,
            path,
            device: false,
            writable: true,
            cache,
            limits,
            size: AtomicU64::new(size),
            claim: None,
            no_punch: AtomicBool::new(false),
            no_zero: AtomicBool::new(false),
            parts: Mutex::new(()),
        }
    }

    /// A last partial block cannot be written past the page cache without making the file longer,
    /// which only a format may do.
    pub(super) fn check_direct_size(&self) -> Result<(), ImageError> {
        let align = self.limits.offset_align;
        let odd = !self.size().is_multiple_of(u64::from(align));
        if self.writable && !self.device && odd {
            return Err(ImageError::DirectSize {
                path: self.path.clone(),
                align,
            });
        }
        Ok(())
    }

    /// A new file that has no name any more, in the directory for temporary files.
    pub(super) fn temporary() -> Result<Self, ImageError> {
        let directory = std::env::temp_dir();
        let failed = |source| ImageError::Temporary {
            path: directory.clone(),
            source,
        };
        let fd = unnamed_file(&directory).map_err(failed)?;
        // Nothing of it outlives the process, so nothing has to reach the medium.
        let cache = CacheConfig {
            direct: false,
            no_flush: true,
        };
        let limits = host::limits(fd.as_fd(), false, false).map_err(failed)?;
        Ok(Self::new(fd, directory.clone(), cache, limits, 0))
    }

    /// Locks the file as its user needs it, until it is dropped.
    pub(super) fn lock(&mut self, claim: Claim, mode: Locking) -> Result<(), ImageError> {
        let path = || self.path.clone();
        lock::acquire(self.fd.as_fd(), &claim, mode).map_err(|fault| match fault {
            LockFault::Held(permission) => ImageError::Locked {
                path: path(),
                permission: permission.name(),
                shared: false,
            },
            LockFault::Shared(permission) => ImageError::Locked {
                path: path(),
                permission: permission.name(),
                shared: true,
            },
            LockFault::Host(source) => ImageError::NoLocks {
                path: path(),
                source,
            },
        })?;
        self.claim = (mode != Locking::Off).then_some(claim);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Bytes that it takes on its file system; for a device its size.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&self.fd)?;
        match self.device {
            true => Ok(self.size()),
            false => Ok(u64::try_from(stat.st_blocks).unwrap_or(0) * 512),
        }
    }

    pub(super) fn is_device(&self) -> bool {
        self.device
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads; what lies behind the end is zeros.
    pub(super) fn read(&self, offset: u64, to: &[VolatileSlice<'_>]) -> io::Result<()> {
        if self.is_aligned(offset, to) {
            return buffers::fill(offset, to, |at, to| {
                sys::read_vectored(self.fd.as_fd(), at, to)
            });
        }
        let total = buffers::total(to);
        let mut done = 0;
        while done < total {
            let (mut block, skip, part) = self.read_block(offset + done as u64, total - done)?;
            buffers::scatter(&block.bytes()[skip..skip + part], to, done);
            done += part;
        }
        Ok(())
    }

    /// Writes; the file grows where that is behind its end.
    pub(super) fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        let total = buffers::total(from);
        if self.is_aligned(offset, from) {
            self.write_whole(offset, from)?;
        } else {
            let _turn = self.turn();
            let mut done = 0;
            while done < total {
                let (mut block, skip, part) =
                    self.read_block(offset + done as u64, total - done)?;
                buffers::gather(from, done, &mut block.bytes()[skip..skip + part]);
                let whole = block.bytes().len();
                let at = offset + done as u64 - skip as u64;
                self.write_whole(at, &[block.head(whole)])?;
                done += part;
            }
        }
        self.size.fetch_max(offset + total as u64, Ordering::AcqRel);
        Ok(())
    }

    fn write_whole(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        buffers::drain(offset, from, |at, from| {
            sys::write_vectored(self.fd.as_fd(), at, from)
        })
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The aligned surroundings of up to `len` bytes at `offset`, where in them these begin, and how
    /// many of them there are.
    fn read_block(&self, offset: u64, len: usize) -> io::Result<(AlignedBuffer, usize, usize)> {
        let align = self.limits.offset_align as usize;
        let skip = (offset % align as u64) as usize;
        let part = len.min(BOUNCE_BYTES - skip);
        let whole = (skip + part).next_multiple_of(align);
        let mut block = AlignedBuffer::new(whole, self.limits.memory_align as usize);
        buffers::fill(offset - skip as u64, &[block.head(whole)], |at, to| {
            sys::read_vectored(self.fd.as_fd(), at, to)
        })?;
        Ok((block, skip, part))
    }

    /// Whether the kernel takes the buffers as they are.
    fn is_aligned(&self, offset: u64, list: &[VolatileSlice<'_>]) -> bool {
        let (memory, block) = (self.limits.memory_align, self.limits.offset_align);
        if memory == 1 && block == 1 {
            return true;
        }
        let suits = |buffer: &VolatileSlice<'_>| {
            let address = buffer.ptr_guard().as_ptr().addr();
            address.is_multiple_of(memory as usize) && buffer.len().is_multiple_of(block as usize)
        };
        offset.is_multiple_of(u64::from(block)) && list.iter().all(suits)
    }

    /// Reads into a library's buffers; what lies behind the end is zeros.
    pub(super) fn read_slices(&self, to: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let mut left = to;
        let mut offset = offset;
        while !left.is_empty() {
            let count = left.len().min(MAX_SLICES);
            match rustix::io::preadv(&self.fd, &mut left[..count], offset) {
                Ok(0) => {
                    left.iter_mut().for_each(|slice| slice.fill(0));
                    return Ok(());
                }
                Ok(done) => {
                    offset += done as u64;
                    IoSliceMut::advance_slices(&mut left, done);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes a library's buffers; the file grows where that is behind its end.
    pub(super) fn write_slices(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut slices = from.to_vec();
        let mut left = &mut slices[..];
        let mut at = offset;
        while !left.is_empty() {
            let count = left.len().min(MAX_SLICES);
            match rustix::io::pwritev(&self.fd, &left[..count], at) {
                Ok(0) if left.iter().all(|slice| slice.is_empty()) => break,
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                Ok(done) => {
                    at += done as u64;
                    IoSlice::advance_slices(&mut left, done);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.size.fetch_max(at, Ordering::AcqRel);
        Ok(())
    }

    /// As [`Self::write_zeroes`], and the file ends behind the range at least.
    pub(super) fn write_zeroes_growing(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> io::Result<()> {
        let end = offset + len;
        let size = self.size();
        if offset < size {
            self.write_zeroes(offset, len.min(size - offset), unmap)?;
        }
        // Written, not truncated: another thread may have made the file longer meanwhile.
        match end > size {
            true => self.write_zero_bytes(offset.max(size), end - offset.max(size)),
            false => Ok(()),
        }
    }

    /// Returns when all that was written is on stable storage, unless flushes do not count.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.cache.no_flush || !self.writable {
            return Ok(());
        }
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }

    /// Gives a range back; `EOPNOTSUPP` where the host cannot.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.no_punch.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let result = if self.device {
            sys::discard_blocks(self.fd.as_fd(), offset, len)
        } else {
            self.allocate(FallocateFlags::PUNCH_HOLE, offset, len)
        };
        remember(&self.no_punch, result)
    }

    /// Makes a range read as zeros; with `unmap` without space where the host can.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if unmap && !self.no_punch.load(Ordering::Relaxed) {
            let punched = self.allocate(FallocateFlags::PUNCH_HOLE, offset, len);
            match remember(&self.no_punch, punched) {
                Err(error) if is_unsupported(&error) => {}
                result => return result,
            }
        }
        if !self.no_zero.load(Ordering::Relaxed) {
            let zeroed = self.allocate(FallocateFlags::ZERO_RANGE, offset, len);
            match remember(&self.no_zero, zeroed) {
                Err(error) if is_unsupported(&error) => {}
                result => return result,
            }
        }
        self.write_zero_bytes(offset, len)
    }

    fn write_zero_bytes(&self, offset: u64, len: u64) -> io::Result<()> {
        let whole = len.min(BOUNCE_BYTES as u64) as usize;
        let mut zeros = AlignedBuffer::new(whole, self.limits.memory_align as usize);
        let mut done = 0;
        while done < len {
            let part = (len - done).min(whole as u64);
            self.write(offset + done, &[zeros.head(part as usize)])?;
            done += part;
        }
        Ok(())
    }

    /// The size stays as it is. Waits for writes of partial blocks, which hold old bytes.
    fn allocate(&self, how: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let _turn = self.turn();
        let how = how | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&self.fd, how, offset, len) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Makes a file longer or shorter; of a device only the present size is read anew.
    pub(super) fn resize(&self, size: u64) -> io::Result<()> {
        if !self.device {
            let _turn = self.turn();
            rustix::fs::ftruncate(&self.fd, size)?;
        }
        let present = read_size(self.fd.as_fd())?;
        self.size.store(present, Ordering::Release);
        if self.device && size > present {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(())
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        // A passed descriptor lives on in its set, and locks with it.
        if let Some(claim) = &self.claim {
            lock::release(self.fd.as_fd(), claim);
        }
    }
}

/// Passes a result on and remembers that the host cannot do it.
fn remember(unsupported: &AtomicBool, result: io::Result<()>) -> io::Result<()> {
    if let Err(error) = &result
        && is_unsupported(error)
    {
        unsupported.store(true, Ordering::Relaxed);
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    result
}

/// What file systems and devices answer that do not know a request at all.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV)
    )
}

fn query(path: &Path, what: &'static str) -> impl Fn(io::Error) -> ImageError {
    move |source| ImageError::Query {
        path: path.to_owned(),
        what,
        source,
    }
}

/// Both files and devices have an end to seek to.
fn read_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::seek(fd, SeekFrom::End(0))?)
}

fn open_fd(path: &Path, access: Access, fds: &mut dyn FdSource) -> Result<OwnedFd, ImageError> {
    let failed = |source| ImageError::Open {
        path: path.to_owned(),
        source,
    };
    if let Some(set) = fdset_number(path) {
        let fd = fds.fdset_for(set, access.write).map_err(failed)?;
        return with_direct(fd, path, access.cache.direct);
    }
    let mode = if access.write {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    // A FIFO must not block here; files and block devices do not know the flag.
    let flags = mode | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let direct = if access.cache.direct {
        OFlags::DIRECT
    } else {
        OFlags::empty()
    };
    match rustix::fs::open(path, flags | direct, Mode::empty()) {
        Ok(fd) => {
            // With it, io_uring would answer EAGAIN where a file system has to sleep.
            rustix::fs::fcntl_setfl(&fd, mode | direct).map_err(|error| failed(error.into()))?;
            Ok(fd)
        }
        // What the file system says to O_DIRECT; the same answer without it has another reason.
        Err(rustix::io::Errno::INVAL) if access.cache.direct => {
            match rustix::fs::open(path, flags, Mode::empty()) {
                Ok(_) => Err(ImageError::NoDirect {
                    path: path.to_owned(),
                }),
                Err(error) => Err(failed(error.into())),
            }
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// A file without a name; where the file system has no such files, its name is removed at once.
fn unnamed_file(directory: &Path) -> io::Result<OwnedFd> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
        Ok(fd) => return Ok(fd),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let nanoseconds = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec;
    let name = format!("xenner-snapshot-{}-{nanoseconds}", std::process::id());
    let path = directory.join(name);
    let fd = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    rustix::fs::unlink(&path)?;
    Ok(fd)
}

/// Sets or clears `O_DIRECT` of a passed descriptor.
fn with_direct(fd: OwnedFd, path: &Path, direct: bool) -> Result<OwnedFd, ImageError> {
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(|error| query(path, "flags")(error.into()))?;
    if flags.contains(OFlags::DIRECT) != direct {
        let mut wanted = flags;
        wanted.set(OFlags::DIRECT, direct);
        rustix::fs::fcntl_setfl(&fd, wanted).map_err(|_| ImageError::NoDirect {
            path: path.to_owned(),
        })?;
    }
    Ok(fd)
}

/// Whether it is a block device; anything but that and a regular file is refused.
fn check_kind(fd: &OwnedFd, path: &Path, kind: FileKind) -> Result<bool, ImageError> {
    let stat = rustix::fs::fstat(fd).map_err(|error| query(path, "type")(error.into()))?;
    let refused = |found, way_out| {
        Err(ImageError::Kind {
            path: path.to_owned(),
            found,
            way_out,
        })
    };
    match (FileType::from_raw_mode(stat.st_mode), kind) {
        (FileType::RegularFile, FileKind::File) => Ok(false),
        (FileType::BlockDevice, _) => Ok(true),
        (FileType::RegularFile, _) => refused("no block device", "use driver=file"),
        (FileType::Directory, _) => refused("a directory", "name an image file in it"),
        _ => refused(
            "neither a file nor a block device",
            "name an image file or a block device",
        ),
    }
}
