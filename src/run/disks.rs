//! The domain's disks: block nodes opened from the configuration, and a vbd on each that the guest
//! is given.

use std::sync::Arc;

use xenner_console::FdSource;
use xenner_pvdevices::blkback::{
    Aio, BlkBack, CacheMode, DiskControl, DiskEvents, IoFault, Policies, VbdConfig,
};
use xenner_pvdevices::image::config as image;
use xenner_pvdevices::image::{BlockNodes, NodeInfo};

use super::devices::Place;
use super::ends::{Inbox, Wish};
use crate::config::{DiskConfig, DiskKind, VmConfig};
use crate::disks::{self, DiskError, OpenDisk};
use crate::qmp::control::IoStatus;

/// One disk of the guest.
#[derive(Debug)]
pub struct Disk {
    /// What was asked for.
    pub config: DiskConfig,
    /// The running backend.
    pub control: DiskControl,
    /// Its tray is open: there is no medium for the guest.
    pub tray_open: bool,
    /// What its last fault was.
    pub fault: Option<IoStatus>,
}

/// Block nodes and disks.
#[derive(Debug, Default)]
pub struct Disks {
    /// The nodes.
    pub nodes: BlockNodes,
    /// The disks, in order.
    pub disks: Vec<Disk>,
}

/// A disk that is to become a device.
pub type NewDevice = (Place, Box<BlkBack>);

impl Disks {
    /// Opens all nodes and disks of the configuration. Faults of disks go to the inbox.
    ///
    /// # Errors
    /// [`DiskError`], which names the option.
    pub fn open(
        config: &VmConfig,
        fds: &mut dyn FdSource,
        inbox: &Inbox,
    ) -> Result<(Self, Vec<NewDevice>), DiskError> {
        let (nodes, open) = disks::open(config, fds)?;
        let mut all = Self {
            nodes,
            disks: Vec::new(),
        };
        let vcpus = config.vcpus.maximum;
        let devices = open.into_iter().map(|disk| all.add(disk, vcpus, inbox));
        let devices = devices.collect();
        Ok((all, devices))
    }

    /// A backend for an open disk.
    pub fn add(&mut self, disk: OpenDisk, vcpus: u32, inbox: &Inbox) -> NewDevice {
        let OpenDisk { config, image } = disk;
        let info = config
            .node
            .as_deref()
            .and_then(|node| self.nodes.info(node));
        let vbd = vbd_config(&config, info.as_ref(), vcpus);
        let place = Place {
            class: "vbd",
            id: vbd.number,
            frontend: vbd.frontend_keys(),
        };
        let events = Arc::new(Faults {
            disk: disks::user_name(&config),
            inbox: inbox.clone(),
        });
        let device = Box::new(BlkBack::new(vbd, image, events));
        self.disks.push(Disk {
            config,
            control: device.control(),
            tray_open: false,
            fault: None,
        });
        (place, device)
    }

    /// The domain goes on: disks try again what failed.
    pub fn retry(&self) {
        self.disks.iter().for_each(|disk| disk.control.retry());
    }
}

fn vbd_config(disk: &DiskConfig, node: Option<&NodeInfo>, vcpus: u32) -> VbdConfig {
    let cache = match node {
        Some(node) if node.cache.no_flush => CacheMode::Unsafe,
        _ if disk.write_cache => CacheMode::Writeback,
        _ => CacheMode::Writethrough,
    };
    let mut vbd = VbdConfig::new(disk.vdev.number(), &disk.vdev.to_string());
    vbd.kind = disk.kind;
    vbd.read_only = disk.read_only || disk.kind == DiskKind::Cdrom;
    vbd.params = node
        .and_then(|node| node.filename.as_ref())
        .map_or_else(String::new, |path| path.display().to_string());
    vbd.logical_block = disk.logical_block;
    vbd.physical_block = disk.physical_block;
    vbd.cache = cache;
    vbd.aio = match node.map_or(image::Aio::Auto, |node| node.aio) {
        image::Aio::Threads => Aio::Threads,
        image::Aio::Auto | image::Aio::Native | image::Aio::IoUring => Aio::IoUring,
    };
    vbd.policies = Policies {
        read: disk.read_error,
        write: disk.write_error,
    };
    vbd.persistent = disk.persistent_grants;
    vbd.max_queues = disk.queues.map_or(vcpus, u32::from).max(1);
    vbd
}

/// Brings a disk's faults to the main loop.
#[derive(Debug)]
struct Faults {
    disk: String,
    inbox: Inbox,
}

impl DiskEvents for Faults {
    fn io_error(&self, fault: &IoFault) {
        self.inbox.put(Wish::Disk {
            disk: self.disk.clone(),
            fault: *fault,
        });
    }
}
