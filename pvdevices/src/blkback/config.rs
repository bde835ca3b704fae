//! What a virtual block device is to be, and the nodes that tell a frontend
//! (`xen/include/public/io/blkif.h`, "Backend XenBus Nodes").

use xenner_xen_abi::io::blkif::{VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE};

use super::policy::{Aio, CacheMode, Policies};
use super::request::MAX_INDIRECT;
use crate::image::{Geometry, SECTOR_SIZE};
use crate::xenbus::Keys;

/// Order of the largest ring (`max-ring-page-order`): 16 pages.
pub const MAX_RING_ORDER: u32 = 4;

/// What the guest sees the device as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskKind {
    /// `disk`.
    #[default]
    Disk,
    /// `cdrom`: its medium can be changed.
    Cdrom,
}

/// A virtual block device.
#[derive(Debug, Clone)]
pub struct VbdConfig {
    /// The device's number as `virtual-device` has it: 202 << 8 for xvda, 16 more for each next
    /// disk (`xen-vbd-interface(7)`).
    pub number: u32,
    /// Its name in the guest, as far as the guest agrees: `xvda`. Names it in logs and threads.
    pub name: String,
    /// Disk or drive.
    pub kind: DiskKind,
    /// The guest cannot write, whatever the image allows.
    pub read_only: bool,
    /// `params` and `type` for tools that look: the image's name.
    pub params: String,
    /// Bytes of a logical block, 512 or 4096, if the guest is to see larger ones than the image's.
    pub logical_block: Option<u32>,
    /// Bytes of a physical block, if the guest is to see others than the image's.
    pub physical_block: Option<u32>,
    /// When writes are durable.
    pub cache: CacheMode,
    /// How the host is asked.
    pub aio: Aio,
    /// What errors do.
    pub policies: Policies,
    /// Whether pages are kept mapped for frontends that use the same ones again, as they do in
    /// return: they copy all data to and from such pages. That saves a backend under Xen the mapping
    /// and unmapping; here these cost a look-up, and the copies are most of a large request.
    pub persistent: bool,
    /// Queues at most, one for each of the guest's vcpus as a rule; at least 1.
    pub max_queues: u32,
}

impl VbdConfig {
    /// A writable disk with the defaults.
    #[must_use]
    pub fn new(number: u32, name: &str) -> Self {
        Self {
            number,
            name: name.to_owned(),
            kind: DiskKind::Disk,
            read_only: false,
            params: String::new(),
            logical_block: None,
            physical_block: None,
            cache: CacheMode::default(),
            aio: Aio::default(),
            policies: Policies::default(),
            persistent: false,
            max_queues: 1,
        }
    }

    /// An image's geometry as the guest is to see it.
    pub(super) fn shown(&self, image: Geometry) -> Geometry {
        let logical_block = self
            .logical_block
            .map_or(image.logical_block, |block| block.max(image.logical_block));
        let physical_block = self.physical_block.unwrap_or(image.physical_block);
        Geometry {
            size: image.size - image.size % u64::from(logical_block),
            logical_block,
            physical_block: physical_block.max(logical_block),
            read_only: image.read_only || self.read_only,
            discard: image.discard,
        }
    }

    /// The frontend's nodes that the device's builder writes.
    #[must_use]
    pub fn frontend_keys(&self) -> Keys {
        keys([
            ("virtual-device", self.number.to_string()),
            ("device-type", self.kind_word().to_owned()),
        ])
    }

    fn kind_word(&self) -> &'static str {
        match self.kind {
            DiskKind::Disk => "disk",
            DiskKind::Cdrom => "cdrom",
        }
    }

    /// The backend's nodes that a frontend may look at before it connects.
    pub(super) fn offer_keys(&self, geometry: Option<&Geometry>) -> Keys {
        let read_only = self.read_only || geometry.is_some_and(|geometry| geometry.read_only);
        let mut offer = keys([
            ("params", self.params.clone()),
            ("type", "file".to_owned()),
            ("mode", if read_only { "r" } else { "w" }.to_owned()),
            ("dev", self.name.clone()),
            ("device-type", self.kind_word().to_owned()),
            ("removable", number(self.kind == DiskKind::Cdrom)),
            ("bootable", number(true)),
            ("feature-flush-cache", number(true)),
            ("feature-barrier", number(true)),
            ("feature-persistent", number(self.persistent)),
            ("feature-max-indirect-segments", MAX_INDIRECT.to_string()),
            ("max-ring-page-order", MAX_RING_ORDER.to_string()),
            ("max-ring-pages", (1 << MAX_RING_ORDER).to_string()),
            ("multi-queue-max-queues", self.max_queues.max(1).to_string()),
        ]);
        let discard = geometry
            .filter(|_| !read_only)
            .and_then(|geometry| geometry.discard);
        offer.extend(keys([
            ("discard-enable", number(discard.is_some())),
            ("feature-discard", number(discard.is_some())),
        ]));
        if let Some(discard) = discard {
            offer.extend(keys([
                ("discard-granularity", discard.granularity.to_string()),
                ("discard-alignment", discard.alignment.to_string()),
                ("discard-secure", number(discard.secure)),
            ]));
        }
        offer
    }

    /// The nodes of a medium's size. An empty drive has no sectors. `sectors` is in units of 512
    /// bytes, whatever `sector-size` is.
    pub(super) fn size_keys(&self, geometry: Option<&Geometry>) -> Keys {
        let mut info = match self.kind {
            DiskKind::Disk => 0,
            DiskKind::Cdrom => VDISK_CDROM | VDISK_REMOVABLE,
        };
        if self.read_only || geometry.is_some_and(|geometry| geometry.read_only) {
            info |= VDISK_READONLY;
        }
        let sectors = geometry.map_or(0, |geometry| geometry.size / SECTOR_SIZE);
        let logical = geometry.map_or(512, |geometry| geometry.logical_block);
        let physical = geometry.map_or(512, |geometry| geometry.physical_block);
        keys([
            ("sectors", sectors.to_string()),
            ("info", info.to_string()),
            ("sector-size", logical.to_string()),
            ("physical-sector-size", physical.to_string()),
        ])
    }
}

fn number(flag: bool) -> String {
    u8::from(flag).to_string()
}

fn keys<const N: usize>(pairs: [(&str, String); N]) -> Keys {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}
