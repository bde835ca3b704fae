//! One ring of a disk and the thread that serves it.
//!
//! The thread sleeps until the domain sends an event, the host has done something, or the VMM wants
//! it. Then it takes up all requests that wait, hands them to the host in one system call, answers
//! what is done and notifies the domain at most once, as long as there is something to do.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use xenner_xen_abi::io::blkif::{BLKIF_RSP_ERROR, BLKIF_RSP_OKAY};

use super::disk::{Disk, Medium, Seat};
use super::engine::{Done, Engine, Job, Mailbox, Part};
use super::grants::Pages;
use super::policy::{CacheMode, ErrorAction, IoFault};
use super::protocol::{
    self, Abi, Body, MAX_ENTRY, Request, SEGMENT_SIZE, SEGMENTS_PER_PAGE, Segment,
};
use super::request::{self, MAX_INDIRECT, Plan, Range, Refused, Work};
use super::slots::{Slot, Slots};
use crate::domain::{Channel, GrantError};
use crate::ring::{BackRing, RingError};
use crate::xenbus::{Closer, DeviceError};

/// Sleeps no longer while pages are kept mapped: unused ones are to be given back.
const PURGE_TICK: Duration = Duration::from_secs(10);
/// How soon the host is asked again when it could take no more.
const BUSY_TICK: Duration = Duration::from_millis(1);

/// What a queue is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub ring: BackRing,
    pub channel: Arc<dyn Channel>,
    pub abi: Abi,
    pub pages: Pages,
    pub closer: Closer,
    pub mailbox: Arc<Mailbox>,
    pub stop: Arc<AtomicBool>,
}

/// Why a queue ends before it is told to.
enum Broken {
    /// By the frontend.
    Ring(RingError),
    /// By the host.
    Host(io::Error),
}

impl From<RingError> for Broken {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<Broken> for DeviceError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Ring(error) => error.into(),
            Broken::Host(error) => error.into(),
        }
    }
}

/// A queue on its thread.
#[derive(Debug)]
pub(super) struct Queue {
    disk: Arc<Disk>,
    ring: BackRing,
    channel: Arc<dyn Channel>,
    abi: Abi,
    pages: Pages,
    closer: Closer,
    mailbox: Arc<Mailbox>,
    stop: Arc<AtomicBool>,
    engine: Engine,
    slots: Slots,
    seat: Seat,
    /// The medium and the disk's generation that it is of.
    medium: Option<Arc<Medium>>,
    generation: u64,
    /// The disk's retries that were seen.
    retries: u64,
    /// The request that runs alone, or waits until it does; nothing is taken up beside it.
    alone: Option<usize>,
    /// Of the turn that is under way.
    now: Instant,
    /// The host has not taken all that was started.
    host_busy: bool,
    done: Vec<Done>,
    segments: Vec<Segment>,
    /// The frontend's nonsense was told once.
    told: bool,
}

impl Queue {
    /// Makes a queue; to be called on its thread.
    pub fn new(disk: Arc<Disk>, parts: Parts) -> Self {
        let Parts {
            ring,
            channel,
            abi,
            pages,
            closer,
            mailbox,
            stop,
        } = parts;
        let depth = ring.size();
        let engine = Engine::new(disk.config.aio, depth, disk.pool.clone(), mailbox.clone());
        Self {
            seat: Seat::new(disk.clone(), &mailbox),
            generation: disk.generation(),
            medium: disk.medium(),
            retries: disk.retries(),
            slots: Slots::new(depth),
            disk,
            ring,
            channel,
            abi,
            pages,
            closer,
            mailbox,
            stop,
            engine,
            alone: None,
            now: Instant::now(),
            host_busy: false,
            done: Vec::new(),
            segments: Vec::new(),
            told: false,
        }
    }

    /// Serves the ring until the queue is told to stop or cannot go on, and finishes what is under
    /// way.
    pub fn run(mut self) {
        let mut host = Ok(());
        if let Err(broken) = self.serve() {
            if let Broken::Host(error) = &broken {
                host = Err(error.kind());
            }
            self.closer.close(broken.into());
        }
        if host.is_ok() {
            host = self.finish().map_err(|error| error.kind());
        }
        if let Err(error) = host {
            let lost = self.slots.used();
            log::error!(target: "blkback", "{}: {lost} requests stay unanswered: {error}", self.disk.config.name);
            self.slots
                .take_held()
                .iter()
                .for_each(|_| self.disk.let_go());
        }
    }

    fn serve(&mut self) -> Result<(), Broken> {
        while !self.stop.load(Ordering::Acquire) {
            self.now = Instant::now();
            let mut busy = false;
            if self.seat.may_work() {
                self.retry();
                busy = self.take_requests()?;
            }
            busy |= self.settle().map_err(Broken::Host)?;
            if self.engine.active() == 0 {
                self.seat.may_rest();
            }
            self.pages.purge(self.now);
            if busy || (self.takes_requests() && self.ring.final_check()?) {
                continue;
            }
            self.sleep().map_err(Broken::Host)?;
        }
        Ok(())
    }

    /// Whether waiting requests are a reason to stay awake.
    fn takes_requests(&mut self) -> bool {
        self.alone.is_none() && self.seat.may_work()
    }

    /// Sends off what was started, takes in what is done, and shows the answers to the frontend;
    /// true if there was any.
    fn settle(&mut self) -> io::Result<bool> {
        self.host_busy = !self.engine.submit()?;
        let mut any = false;
        loop {
            let mut done = std::mem::take(&mut self.done);
            self.engine.collect(&mut done);
            let none = done.is_empty();
            if !none {
                self.now = Instant::now();
            }
            for job in done.drain(..) {
                self.job_done(job);
            }
            self.done = done;
            if none {
                break;
            }
            any = true;
            // Some requests have more than one job.
            self.host_busy = !self.engine.submit()?;
        }
        if self.ring.push_responses() {
            self.disk.counters.notified();
            self.channel.notify();
        }
        Ok(any)
    }

    /// Takes up the requests that wait, no more than the ring holds; true if there was any.
    fn take_requests(&mut self) -> Result<bool, RingError> {
        let mut entry = [0; MAX_ENTRY];
        let size = self.abi.entry_size();
        let mut any = false;
        for _ in 0..self.ring.size() {
            if self.alone.is_some() || !self.ring.next_request(&mut entry[..size])? {
                break;
            }
            any = true;
            let request = Request::decode(&entry, self.abi);
            if let Err(refused) = self.take(&request) {
                self.refuse(&request, refused);
            }
        }
        Ok(any)
    }

    fn refuse(&mut self, request: &Request, refused: Refused) {
        let name = &self.disk.config.name;
        if !std::mem::replace(&mut self.told, true) {
            log::warn!(target: "blkback", "{name}: a request is refused: {refused}; more of this only with -d blkback");
        }
        log::debug!(target: "blkback", "{name}: {refused}: {request:?}");
        self.disk.counters.invalid(request::kind(&request.body));
        self.respond(request.id, request.op, refused.status());
    }

    /// Checks a request and begins it.
    fn take(&mut self, request: &Request) -> Result<(), Refused> {
        if self.generation != self.disk.generation() {
            self.generation = self.disk.generation();
            self.medium = self.disk.medium();
        }
        let Some(medium) = self.medium.clone() else {
            return Err(match request.body {
                Body::Unknown => Refused::Unsupported,
                _ => Refused::NoMedium,
            });
        };
        let mut plan = self.plan(request, &medium)?;
        if self.disk.config.cache == CacheMode::Unsafe {
            (plan.flush_before, plan.flush_after) = (false, false);
        }
        let parts = match plan.data {
            Some(data) => self.map(data.work == Work::Read)?,
            None => Vec::new(),
        };
        let who = (request.id, request.op);
        let slot = Slot::new(who, plan, medium.image.clone(), parts, self.now);
        // As many slots as ring entries: a frontend that has more under way has broken the ring.
        let Ok(token) = self.slots.insert(slot) else {
            return Err(Refused::Unsupported);
        };
        if !plan.alone {
            self.go_on(token);
        } else if self.slots.used() == 1 {
            self.alone = Some(token);
            self.go_on(token);
        } else {
            self.alone = Some(token);
        }
        Ok(())
    }

    /// What a request does; its segments are in `segments` then.
    fn plan(&mut self, request: &Request, medium: &Medium) -> Result<Plan, Refused> {
        let geometry = &medium.geometry;
        let durable = self.disk.config.cache == CacheMode::Writethrough;
        self.segments.clear();
        match &request.body {
            Body::Direct {
                op,
                sector,
                count,
                segments,
            } => {
                let count = request::direct_count(*count)?;
                self.segments.extend_from_slice(&segments[..count]);
                request::plan_data(*op, *sector, &self.segments, geometry, durable)
            }
            Body::Indirect {
                op,
                sector,
                count,
                pages,
            } => {
                let op = op.ok_or(Refused::Unsupported)?;
                self.read_segments(*count, pages)?;
                request::plan_data(op, *sector, &self.segments, geometry, durable)
            }
            Body::Discard {
                sector,
                count,
                secure,
            } => request::plan_discard(*sector, *count, *secure, geometry, durable),
            Body::Unknown => Err(Refused::Unsupported),
        }
    }

    /// Copies the segments of an indirect request out of the pages that list them.
    fn read_segments(&mut self, count: u16, pages: &[u32]) -> Result<(), Refused> {
        if count == 0 || count > MAX_INDIRECT {
            return Err(Refused::SegmentCount(count));
        }
        let mut bytes = [0; SEGMENTS_PER_PAGE * SEGMENT_SIZE];
        let mut left = usize::from(count);
        for gref in pages {
            if left == 0 {
                break;
            }
            let here = left.min(SEGMENTS_PER_PAGE);
            let list = &mut bytes[..here * SEGMENT_SIZE];
            let page = self.pages.get(*gref, false, self.now)?;
            if !page.copy_out(0, list) {
                return Err(GrantError::BadFrame(*gref).into());
            }
            self.segments.extend(protocol::indirect_segments(list));
            left -= here;
        }
        Ok(())
    }

    /// Maps the pages of the segments.
    fn map(&mut self, write: bool) -> Result<Vec<Part>, Refused> {
        let mut parts = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let (offset, len) = request::part_of_page(segment)?;
            let page = self.pages.get(segment.gref, write, self.now)?;
            parts.push(Part { page, offset, len });
        }
        Ok(parts)
    }

    /// Starts a request's next job, or answers it.
    fn go_on(&mut self, token: usize) {
        let Some(slot) = self.slots.get(token) else {
            return;
        };
        match slot.next_job() {
            Some(job) => self.engine.start(token, job),
            None => self.answer(token, true),
        }
    }

    fn job_done(&mut self, done: Done) {
        let Done { token, job, result } = done;
        let Err(error) = result else {
            // The pages are given back before the frontend hears that it may have them.
            drop(job);
            return self.go_on(token);
        };
        let errno = request::errno(&error);
        let policies = &self.disk.config.policies;
        let policy = match job.work {
            Work::Read => policies.read,
            _ => policies.write,
        };
        let mut action = policy.action(errno);
        if action == ErrorAction::Stop && self.stop.load(Ordering::Acquire) {
            // Nobody will come to try again.
            action = ErrorAction::Report;
        }
        let fault = IoFault {
            kind: job.work.kind(),
            offset: job.range.offset,
            len: job.range.len,
            errno,
            action,
        };
        match action {
            ErrorAction::Ignore => {
                drop(job);
                self.go_on(token);
            }
            ErrorAction::Report => {
                drop(job);
                self.answer(token, false);
            }
            ErrorAction::Stop => {
                if let Some(slot) = self.slots.get(token) {
                    slot.hold(job);
                    self.disk.hold();
                }
            }
        }
        self.disk.events.io_error(&fault);
    }

    /// Starts the jobs again that were kept, if the VMM says so.
    fn retry(&mut self) {
        let retries = self.disk.retries();
        if self.retries == retries {
            return;
        }
        self.retries = retries;
        for (token, job) in self.slots.take_held() {
            self.disk.let_go();
            self.engine.start(token, job);
        }
    }

    /// Ends a request.
    fn answer(&mut self, token: usize, ok: bool) {
        let Some(slot) = self.slots.remove(token) else {
            return;
        };
        let range = slot.plan.data.map_or(Range::EMPTY, |data| data.range);
        self.disk.counters.done(
            slot.plan.kind,
            ok,
            range,
            self.now.saturating_duration_since(slot.started),
        );
        let status = if ok { BLKIF_RSP_OKAY } else { BLKIF_RSP_ERROR };
        self.respond(slot.id, slot.op, status);
        match self.alone {
            Some(alone) if alone == token => self.alone = None,
            Some(alone) if self.slots.used() == 1 => self.go_on(alone),
            _ => (),
        }
    }

    fn respond(&mut self, id: u64, op: u8, status: i16) {
        self.ring.put_response(&protocol::response(id, op, status));
    }

    fn sleep(&mut self) -> io::Result<()> {
        let tick = if self.host_busy {
            Some(BUSY_TICK)
        } else {
            (self.pages.kept() > 0).then_some(PURGE_TICK)
        };
        // A few seconds fit.
        let tick = tick.and_then(|tick| Timespec::try_from(tick).ok());
        let channel = PollFd::from_borrowed_fd(self.channel.as_fd(), PollFlags::IN);
        let bell = PollFd::from_borrowed_fd(self.mailbox.bell.as_fd(), PollFlags::IN);
        let uring = self.engine.fd();
        let mut fds = [
            channel.clone(),
            bell,
            // Without a ring the channel's descriptor fills the place.
            uring.map_or(channel, |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        ];
        match poll(&mut fds, tick.as_ref()) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            self.channel.clear();
        }
        if !fds[1].revents().is_empty() {
            self.mailbox.bell.silence();
        }
        Ok(())
    }

    /// Waits for the host and answers all that is under way; what was kept fails.
    fn finish(&mut self) -> io::Result<()> {
        loop {
            self.now = Instant::now();
            for (token, job) in self.slots.take_held() {
                drop::<Box<Job>>(job);
                self.disk.let_go();
                self.answer(token, false);
            }
            self.settle()?;
            if self.slots.used() == 0 {
                return Ok(());
            }
            self.sleep()?;
        }
    }
}
