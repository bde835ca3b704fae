//! The domain's disks: block nodes opened from the configuration, and a vbd on each that the guest
//! is given.

use std::sync::Arc;

use thiserror::Error;
use xenner_console::FdSource;
use xenner_pvdevices::blkback::{
    BlkBack, CacheMode, DiskControl, DiskEvents, DiskKind as VbdKind, ErrorPolicy, IoFault,
    Policies, VbdConfig,
};
use xenner_pvdevices::image::{Attachment, BlockNodes, Image, NodeError, NodeInfo};

use super::devices::Place;
use super::ends::{Inbox, Wish};
use crate::config::{DiskConfig, DiskKind, ErrorAction, VmConfig};

/// Why there is no disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// A node cannot be opened.
    #[error("{origin}")]
    Node {
        /// The option that asks for it.
        origin: String,
        /// Why.
        #[source]
        source: NodeError,
    },
    /// A disk cannot have its node.
    #[error("disk {disk}")]
    Attach {
        /// The disk.
        disk: String,
        /// Why.
        #[source]
        source: NodeError,
    },
}

/// One disk of the guest.
#[derive(Debug)]
pub struct Disk {
    /// What was asked for.
    #[expect(dead_code, reason = "for the monitor")]
    pub config: DiskConfig,
    /// The running backend.
    pub control: DiskControl,
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
        let mut all = Self::default();
        for node in &config.block_nodes {
            let added = all.nodes.add(&node.node, fds);
            added.map_err(|source| DiskError::Node {
                origin: node.origin.clone(),
                source,
            })?;
        }
        let mut devices = Vec::new();
        for disk in &config.disks {
            devices.push(all.attach(disk, config.vcpus.maximum, fds, inbox)?);
        }
        Ok((all, devices))
    }

    /// Opens one disk on its node.
    ///
    /// # Errors
    /// [`DiskError::Attach`].
    pub fn attach(
        &mut self,
        disk: &DiskConfig,
        vcpus: u32,
        fds: &mut dyn FdSource,
        inbox: &Inbox,
    ) -> Result<NewDevice, DiskError> {
        let image = self.image_for(disk, fds)?;
        let info = disk.node.as_deref().and_then(|node| self.nodes.info(node));
        let vbd = vbd_config(disk, info.as_ref(), vcpus);
        let place = Place {
            class: "vbd",
            id: vbd.number,
            frontend: vbd.frontend_keys(),
        };
        let events = Arc::new(Faults {
            disk: user(disk),
            inbox: inbox.clone(),
        });
        let device = Box::new(BlkBack::new(vbd, image, events));
        self.disks.push(Disk {
            config: disk.clone(),
            control: device.control(),
        });
        Ok((place, device))
    }

    fn image_for(
        &mut self,
        disk: &DiskConfig,
        fds: &mut dyn FdSource,
    ) -> Result<Option<Arc<dyn Image>>, DiskError> {
        let Some(node) = &disk.node else {
            return Ok(None);
        };
        let attachment = Attachment {
            user: user(disk),
            read_only: disk.read_only || disk.kind == DiskKind::Cdrom,
            share_rw: disk.share_rw,
            write_cache: disk.write_cache,
            logical_block: disk.logical_block,
            physical_block: disk.physical_block,
            discard_granularity: disk.discard_granularity,
        };
        let image = self.nodes.attach(node, &attachment, fds);
        image.map(Some).map_err(|source| DiskError::Attach {
            disk: user(disk),
            source,
        })
    }

    /// The domain goes on: disks try again what failed.
    pub fn retry(&self) {
        self.disks.iter().for_each(|disk| disk.control.retry());
    }
}

/// The disk's name for the user: its id, that of its drive, or what the guest calls it.
pub fn user(disk: &DiskConfig) -> String {
    let named = disk.id.as_ref().or(disk.backend.as_ref());
    named.map_or_else(|| disk.vdev.to_string(), Clone::clone)
}

fn vbd_config(disk: &DiskConfig, node: Option<&NodeInfo>, vcpus: u32) -> VbdConfig {
    let cache = match node {
        Some(node) if node.cache.no_flush => CacheMode::Unsafe,
        _ if disk.write_cache => CacheMode::Writeback,
        _ => CacheMode::Writethrough,
    };
    let mut vbd = VbdConfig::new(disk.vdev.number(), &disk.vdev.to_string());
    vbd.kind = match disk.kind {
        DiskKind::Disk => VbdKind::Disk,
        DiskKind::Cdrom => VbdKind::Cdrom,
    };
    vbd.read_only = disk.read_only || disk.kind == DiskKind::Cdrom;
    vbd.params = node
        .and_then(|node| node.filename.as_ref())
        .map_or_else(String::new, |path| path.display().to_string());
    vbd.logical_block = disk.logical_block;
    vbd.physical_block = disk.physical_block;
    vbd.cache = cache;
    vbd.policies = Policies {
        read: policy(disk.read_error),
        write: policy(disk.write_error),
    };
    vbd.max_queues = disk.queues.map_or(vcpus, u32::from).max(1);
    vbd
}

fn policy(action: ErrorAction) -> ErrorPolicy {
    match action {
        ErrorAction::Report => ErrorPolicy::Report,
        ErrorAction::Ignore => ErrorPolicy::Ignore,
        ErrorAction::Stop => ErrorPolicy::Stop,
        ErrorAction::Enospc => ErrorPolicy::Enospc,
    }
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
