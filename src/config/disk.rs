//! Disks: what the guest gets as paravirtual block devices.
//!
//! A [`DiskConfig`] is the guest's side of a disk; its image is a node of [`super::VmConfig::block_nodes`].

use std::fmt;

use thiserror::Error;
pub use xenner_pvdevices::blkback::{DiskKind, ErrorPolicy};
use xenner_pvdevices::image::config::NodeConfig;

/// A block node of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockNodeConfig {
    /// The option that asks for it, for messages: `-drive file=debian.img`.
    pub origin: String,
    /// The node.
    pub node: NodeConfig,
}

/// A descriptor that the parent left open (`-add-fd`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedFd {
    /// Its number.
    pub fd: i32,
    /// The set that it belongs to: `/dev/fdset/SET`.
    pub set: u32,
    /// What the parent calls it.
    pub opaque: Option<String>,
}

/// One paravirtual block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// `-device id=`: the device's name for the monitor.
    pub id: Option<String>,
    /// The device as the command line has it: `xen-disk`, `virtio-blk-pci`, `ide-cd`.
    pub driver: String,
    /// `-drive id=`: the name of its backend for the monitor; `None` where the image is a `-blockdev`.
    pub backend: Option<String>,
    /// The block node that is its image; `None` is an empty CD-ROM drive.
    pub node: Option<String>,
    /// Which disk the guest sees it as.
    pub vdev: Vdev,
    /// Disk or CD-ROM.
    pub kind: DiskKind,
    /// The guest cannot write it. CD-ROMs always are.
    pub read_only: bool,
    /// `share-rw`: other processes may write the image too.
    pub share_rw: bool,
    /// `write-cache`: the guest sees a volatile write cache; else every write is flushed before it
    /// is answered.
    pub write_cache: bool,
    /// `rerror`: what a failed read does.
    pub read_error: ErrorPolicy,
    /// `werror`: what a failed write does.
    pub write_error: ErrorPolicy,
    /// `logical_block_size`: 512 to 4096 bytes; the image's without it.
    pub logical_block: Option<u32>,
    /// `physical_block_size`: a power of two of bytes, not below the logical; the image's without it.
    pub physical_block: Option<u32>,
    /// `discard_granularity` in bytes; the image's without it.
    pub discard_granularity: Option<u32>,
    /// `num-queues`: the most queues that the guest may use; chosen by the backend without it.
    pub queues: Option<u16>,
    /// `persistent-grants`: the guest is offered to use the same pages again, and copies to them.
    pub persistent_grants: bool,
    /// `serial`, at most [`MAX_SERIAL`] bytes.
    pub serial: Option<String>,
    /// `bootindex`: kept for the monitor.
    pub bootindex: Option<i32>,
}

/// The most bytes of a serial number: QEMU's `VIRTIO_BLK_ID_BYTES` is 20, SCSI's are 36.
pub const MAX_SERIAL: usize = 36;

impl DiskConfig {
    /// A disk on a block node, with defaults for the rest.
    pub fn new(driver: impl Into<String>, node: Option<String>, vdev: Vdev) -> Self {
        Self {
            id: None,
            driver: driver.into(),
            backend: None,
            node,
            vdev,
            kind: DiskKind::Disk,
            read_only: false,
            share_rw: false,
            write_cache: true,
            read_error: ErrorPolicy::Report,
            write_error: ErrorPolicy::Enospc,
            logical_block: None,
            physical_block: None,
            discard_granularity: None,
            queues: None,
            persistent_grants: false,
            serial: None,
            bootindex: None,
        }
    }
}

/// What is wrong with a disk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DiskFault {
    /// Two disks in one place.
    #[error("Another disk has this place; choose another vdev")]
    Place,
    /// Two disks of one name.
    #[error("Another disk has the id '{}' too; choose another", .0.escape_debug())]
    Id(String),
    /// A logical block that cannot be.
    #[error("logical_block_size is not 512, 1024, 2048 or 4096; write one of them")]
    LogicalBlock,
    /// A physical block that cannot be.
    #[error("physical_block_size is not a power of two from logical_block_size to 2M; write one")]
    PhysicalBlock,
    /// Less than a block cannot be discarded.
    #[error("discard_granularity is not a multiple of logical_block_size; write one, or 0")]
    Discard,
    /// A serial number that is too long.
    #[error("serial is longer than {MAX_SERIAL} bytes; shorten it")]
    Serial,
    /// Only a CD-ROM drive may be empty.
    #[error("There is no image; add drive=ID")]
    NoImage,
}

impl DiskConfig {
    /// Checks what can be judged of one disk.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), DiskFault> {
        let valid = |bytes: u32| bytes.is_power_of_two() && (512..=2 << 20).contains(&bytes);
        let least = self.logical_block.unwrap_or(512);
        if !valid(least) || least > 4096 {
            return Err(DiskFault::LogicalBlock);
        }
        if self
            .physical_block
            .is_some_and(|bytes| !valid(bytes) || bytes < least)
        {
            return Err(DiskFault::PhysicalBlock);
        }
        if self
            .discard_granularity
            .is_some_and(|bytes| bytes % least != 0)
        {
            return Err(DiskFault::Discard);
        }
        if self
            .serial
            .as_ref()
            .is_some_and(|serial| serial.len() > MAX_SERIAL)
        {
            return Err(DiskFault::Serial);
        }
        match (&self.node, self.kind) {
            (None, DiskKind::Disk) => Err(DiskFault::NoImage),
            _ => Ok(()),
        }
    }
}

/// The number and name of a virtual disk: `xen/docs/man/xen-vbd-interface.7.pandoc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vdev {
    number: u32,
}

/// Linux's major number of `xvd` disks.
const XVD_MAJOR: u32 = 202;
/// Linux's major numbers of `sd` disks: 16 disks each.
const SD_MAJORS: [u32; 16] = [
    8, 65, 66, 67, 68, 69, 70, 71, 128, 129, 130, 131, 132, 133, 134, 135,
];
/// Linux's major numbers of `hd` disks: two disks each.
const HD_MAJORS: [u32; 10] = [3, 22, 33, 34, 56, 57, 88, 89, 90, 91];
/// The first `xvd` disk that has no place in the old encoding.
const FIRST_EXTENDED: u32 = 16;
/// The bit of the extended encoding.
const EXTENDED: u32 = 1 << 28;
/// Disks in the extended encoding.
const MAX_DISKS: u32 = 1 << 20;

impl Vdev {
    /// `xvda`.
    pub const FIRST: Self = Self {
        number: XVD_MAJOR << 8,
    };

    /// The `index`th `xvd` disk, counted from 0; `None` from 1 << 20 on.
    pub fn xvd(index: u32) -> Option<Self> {
        let number = match index {
            0..FIRST_EXTENDED => XVD_MAJOR << 8 | index << 4,
            FIRST_EXTENDED..MAX_DISKS => EXTENDED | index << 8,
            _ => return None,
        };
        Some(Self { number })
    }

    /// Reads `xvda`, `sda`, `hda`, `d0` and the number itself; partitions are refused.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(letters) = name.strip_prefix("xvd") {
            return Self::xvd(letters_to_index(letters)?);
        }
        if let Some(letters) = name.strip_prefix("sd") {
            let index = letters_to_index(letters)?;
            let major = SD_MAJORS.get(usize::try_from(index / 16).ok()?)?;
            return Some(Self {
                number: major << 8 | (index % 16) << 4,
            });
        }
        if let Some(letters) = name.strip_prefix("hd") {
            let index = letters_to_index(letters)?;
            let major = HD_MAJORS.get(usize::try_from(index / 2).ok()?)?;
            return Some(Self {
                number: major << 8 | (index % 2) << 6,
            });
        }
        if let Some(index) = name.strip_prefix('d') {
            return Self::xvd(decimal(index)?);
        }
        Self::from_number(decimal(name)?)
    }

    /// The disk of this number, if it is a whole disk's.
    pub fn from_number(number: u32) -> Option<Self> {
        let (major, minor) = (number >> 8, number & 0xff);
        let whole = if number & EXTENDED != 0 {
            number & 0xff == 0 && number < EXTENDED << 1
        } else if HD_MAJORS.contains(&major) {
            minor % 64 == 0 && minor < 128
        } else {
            (major == XVD_MAJOR || SD_MAJORS.contains(&major)) && minor % 16 == 0
        };
        whole.then_some(Self { number })
    }

    /// The number in `device/vbd/NUMBER` and `virtual-device`.
    pub fn number(self) -> u32 {
        self.number
    }
}

/// The name that Linux gives it.
impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (self.number >> 8, self.number & 0xff);
        let at = |majors: &[u32]| majors.iter().position(|known| *known == major);
        let (prefix, index) = if self.number & EXTENDED != 0 {
            ("xvd", (self.number & !EXTENDED) >> 8)
        } else if let Some(at) = at(&SD_MAJORS) {
            ("sd", at as u32 * 16 + minor / 16)
        } else if let Some(at) = at(&HD_MAJORS) {
            ("hd", at as u32 * 2 + minor / 64)
        } else {
            ("xvd", minor / 16)
        };
        write!(f, "{prefix}{}", index_to_letters(index))
    }
}

/// `a` is 0, `z` 25, `aa` 26.
fn letters_to_index(letters: &str) -> Option<u32> {
    if letters.is_empty() || letters.len() > 5 {
        return None;
    }
    let mut next: u32 = 0;
    for letter in letters.bytes() {
        if !letter.is_ascii_lowercase() {
            return None;
        }
        next = next * 26 + u32::from(letter - b'a') + 1;
    }
    Some(next - 1)
}

fn index_to_letters(index: u32) -> String {
    let mut letters = Vec::new();
    let mut left = index + 1;
    while left > 0 {
        let digit = (left - 1) % 26;
        // A digit is below 26.
        letters.push(char::from(b'a' + digit as u8));
        left = (left - 1) / 26;
    }
    letters.iter().rev().collect()
}

/// Digits alone: `parse` would take a plus sign.
fn decimal(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_interface() {
        for (name, number) in [
            ("xvda", 51712),
            ("xvdb", 51728),
            ("xvdp", 202 << 8 | 15 << 4),
            ("xvdq", 1 << 28 | 16 << 8),
            ("xvdaa", 1 << 28 | 26 << 8),
            ("sda", 8 << 8),
            ("sdb", 8 << 8 | 16),
            ("sdq", 65 << 8),
            ("hda", 3 << 8),
            ("hdb", 3 << 8 | 64),
            ("hdc", 22 << 8),
        ] {
            let vdev = Vdev::parse(name).unwrap();
            assert_eq!(vdev.number(), number, "{name}");
            assert_eq!(vdev.to_string(), name);
            assert_eq!(Vdev::parse(&number.to_string()), Some(vdev));
        }
        assert_eq!(Vdev::parse("d2"), Vdev::parse("xvdc"));
    }

    #[test]
    fn partitions_and_nonsense_are_no_disks() {
        for name in [
            "",
            "xvd",
            "xvda1",
            "sda1",
            "hd1",
            "vda",
            "XVDA",
            "51713",
            "+51712",
            "d",
            "xvdaaaaaa",
            "sdzzz",
            "hdzz",
            "0",
            "1234",
            "d+1",
        ] {
            assert_eq!(Vdev::parse(name), None, "{name}");
        }
    }

    #[test]
    fn every_index_has_a_name_that_leads_back() {
        for index in (0..2000).chain([18277, 18278, MAX_DISKS - 1]) {
            let vdev = Vdev::xvd(index).unwrap();
            assert_eq!(Vdev::parse(&vdev.to_string()), Some(vdev), "{index}");
        }
        assert_eq!(Vdev::xvd(MAX_DISKS), None);
    }
}
