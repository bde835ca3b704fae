//! A disk as its queues and the VMM share it: the medium, the counters, and what stops and wakes
//! the queues. [`DiskControl`] is the VMM's handle.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use super::config::VbdConfig;
use super::engine::{Mailbox, Pool};
use super::policy::{CacheMode, DiskEvents};
use super::stats::{Counters, Stats};
use crate::image::{Geometry, Image};
use crate::xenbus::Keys;

/// An image in the drive, with what was asked of it when it was looked at last.
#[derive(Debug)]
pub(super) struct Medium {
    pub image: Arc<dyn Image>,
    /// The image's, as the guest is to see it.
    pub geometry: Geometry,
}

impl Medium {
    fn new(image: Arc<dyn Image>, config: &VbdConfig) -> Self {
        let geometry = config.shown(image.geometry());
        Self { image, geometry }
    }
}

/// Who may work.
#[derive(Debug, Default)]
struct Gate {
    /// How many want the queues to rest.
    pauses: usize,
    /// Queues that do not rest.
    working: usize,
    /// To wake the queues by; those that ended are dead.
    bells: Vec<Weak<Mailbox>>,
}

/// What the queues of a disk share.
#[derive(Debug)]
pub(super) struct Disk {
    pub config: VbdConfig,
    pub events: Arc<dyn DiskEvents>,
    pub counters: Counters,
    pub pool: Arc<Pool>,
    medium: RwLock<Option<Arc<Medium>>>,
    /// Counts the changes of `medium`.
    generation: AtomicU64,
    /// Counts the calls to try stopped requests again.
    retries: AtomicU64,
    /// Requests that are kept until then.
    held: AtomicU64,
    /// Whether the gate's `pauses` are not 0.
    paused: AtomicBool,
    gate: Mutex<Gate>,
    resting: Condvar,
}

impl Disk {
    pub fn new(
        config: VbdConfig,
        image: Option<Arc<dyn Image>>,
        events: Arc<dyn DiskEvents>,
    ) -> Self {
        let medium = image.map(|image| Arc::new(Medium::new(image, &config)));
        Self {
            pool: Arc::new(Pool::new(format!("{}-io", config.name))),
            config,
            events,
            counters: Counters::new(),
            medium: RwLock::new(medium),
            generation: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            held: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            gate: Mutex::default(),
            resting: Condvar::new(),
        }
    }

    pub fn medium(&self) -> Option<Arc<Medium>> {
        self.medium
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Acquire)
    }

    /// A request is kept until it is tried again.
    pub fn hold(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
    }

    /// A request is kept no more.
    pub fn let_go(&self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
    }

    fn set_medium(&self, medium: Option<Arc<Medium>>) -> Option<Arc<Medium>> {
        let mut place = self.medium.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *place, medium);
        self.generation.fetch_add(1, Ordering::Release);
        old
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let mut gate = self.gate();
        gate.bells.retain(|bell| {
            let bell = bell.upgrade();
            if let Some(mailbox) = &bell {
                mailbox.bell.ring();
            }
            bell.is_some()
        });
    }

    fn pause(&self) {
        self.gate().pauses += 1;
        self.paused.store(true, Ordering::Release);
        self.wake_all();
        let mut gate = self.gate();
        while gate.working > 0 {
            gate = self
                .resting
                .wait(gate)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn resume(&self) {
        let mut gate = self.gate();
        gate.pauses -= 1;
        self.paused.store(gate.pauses > 0, Ordering::Release);
        drop(gate);
        self.wake_all();
    }

    /// Makes everything written so far durable, as the cache mode has it.
    pub fn flush(&self) -> io::Result<()> {
        match self.medium() {
            Some(medium)
                if self.config.cache != CacheMode::Unsafe && !medium.geometry.read_only =>
            {
                medium.image.flush()
            }
            _ => Ok(()),
        }
    }

    /// The nodes that tell a frontend the medium's size; known when it connects.
    pub fn size_keys(&self) -> Keys {
        let medium = self.medium();
        let geometry = medium.as_ref().map(|medium| &medium.geometry);
        self.config.size_keys(geometry)
    }
}

/// A queue's place at the gate. At first it rests.
#[derive(Debug)]
pub(super) struct Seat {
    disk: Arc<Disk>,
    working: bool,
}

impl Seat {
    pub fn new(disk: Arc<Disk>, mailbox: &Arc<Mailbox>) -> Self {
        disk.gate().bells.push(Arc::downgrade(mailbox));
        Self {
            disk,
            working: false,
        }
    }

    /// Whether the queue may take requests up; from then on it works.
    pub fn may_work(&mut self) -> bool {
        if self.disk.paused.load(Ordering::Acquire) {
            return false;
        }
        if !self.working {
            let mut gate = self.disk.gate();
            if gate.pauses > 0 {
                return false;
            }
            gate.working += 1;
            self.working = true;
        }
        true
    }

    /// The queue has nothing under way: it rests if somebody asks for that.
    pub fn may_rest(&mut self) {
        if self.working && self.disk.paused.load(Ordering::Acquire) {
            self.rest();
        }
    }

    fn rest(&mut self) {
        self.working = false;
        self.disk.gate().working -= 1;
        self.disk.resting.notify_all();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.working {
            self.rest();
        }
    }
}

/// The VMM's handle of a disk, for as long as anybody wants it: the disk may have been unplugged.
#[derive(Debug, Clone)]
pub struct DiskControl {
    pub(super) disk: Arc<Disk>,
}

impl DiskControl {
    /// The disk's name (`xvda`).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.disk.config.name
    }

    /// What it was configured as.
    #[must_use]
    pub fn config(&self) -> &VbdConfig {
        &self.disk.config
    }

    /// The counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.disk.counters.load()
    }

    /// The image in the drive.
    #[must_use]
    pub fn image(&self) -> Option<Arc<dyn Image>> {
        self.disk.medium().map(|medium| medium.image.clone())
    }

    /// The medium's geometry as the guest sees it.
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        self.disk.medium().map(|medium| medium.geometry)
    }

    /// The image has another size now: requests are held against it from now on. Returns the nodes
    /// to give to [`DeviceThread::update`](crate::xenbus::DeviceThread::update), which tells the
    /// frontend.
    #[must_use = "the frontend does not know yet"]
    pub fn resized(&self) -> Keys {
        if let Some(medium) = self.disk.medium() {
            let medium = Medium::new(medium.image.clone(), &self.disk.config);
            self.disk.set_medium(Some(Arc::new(medium)));
        }
        self.disk.size_keys()
    }

    /// Takes the medium out (`None`), or puts another one in, after what is under way; the old one
    /// is flushed. Returns the nodes as [`Self::resized`] does. Waits for the queues.
    ///
    /// # Errors
    /// The old image's flush failed; the medium is changed all the same.
    pub fn change_medium(&self, image: Option<Arc<dyn Image>>) -> (Keys, io::Result<()>) {
        let paused = self.pause();
        let flushed = self.disk.flush();
        let medium = image.map(|image| Arc::new(Medium::new(image, &self.disk.config)));
        self.disk.set_medium(medium);
        drop(paused);
        (self.disk.size_keys(), flushed)
    }

    /// Lets the queues finish what is under way in the host and take up nothing more until the
    /// guard is dropped. Requests that an error stopped are kept. Waits for the host.
    #[must_use = "the queues go on when it is dropped"]
    pub fn pause(&self) -> Paused {
        self.disk.pause();
        Paused {
            disk: self.disk.clone(),
        }
    }

    /// Tries the requests again that an error stopped: the domain goes on.
    pub fn retry(&self) {
        self.disk.retries.fetch_add(1, Ordering::Release);
        self.disk.wake_all();
    }

    /// Requests that an error stopped and [`Self::retry`] will try again.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.disk.held.load(Ordering::Acquire)
    }

    /// Makes everything durable that was written so far (`unsafe` ignores it).
    ///
    /// # Errors
    /// The image's.
    pub fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }
}

/// The queues of a disk rest while this lives.
#[derive(Debug)]
pub struct Paused {
    disk: Arc<Disk>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.disk.resume();
    }
}
