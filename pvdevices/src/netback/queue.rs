//! One queue of a network device and its thread: packets from the transmit ring to the host end,
//! frames from the host end to the receive ring.
//!
//! Works in batches with at most one event each way. What cannot go on is kept, one packet in
//! each direction, and its source is not read meanwhile: a guest without free pages leaves frames
//! on the host, a host end that is busy leaves packets on the ring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::trace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Shared;
use super::frame::{Claims, adapt, describe};
use super::multicast::{FilterSwitch, MulticastFilter};
use super::rx::RxRing;
use super::tx::{Taken, TxRing};
use crate::bell::Bell;
use crate::domain::PAGE_SIZE;
use crate::netend::{MAX_FRAME, NetEnd, Offload, Offloads, Sent};
use crate::xenbus::DeviceError;

/// Packets that are moved one way before the other way has its turn.
const BATCH: usize = 64;
/// How long a frame waits for the guest before frames are thrown away, so that whoever sends them
/// is not held up by a guest that stands still.
const STALL: Duration = Duration::from_secs(10);
/// How often the ring is looked at for a frontend that sends no events for its free pages.
const UNNOTIFIED: Duration = Duration::from_millis(30);

/// What ends a queue's thread.
#[derive(Debug)]
pub(super) struct Stop {
    flag: AtomicBool,
    bell: Bell,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            flag: AtomicBool::new(false),
            bell: Bell::new()?,
        })
    }

    /// Ends all threads that share it.
    pub(super) fn ring(&self) {
        self.flag.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// What the frontend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    /// What may be left to it.
    pub(super) offloads: Offloads,
    /// Frames of more than a page (`feature-sg`).
    pub(super) scatter: bool,
    /// It sends events for free pages (`feature-rx-notify`).
    pub(super) notifies: bool,
}

/// A queue.
pub(super) struct Queue {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    end: Box<dyn NetEnd>,
    /// The multicast filter's, in one of a device's queues.
    switch: Option<FilterSwitch>,
    sender: Sender,
    receiver: Receiver,
    /// The packet or frame that is under way.
    packet: Vec<u8>,
    frame: Box<[u8]>,
}

/// From the guest.
#[derive(Debug)]
struct Sender {
    shared: Arc<Shared>,
    ring: TxRing,
    /// The rest of a packet that the host end has not taken yet.
    kept: VecDeque<(Offload, Vec<u8>)>,
}

/// To the guest.
#[derive(Debug)]
struct Receiver {
    shared: Arc<Shared>,
    ring: RxRing,
    can: Abilities,
    multicast: Arc<MulticastFilter>,
    /// The rest of a frame that waits for pages.
    kept: VecDeque<(Offload, Vec<u8>)>,
    /// Since when it waits.
    since: Option<Instant>,
    /// It waited too long: frames are thrown away until there are pages.
    stalled: bool,
}

impl Queue {
    pub(super) fn new(
        shared: Arc<Shared>,
        stop: Arc<Stop>,
        end: Box<dyn NetEnd>,
        (tx, rx): (TxRing, RxRing),
        (can, multicast, switch): (Abilities, Arc<MulticastFilter>, Option<FilterSwitch>),
    ) -> Self {
        let sender = Sender {
            shared: shared.clone(),
            ring: tx,
            kept: VecDeque::new(),
        };
        let receiver = Receiver {
            shared: shared.clone(),
            ring: rx,
            can,
            multicast,
            kept: VecDeque::new(),
            since: None,
            stalled: false,
        };
        Self {
            shared,
            stop,
            end,
            switch,
            sender,
            receiver,
            packet: Vec::with_capacity(MAX_FRAME),
            frame: vec![0; MAX_FRAME].into(),
        }
    }

    /// Serves the queue until it is stopped.
    ///
    /// # Errors
    /// A ring cannot be trusted any more, or the host fails.
    pub(super) fn run(&mut self) -> Result<(), DeviceError> {
        while !self.stop.flag.load(Ordering::Acquire) {
            if !self.pump()? {
                self.wait()?;
            }
        }
        Ok(())
    }

    /// Gives the host end back.
    pub(super) fn into_end(self) -> Box<dyn NetEnd> {
        self.end
    }

    /// Moves a batch each way; false if there is nothing more to move before an event.
    fn pump(&mut self) -> Result<bool, DeviceError> {
        let sent = self.sender.pump(&mut *self.end, &mut self.packet);
        self.end.flush();
        let received = self.receiver.pump(&mut *self.end, &mut self.frame);
        self.shared.end_up(self.end.is_up());
        if sent? | received? {
            return Ok(true);
        }
        let packets = self.sender.kept.is_empty() && self.sender.ring.arm()?;
        let pages = self.receiver.is_blocked() && self.receiver.ring.arm()?;
        Ok(packets || pages)
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> Result<(), DeviceError> {
        let (timeout, due) = self.timeout();
        let wait = self.end.wait();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::OUT, wait.writable);
        flags.set(PollFlags::IN, !self.receiver.is_blocked());
        let channels = [self.sender.ring.channel(), self.receiver.ring.channel()];
        let split = !Arc::ptr_eq(channels[0], channels[1]);
        let mut fds = vec![
            PollFd::new(&self.stop.bell, PollFlags::IN),
            PollFd::from_borrowed_fd(channels[0].as_fd(), PollFlags::IN),
        ];
        if split {
            fds.push(PollFd::from_borrowed_fd(channels[1].as_fd(), PollFlags::IN));
        }
        let switch_at = fds.len();
        if let Some(switch) = &self.switch {
            fds.push(PollFd::from_borrowed_fd(switch.as_fd(), PollFlags::IN));
        }
        let at = fds.len();
        // Without a wish it would still tell of a peer that is gone, again and again.
        if let Some(fd) = wait.fd.filter(|_| !flags.is_empty()) {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let timeout = timeout.map(|left| Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(std::io::Error::from(errno).into()),
        }
        for (fd, channel) in fds[1..switch_at].iter().zip(channels) {
            if !fd.revents().is_empty() {
                channel.clear();
            }
        }
        let ready = fds
            .get(at)
            .is_some_and(|fd| fd.revents().intersects(!PollFlags::IN));
        let switched = fds[switch_at..at].iter().any(|fd| !fd.revents().is_empty());
        if let Some(switch) = self.switch.as_mut().filter(|_| switched) {
            switch.look()?;
        }
        if ready || due.is_some_and(|due| due <= Instant::now()) {
            self.end.advance();
        }
        Ok(())
    }

    /// How long to sleep at most, and when the host end wants to go on.
    fn timeout(&self) -> (Option<Duration>, Option<Instant>) {
        let due = self.end.wait().deadline;
        let now = Instant::now();
        let left = |at: Instant| at.saturating_duration_since(now);
        let times = [due.map(left), self.receiver.patience(now)];
        (times.into_iter().flatten().min(), due)
    }
}

impl Sender {
    /// Moves a batch of packets; true if there may be more.
    fn pump(&mut self, end: &mut dyn NetEnd, packet: &mut Vec<u8>) -> Result<bool, DeviceError> {
        let moved = self.batch(end, packet);
        if self.ring.push() {
            self.shared.tx.notified();
        }
        moved
    }

    fn batch(&mut self, end: &mut dyn NetEnd, packet: &mut Vec<u8>) -> Result<bool, DeviceError> {
        for _ in 0..BATCH {
            if !self.resume(end) {
                return Ok(false);
            }
            match self.ring.next(packet)? {
                Taken::Nothing => return Ok(false),
                Taken::Control => {}
                Taken::Packet(claims) => self.send(end, packet, &claims),
                Taken::Bad(why) => {
                    trace!(target: "xenner::net", "{}: a packet is refused: {why}", self.shared.name);
                    self.shared.tx.failed();
                }
            }
        }
        Ok(true)
    }

    /// Sends what is left of a packet; false if the host end still takes nothing.
    fn resume(&mut self, end: &mut dyn NetEnd) -> bool {
        while let Some((offload, part)) = self.kept.front() {
            match end.send(offload, part) {
                Sent::Done => self.shared.tx.passed(part.len()),
                Sent::Dropped => self.shared.tx.dropped(),
                Sent::Busy => return false,
            }
            self.kept.pop_front();
        }
        true
    }

    fn send(&mut self, end: &mut dyn NetEnd, packet: &mut Vec<u8>, claims: &Claims) {
        if !self.shared.link() {
            return self.shared.tx.dropped();
        }
        let can = end.send_offloads();
        let described = describe(packet, claims);
        let sent = described.and_then(|offload| {
            adapt(packet, offload, can, |offload, part| {
                if !self.kept.is_empty() {
                    return self.kept.push_back((offload, part.to_vec()));
                }
                match end.send(&offload, part) {
                    Sent::Done => self.shared.tx.passed(part.len()),
                    Sent::Dropped => self.shared.tx.dropped(),
                    Sent::Busy => self.kept.push_back((offload, part.to_vec())),
                }
            })
        });
        if sent.is_err() {
            self.shared.tx.failed();
        }
    }
}

impl Receiver {
    fn is_blocked(&self) -> bool {
        !self.kept.is_empty()
    }

    /// How long to wait for pages before looking again.
    fn patience(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.since?);
        let stall = STALL.saturating_sub(waited);
        Some(if self.can.notifies {
            stall
        } else {
            stall.min(UNNOTIFIED)
        })
    }

    /// Moves a batch of frames; true if there may be more.
    fn pump(&mut self, end: &mut dyn NetEnd, frame: &mut [u8]) -> Result<bool, DeviceError> {
        let moved = self.batch(end, frame);
        if self.ring.push() {
            self.shared.rx.notified();
        }
        moved
    }

    fn batch(&mut self, end: &mut dyn NetEnd, frame: &mut [u8]) -> Result<bool, DeviceError> {
        for _ in 0..BATCH {
            if !self.resume()? {
                return Ok(false);
            }
            let Some((length, offload)) = end.receive(frame) else {
                return Ok(false);
            };
            self.receive(&mut frame[..length], offload)?;
        }
        Ok(true)
    }

    /// Delivers what is left of a frame; false if there are no pages for it.
    fn resume(&mut self) -> Result<bool, DeviceError> {
        while let Some((offload, part)) = self.kept.front() {
            if !self.ring.has_room(part.len(), offload)? {
                let since = *self.since.get_or_insert_with(Instant::now);
                if since.elapsed() < STALL {
                    return Ok(false);
                }
                self.stalled = true;
                self.kept.drain(..).for_each(|_| self.shared.rx.dropped());
                break;
            }
            let (offload, part) = (*offload, part.clone());
            self.kept.pop_front();
            self.put(&offload, &part);
        }
        self.since = None;
        Ok(true)
    }

    fn receive(&mut self, frame: &mut [u8], offload: Offload) -> Result<(), DeviceError> {
        if !self.shared.link() || !self.multicast.passes(frame) {
            self.shared.rx.dropped();
            return Ok(());
        }
        let can = self.can.offloads;
        let mut broken = None;
        let adapted = adapt(frame, offload, can, |offload, part| {
            if broken.is_none()
                && let Err(error) = self.deliver(&offload, part)
            {
                broken = Some(error);
            }
        });
        if adapted.is_err() {
            self.shared.rx.failed();
        }
        broken.map_or(Ok(()), Err)
    }

    /// Delivers a frame that the guest can take as it is, or keeps it.
    fn deliver(&mut self, offload: &Offload, part: &[u8]) -> Result<(), DeviceError> {
        if part.len() > PAGE_SIZE && !self.can.scatter {
            self.shared.rx.dropped();
            return Ok(());
        }
        if self.kept.is_empty() && self.ring.has_room(part.len(), offload)? {
            self.stalled = false;
            self.put(offload, part);
        } else if self.stalled {
            self.shared.rx.dropped();
        } else {
            self.kept.push_back((*offload, part.to_vec()));
        }
        Ok(())
    }

    fn put(&mut self, offload: &Offload, part: &[u8]) {
        if self.ring.put(part, offload) {
            self.shared.rx.passed(part.len());
        } else {
            self.shared.rx.failed();
        }
    }
}
