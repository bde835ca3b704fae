//! Carries out calls on images without making a queue wait: through `io_uring` where the image is a
//! file of its own bytes, by a pool of threads for all else.
//!
//! A [`Job`] owns all that its call touches, the mapped pages included, from the start until it
//! comes back: nothing is unmapped under the kernel's hands.

mod pool;
mod uring;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::VolatileSlice;

use super::policy::Aio;
use super::request::{Range, Work};
use crate::bell::Bell;
use crate::domain::Grant;
use crate::image::Image;

pub use pool::Pool;
use uring::{Rejected, Uring};

/// A part of a mapped page.
#[derive(Debug)]
pub struct Part {
    /// The page.
    pub page: Arc<Grant>,
    /// The first byte in it.
    pub offset: usize,
    /// Bytes; the part lies in the page.
    pub len: usize,
}

/// One call on an image.
#[derive(Debug)]
pub struct Job {
    /// The image.
    pub image: Arc<dyn Image>,
    /// What to call.
    pub work: Work,
    /// Where in the image; a flush has none.
    pub range: Range,
    /// The guest's memory, as long as `range`, for reads and writes.
    pub parts: Vec<Part>,
}

impl Job {
    /// Does it, here and now.
    fn run(&self) -> io::Result<()> {
        let Range { offset, len } = self.range;
        match self.work {
            Work::Read => self.image.read(offset, &self.slices()?),
            Work::Write => self.image.write(offset, &self.slices()?),
            Work::Flush => self.image.flush(),
            Work::Discard(kind) => self.image.discard(offset, len, kind),
        }
    }

    fn slices(&self) -> io::Result<Vec<VolatileSlice<'_>>> {
        self.parts
            .iter()
            .map(|part| part.page.slice().subslice(part.offset, part.len))
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)
    }
}

/// A job that is done.
#[derive(Debug)]
pub struct Done {
    /// The number it was started with.
    pub token: usize,
    /// The job.
    pub job: Box<Job>,
    /// How it went.
    pub result: io::Result<()>,
}

/// Where a queue's jobs come back from the pool.
#[derive(Debug)]
pub struct Mailbox {
    done: Mutex<Vec<Done>>,
    /// Rung when something comes into an empty box; others may ring it to wake the queue.
    pub bell: Bell,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// As [`Bell::new`].
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            done: Mutex::new(Vec::new()),
            bell: Bell::new()?,
        })
    }

    fn put(&self, done: Done) {
        let mut waiting = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(done);
        if waiting.len() == 1 {
            self.bell.ring();
        }
    }

    fn take(&self, into: &mut Vec<Done>) {
        let mut waiting = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut waiting);
    }
}

/// A queue's way to its images. Lives on the queue's thread.
#[derive(Debug)]
pub struct Engine {
    uring: Option<Uring>,
    pool: Arc<Pool>,
    mailbox: Arc<Mailbox>,
    /// Jobs that have not come back.
    active: usize,
}

impl Engine {
    /// An engine for up to `depth` jobs at a time, numbered below `depth`. Without an `io_uring` of
    /// the host's it does with the pool.
    #[must_use]
    pub fn new(aio: Aio, depth: u32, pool: Arc<Pool>, mailbox: Arc<Mailbox>) -> Self {
        let uring = match aio {
            Aio::Threads => None,
            Aio::IoUring => Uring::new(depth)
                .inspect_err(|error| {
                    log::info!(target: "blkback", "No io_uring ({error}): threads do the I/O");
                })
                .ok(),
        };
        Self {
            uring,
            pool,
            mailbox,
            active: 0,
        }
    }

    /// Jobs that have not come back.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active
    }

    /// Takes a job up; `token` is of no other job that has not come back. It may wait for
    /// [`Self::submit`].
    pub fn start(&mut self, token: usize, job: Box<Job>) {
        self.active += 1;
        match &mut self.uring {
            Some(uring) => {
                if let Err(Rejected(job)) = uring.start(token, job) {
                    self.pool.start(token, job, &self.mailbox);
                }
            }
            None => self.pool.start(token, job, &self.mailbox),
        }
    }

    /// Sends off all that was started: one system call for any number of jobs. False if the host
    /// takes no more at the moment; to be called again.
    ///
    /// # Errors
    /// The host's `io_uring` is broken.
    pub fn submit(&mut self) -> io::Result<bool> {
        self.uring.as_mut().map_or(Ok(true), Uring::submit)
    }

    /// Collects the jobs that are done, without waiting.
    pub fn collect(&mut self, into: &mut Vec<Done>) {
        let before = into.len();
        if let Some(uring) = &mut self.uring {
            let mut again = Vec::new();
            uring.collect(into, &mut again);
            for (token, job) in again {
                self.pool.start(token, job, &self.mailbox);
            }
        }
        self.mailbox.take(into);
        self.active -= into.len() - before;
    }

    /// What is readable when jobs are done, besides the mailbox' bell.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.uring.as_ref().map(Uring::fd)
    }
}
