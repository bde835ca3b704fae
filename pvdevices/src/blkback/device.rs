//! The device as its bus drives it: what it offers, how it connects, how it lets go.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use xenner_xen_abi::io::protocols::{XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64};

use super::config::{MAX_RING_ORDER, VbdConfig};
use super::disk::{Disk, DiskControl};
use super::engine::Mailbox;
use super::grants::Pages;
use super::policy::DiskEvents;
use super::protocol::Abi;
use super::queue::{Parts, Queue};
use crate::image::Image;
use crate::ring::RingError;
use crate::xenbus::{Device, DeviceError, Frontend, Keys};

/// A queue's thread.
#[derive(Debug)]
struct Worker {
    thread: JoinHandle<()>,
    mailbox: Arc<Mailbox>,
    stop: Arc<AtomicBool>,
}

/// A virtual block device.
#[derive(Debug)]
pub struct BlkBack {
    disk: Arc<Disk>,
    workers: Vec<Worker>,
}

impl BlkBack {
    /// A device with an image, or an empty drive without.
    #[must_use]
    pub fn new(
        config: VbdConfig,
        image: Option<Arc<dyn Image>>,
        events: Arc<dyn DiskEvents>,
    ) -> Self {
        Self {
            disk: Arc::new(Disk::new(config, image, events)),
            workers: Vec::new(),
        }
    }

    /// The VMM's handle.
    #[must_use]
    pub fn control(&self) -> DiskControl {
        DiskControl {
            disk: self.disk.clone(),
        }
    }

    fn config(&self) -> &VbdConfig {
        &self.disk.config
    }

    /// Everything that a queue needs, from the frontend's nodes.
    fn open_queue(&self, frontend: &Frontend, shape: Shape) -> Result<Parts, DeviceError> {
        let size = shape.abi.entry_size();
        let order = shape.order.filter(|order| *order > 0);
        let ring = match frontend.ring("ring-ref", order, size) {
            // One page's name is written both ways.
            Err(DeviceError::Missing { .. }) if order.is_none() => {
                frontend.ring("ring-ref", Some(0), size)?
            }
            ring => ring?,
        };
        let grants = frontend.domain().grants();
        Ok(Parts {
            ring,
            channel: frontend.bind("event-channel")?,
            abi: shape.abi,
            pages: Pages::new(grants, shape.persistent, Instant::now()),
            closer: frontend.closer(),
            mailbox: Arc::new(Mailbox::new()?),
            stop: Arc::new(AtomicBool::new(false)),
        })
    }

    fn start_queue(&mut self, index: usize, parts: Parts) -> Result<(), DeviceError> {
        let disk = self.disk.clone();
        let (mailbox, stop) = (parts.mailbox.clone(), parts.stop.clone());
        let closer = parts.closer.clone();
        let run = move || {
            let served = catch_unwind(AssertUnwindSafe(|| Queue::new(disk, parts).run()));
            if served.is_err() {
                // A frontend that waits for answers must not wait for ever.
                closer.close(io::Error::other("an internal error in a queue").into());
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("{}-{index}", self.config().name))
            .spawn(run)?;
        self.workers.push(Worker {
            thread,
            mailbox,
            stop,
        });
        Ok(())
    }

    fn stop_queues(&mut self) {
        for worker in &self.workers {
            worker.stop.store(true, Ordering::Release);
            worker.mailbox.bell.ring();
        }
        for worker in self.workers.drain(..) {
            // Its panic was caught and told.
            let _ = worker.thread.join();
        }
    }
}

impl Device for BlkBack {
    fn offer(&self) -> Keys {
        let medium = self.disk.medium();
        self.config()
            .offer_keys(medium.as_ref().map(|medium| &medium.geometry))
    }

    fn connect(&mut self, frontend: &Frontend) -> Result<Keys, DeviceError> {
        let shape = Shape::read(frontend, self.config())?;
        let mut queues = Vec::new();
        for index in 0..shape.queues {
            let own = if shape.queues > 1 {
                &frontend.queue(index)
            } else {
                frontend
            };
            queues.push(self.open_queue(own, shape)?);
        }
        for (index, parts) in queues.into_iter().enumerate() {
            if let Err(error) = self.start_queue(index, parts) {
                self.stop_queues();
                return Err(error);
            }
        }
        log::info!(
            target: "blkback",
            "{}: connected, {} queues, {:?}, persistent grants {}",
            self.config().name, shape.queues, shape.abi, shape.persistent
        );
        Ok(self.disk.size_keys())
    }

    fn disconnect(&mut self) {
        self.stop_queues();
        if let Err(error) = self.disk.flush() {
            log::error!(target: "blkback", "{}: cannot flush the image: {error}", self.config().name);
        }
    }
}

impl Drop for BlkBack {
    fn drop(&mut self) {
        self.stop_queues();
    }
}

/// How the frontend wants its rings.
#[derive(Debug, Clone, Copy)]
struct Shape {
    abi: Abi,
    queues: u32,
    /// Of each ring's pages, if the frontend speaks of it.
    order: Option<u32>,
    persistent: bool,
}

impl Shape {
    fn read(frontend: &Frontend, config: &VbdConfig) -> Result<Self, DeviceError> {
        let queues =
            frontend.optional_number("multi-queue-num-queues", 1..=config.max_queues.max(1))?;
        Ok(Self {
            abi: read_abi(frontend)?,
            queues: queues.unwrap_or(1),
            order: read_order(frontend)?,
            persistent: config.persistent && frontend.feature("feature-persistent")?,
        })
    }
}

/// The layout; one that is not named is the 64-bit one, as are all kernels that run here.
fn read_abi(frontend: &Frontend) -> Result<Abi, DeviceError> {
    match frontend.read("protocol")?.as_deref() {
        None | Some(XEN_IO_PROTO_ABI_X86_64 | "native") => Ok(Abi::X86_64),
        Some(XEN_IO_PROTO_ABI_X86_32) => Ok(Abi::X86_32),
        Some(_) => Err(DeviceError::Refused(format!(
            "'{}' is none of x86_64-abi, x86_32-abi, native",
            frontend.path_of("protocol")
        ))),
    }
}

/// The order of the rings' pages: `ring-page-order`, or `num-ring-pages` of older frontends.
fn read_order(frontend: &Frontend) -> Result<Option<u32>, DeviceError> {
    if let Some(order) = frontend.optional_number("ring-page-order", 0..=MAX_RING_ORDER)? {
        return Ok(Some(order));
    }
    match frontend.optional_number("num-ring-pages", 1..=1 << MAX_RING_ORDER)? {
        None => Ok(None),
        Some(pages) if pages.is_power_of_two() => Ok(Some(pages.ilog2())),
        Some(pages) => Err(RingError::Pages(pages as usize).into()),
    }
}
