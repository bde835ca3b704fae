//! Jobs through `io_uring(7)`: reads and writes straight between the guest's pages and a file.

// UNSAFETY: submission queue entries hold the pages' addresses while the host's kernel works.
#![expect(unsafe_code)]

use std::fmt::{self, Debug};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode};
use rustix::io::Errno;

use super::{Done, Job};
use crate::blkback::request::Work;
use crate::domain::PAGE_SIZE;
use crate::image::RawTarget;

/// What `libc::iovec` is; `io_uring` takes its address.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct IoVec {
    base: *mut u8,
    len: usize,
}

/// Buffers of one request at most (`UIO_MAXIOV`).
const MAX_VECS: usize = 1024;

/// A job that the kernel has: it keeps the pages mapped, the descriptor open and the vector where
/// the kernel was told that it is.
struct Pending {
    job: Box<Job>,
    /// It is a write through the host's page cache.
    cached_write: bool,
    _vecs: Vec<IoVec>,
}

/// A job that is not for `io_uring`.
#[derive(Debug)]
pub struct Rejected(pub Box<Job>);

/// An `io_uring` and the jobs in it; stays on the thread that made it.
pub struct Uring {
    ring: IoUring,
    /// By token.
    pending: Vec<Option<Pending>>,
    /// Entries that no system call has handed over yet.
    unsubmitted: usize,
    /// Jobs in `pending`.
    active: usize,
    /// Those of them that write through the host's page cache, and that no system call has handed
    /// over yet.
    cached_writes: usize,
    fresh_writes: usize,
    /// The file system does not take such writes at once: the kernel has one worker do them, one
    /// after the other (ext4 is such a one, XFS is not).
    serial_writes: bool,
}

impl Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uring({} active)", self.active)
    }
}

impl Uring {
    /// A ring for up to `depth` jobs, numbered below `depth`.
    ///
    /// # Errors
    /// The host has none for this process: `ENOSYS`, `EPERM`, `ENOMEM`.
    pub fn new(depth: u32) -> io::Result<Self> {
        // Completions are looked for when the queue's thread looks: it need not be interrupted for
        // them. Older kernels do not know the flag.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .build(depth)
            .or_else(|_| IoUring::new(depth))?;
        Ok(Self {
            ring,
            pending: (0..depth).map(|_| None).collect(),
            unsubmitted: 0,
            active: 0,
            cached_writes: 0,
            fresh_writes: 0,
            serial_writes: false,
        })
    }

    /// What is readable when jobs are done.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the ring's, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// Takes up a job if its image is a file as it is and its pages suit the file, and threads would
    /// not be quicker: several writes at a time that the kernel does one after the other.
    ///
    /// # Errors
    /// [`Rejected`] gives the job back.
    pub fn start(&mut self, token: usize, job: Box<Job>) -> Result<(), Rejected> {
        let Some(Target { fd, vecs, cached }) = target(&job) else {
            return Err(Rejected(job));
        };
        let cached_write = cached && job.work == Work::Write;
        if cached_write && self.serial_writes && self.cached_writes > 0 {
            return Err(Rejected(job));
        }
        if self.pending.get(token).is_none_or(Option::is_some) {
            return Err(Rejected(job));
        }
        let entry = entry(&job, fd, &vecs).user_data(token as u64);
        // SAFETY: the vector and the pages that the entry points to belong to the job, which stays
        // in `pending` until the kernel is done with it (see `drop` too). The vector's buffer does
        // not move when the vector does.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            return Err(Rejected(job));
        }
        self.pending[token] = Some(Pending {
            job,
            cached_write,
            _vecs: vecs,
        });
        self.unsubmitted += 1;
        self.active += 1;
        self.cached_writes += usize::from(cached_write);
        self.fresh_writes += usize::from(cached_write);
        Ok(())
    }

    /// Hands what was taken up to the kernel; false if it takes no more at the moment.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn submit(&mut self) -> io::Result<bool> {
        while self.unsubmitted > 0 {
            match self.ring.submit() {
                Ok(count) => self.unsubmitted = self.unsubmitted.saturating_sub(count),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN | Errno::BUSY) => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
        if std::mem::take(&mut self.fresh_writes) > 0 {
            self.serial_writes = self.ring.completion().is_empty();
        }
        Ok(true)
    }

    /// Collects what is done, and in `again` what has to be done by other means: it was cut short
    /// or is not to the kernel's liking, and blocking calls will do it or find the true reason.
    pub fn collect(&mut self, done: &mut Vec<Done>, again: &mut Vec<(usize, Box<Job>)>) {
        for event in self.ring.completion() {
            let token = usize::try_from(event.user_data()).unwrap_or(usize::MAX);
            let pending = self.pending.get_mut(token).and_then(Option::take);
            let Some(Pending {
                job, cached_write, ..
            }) = pending
            else {
                continue;
            };
            self.active -= 1;
            self.cached_writes -= usize::from(cached_write);
            match outcome(&job, event.result()) {
                Some(result) => done.push(Done { token, job, result }),
                None => again.push((token, job)),
            }
        }
    }

    /// Waits until the kernel has let go of every job; false if it cannot be waited for.
    fn finish(&mut self) -> bool {
        let (mut done, mut again) = (Vec::new(), Vec::new());
        while self.active > 0 {
            self.collect(&mut done, &mut again);
            if self.active == 0 {
                break;
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.finish() {
            // The kernel may still use the vectors and pages: they must stay for ever.
            log::error!(target: "blkback", "Disk I/O under way cannot be waited for; its memory is given up");
            std::mem::forget(std::mem::take(&mut self.pending));
        }
    }
}

/// How a job went; nothing if it has to be done by other means.
fn outcome(job: &Job, result: i32) -> Option<io::Result<()>> {
    if let Ok(moved) = u64::try_from(result) {
        let all = matches!(job.work, Work::Flush) || moved == job.range.len;
        return all.then_some(Ok(()));
    }
    match Errno::from_raw_os_error(-result) {
        Errno::AGAIN | Errno::INTR | Errno::INVAL | Errno::OPNOTSUPP => None,
        errno => Some(Err(errno.into())),
    }
}

/// Where a job goes.
struct Target {
    fd: RawFd,
    vecs: Vec<IoVec>,
    /// Through the host's page cache.
    cached: bool,
}

/// Where a job goes and with which buffers, if `io_uring` can do it.
fn target(job: &Job) -> Option<Target> {
    let target = job.image.raw()?;
    let vecs = match job.work {
        Work::Flush => Vec::new(),
        Work::Read | Work::Write if is_whole(job) => vectors(job),
        _ => return None,
    };
    suits(job, &target, &vecs).then_some(Target {
        fd: target.fd.as_raw_fd(),
        vecs,
        cached: target.memory_alignment <= 1,
    })
}

/// Whether the parts lie in their pages, make up the range, and may be written to if they are.
fn is_whole(job: &Job) -> bool {
    let inside = job.parts.iter().all(|part| {
        (part.offset.checked_add(part.len)).is_some_and(|end| end <= PAGE_SIZE)
            && (job.work == Work::Write || part.page.is_writable())
    });
    inside && job.parts.iter().map(|part| part.len as u64).sum::<u64>() == job.range.len
}

/// The job's buffers; parts that follow each other in memory are one.
fn vectors(job: &Job) -> Vec<IoVec> {
    let mut vecs: Vec<IoVec> = Vec::with_capacity(job.parts.len());
    for part in &job.parts {
        let base = part.page.as_ptr().wrapping_add(part.offset);
        match vecs.last_mut() {
            Some(last) if last.base.wrapping_add(last.len) == base => last.len += part.len,
            _ => vecs.push(IoVec {
                base,
                len: part.len,
            }),
        }
    }
    vecs
}

fn suits(job: &Job, target: &RawTarget<'_>, vecs: &[IoVec]) -> bool {
    let memory = target.memory_alignment.max(1) as usize;
    let offset = target.offset_alignment.max(1);
    vecs.len() <= MAX_VECS
        && job.range.offset.is_multiple_of(offset.into())
        && vecs.iter().all(|vec| {
            vec.base.addr().is_multiple_of(memory) && vec.len.is_multiple_of(offset as usize)
        })
}

fn entry(job: &Job, fd: RawFd, vecs: &[IoVec]) -> Entry {
    let fd = Fd(fd);
    // A job has no more vectors than MAX_VECS.
    let (first, count) = (vecs.as_ptr().cast(), vecs.len() as u32);
    match job.work {
        Work::Read => opcode::Readv::new(fd, first, count)
            .offset(job.range.offset)
            .build(),
        Work::Write => opcode::Writev::new(fd, first, count)
            .offset(job.range.offset)
            .build(),
        Work::Flush | Work::Discard(_) => {
            opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build()
        }
    }
}
