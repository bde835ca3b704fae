//! Disks: `-drive`, `-blockdev`, `-hda` and so on, and the disks among `-device`.
//!
//! All images are collected first, because a device may name one that comes later; then the
//! devices, in the order of the command line, get their place among the guest's disks.

use std::ffi::OsString;

use clap::{ArgMatches, Args};
use xenner_pvdevices::image::config::NodeConfig;

use super::blockdev::{self, wrong};
use super::drive::{self, Drive, Interface};
use super::error::CliError;
use super::keyval::{KeyVals, KeyvalError};
use super::{device, text};
use crate::config::{BlockNodeConfig, DiskConfig, DiskKind, ErrorPolicy, PassedFd, Vdev, VmConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "Disk options")]
pub(super) struct DiskOptions {
    /// Adds a disk. Without format= the image's format is guessed, with a
    /// warning; if=none leaves the disk to a -device.
    #[arg(
        long,
        value_name = "file=FILE[,format=raw|qcow2|vmdk][,if=xen|virtio|ide|scsi|none][,index=N]\
                      [,media=disk|cdrom][,readonly=on|off][,snapshot=on|off]\
                      [,cache=writeback|none|writethrough|directsync|unsafe]\
                      [,aio=threads|native|io_uring][,discard=ignore|unmap]\
                      [,detect-zeroes=off|on|unmap][,rerror=ACTION][,werror=ACTION][,id=ID]\
                      [,serial=TEXT][,key=value...]"
    )]
    drive: Vec<OsString>,

    /// Opens a disk image, or a part of one, under a name that others refer
    /// to. The value may be JSON.
    #[arg(
        long,
        value_name = "[driver=]file|host_device|raw|qcow2|vmdk|null-co,node-name=NAME[,key=value...]"
    )]
    blockdev: Vec<OsString>,

    /// The first disk: an image file of any format that is known.
    #[arg(long, value_name = "FILE")]
    hda: Vec<OsString>,

    /// The second disk.
    #[arg(long, value_name = "FILE")]
    hdb: Vec<OsString>,

    /// The third disk.
    #[arg(long, value_name = "FILE")]
    hdc: Vec<OsString>,

    /// The fourth disk.
    #[arg(long, value_name = "FILE")]
    hdd: Vec<OsString>,

    /// A CD-ROM: an ISO image.
    #[arg(long, value_name = "FILE")]
    cdrom: Vec<OsString>,

    /// Keeps all images of -drive and its short forms as they are: what the
    /// guest writes goes to temporary files.
    #[arg(long)]
    snapshot: bool,

    /// Names a descriptor that the parent left open: /dev/fdset/N as a file
    /// name means one of set N.
    #[arg(long, value_name = "fd=N,set=N[,opaque=TEXT]")]
    add_fd: Vec<OsString>,
}

/// Options that make drives.
const DRIVES: [&str; 6] = ["drive", "hda", "hdb", "hdc", "hdd", "cdrom"];

/// A disk whose place is not yet known.
struct Placed {
    option: &'static str,
    disk: DiskConfig,
    place: Place,
}

/// Which disk the guest sees a device as.
enum Place {
    /// This one: `vdev=`.
    At(Vdev),
    /// The `xvd` disk of this number if it is free, else the next: `index=`.
    Index(u32),
    /// The next `xvd` disk that is free.
    Next,
}

impl DiskOptions {
    pub(super) fn apply(
        &self,
        matches: &ArgMatches,
        config: &mut VmConfig,
    ) -> Result<(), CliError> {
        config.fd_sets = passed_fds(&self.add_fd)?;
        for value in &self.blockdev {
            config.block_nodes.push(blockdev_node(value)?);
        }
        let mut drives = self.drives(matches)?;
        let mut disks = Vec::new();
        for (_, option, value) in in_order(matches, &["device"]) {
            let value = text(option, value)?;
            disks.extend(device_disk(value, config, &mut drives)?);
        }
        // Drives that are devices by themselves come where their option stands.
        let mut all = merge_by_order(matches, disks, &mut drives)?;
        place(&mut all)?;
        config
            .block_nodes
            .extend(drives.into_iter().filter_map(|drive| drive.node));
        config.disks = all.into_iter().map(|placed| placed.disk).collect();
        Ok(())
    }

    fn drives(&self, matches: &ArgMatches) -> Result<Vec<Drive>, CliError> {
        let mut drives: Vec<Drive> = Vec::new();
        for (_, option, value) in in_order(matches, &DRIVES) {
            let value = text(option, value)?;
            let keys = match option {
                "drive" => KeyVals::parse(value, None).map_err(CliError::in_value(option))?,
                _ => drive::short_form(option, value).ok_or_else(|| CliError::MissingValue {
                    option: option.to_owned(),
                    value_name: "FILE".to_owned(),
                })?,
            };
            let mut drive = drive::parse(option, keys, &drives, self.snapshot)
                .map_err(CliError::in_value(option))?;
            if let Some(node) = &mut drive.node {
                node.origin = match option {
                    "drive" => format!("-drive {}", node.origin),
                    _ => format!("-{option}"),
                };
                // A name that a user's node cannot have, and that is known before it is opened.
                let made_up = || format!("#drive{}", drives.len());
                node.node.name.get_or_insert_with(made_up);
            }
            drives.push(drive);
        }
        Ok(drives)
    }
}

/// All values of these options in the order of the command line, with their places in it.
fn in_order<'a>(
    matches: &'a ArgMatches,
    options: &[&'static str],
) -> Vec<(usize, &'static str, &'a OsString)> {
    let mut all: Vec<_> = options
        .iter()
        .flat_map(|option| {
            let places = matches.indices_of(option).into_iter().flatten();
            let values = matches.get_many::<OsString>(option).into_iter().flatten();
            places
                .zip(values)
                .map(|(place, value)| (place, *option, value))
        })
        .collect();
    all.sort_by_key(|(place, ..)| *place);
    all
}

/// The value of `-blockdev`.
pub(super) fn node(value: &str) -> Result<NodeConfig, CliError> {
    let keys = KeyVals::parse_or_json(value, Some("driver"));
    keys.and_then(blockdev::named)
        .map_err(CliError::in_value("blockdev"))
}

/// A disk that comes to those of `config`; `None` if the device is none.
pub(super) fn hot_disk(value: &str, config: &VmConfig) -> Result<Option<DiskConfig>, CliError> {
    let Some(new) = device_disk(value, config, &mut [])? else {
        return Ok(None);
    };
    let held = |disk: &DiskConfig| Placed {
        option: "device",
        disk: disk.clone(),
        place: Place::At(disk.vdev),
    };
    let mut all: Vec<Placed> = config.disks.iter().map(held).collect();
    all.push(new);
    place(&mut all)?;
    Ok(all.pop().map(|placed| placed.disk))
}

fn blockdev_node(value: &OsString) -> Result<BlockNodeConfig, CliError> {
    let node = node(text("blockdev", value)?)?;
    let name = node.name.clone().unwrap_or_default();
    let origin = format!("-blockdev {name}");
    Ok(BlockNodeConfig { origin, node })
}

fn passed_fds(values: &[OsString]) -> Result<Vec<PassedFd>, CliError> {
    let mut all = Vec::new();
    for value in values {
        let keys = KeyVals::parse(text("add-fd", value)?, None);
        let fd = keys.and_then(passed_fd);
        all.push(fd.map_err(CliError::in_value("add-fd"))?);
    }
    Ok(all)
}

fn passed_fd(mut keys: KeyVals) -> Result<PassedFd, KeyvalError> {
    let fd = keys.take_number::<u32>("fd")?;
    let fd = fd.ok_or(KeyvalError::Missing("fd", "N"))?;
    let number = i32::try_from(fd).ok().filter(|fd| *fd > 2);
    let passed = PassedFd {
        fd: number.ok_or_else(|| {
            let text = "not a descriptor above standard error; write the number of an open one";
            wrong("fd", &fd.to_string(), text)
        })?,
        set: keys
            .take_number("set")?
            .ok_or(KeyvalError::Missing("set", "N"))?,
        opaque: keys.take_text("opaque")?,
    };
    keys.finish()?;
    Ok(passed)
}

/// The disk that a `-device` is, with its place among the devices; `None` for other devices.
fn device_disk(
    value: &str,
    config: &VmConfig,
    drives: &mut [Drive],
) -> Result<Option<Placed>, CliError> {
    let in_value = CliError::in_value("device");
    let mut keys = KeyVals::parse_or_json(value, Some("driver")).map_err(&in_value)?;
    let driver = keys.need_text("driver", "NAME").map_err(&in_value)?;
    let Some(kind) = device::disk_kind(&driver) else {
        return Ok(None);
    };
    read_device(driver, kind, keys, config, drives)
        .map(Some)
        .map_err(&in_value)
}

fn read_device(
    driver: String,
    kind: DiskKind,
    mut keys: KeyVals,
    config: &VmConfig,
    drives: &mut [Drive],
) -> Result<Placed, KeyvalError> {
    let place = match keys.take_text("vdev")? {
        None => Place::Next,
        Some(name) => Place::At(Vdev::parse(&name).ok_or_else(|| {
            let text = "not a disk's name; write one like xvda, sda or hda, without a partition";
            wrong("vdev", &name, text)
        })?),
    };
    let mut disk = DiskConfig::new(driver, None, FIRST);
    disk.kind = kind;
    disk.id = keys.take_text("id")?;
    let write_cache = keys.take_word(
        "write-cache",
        &[
            ("on", Some(true)),
            ("off", Some(false)),
            ("auto", None),
            ("true", Some(true)),
            ("false", Some(false)),
        ],
    )?;
    match keys.take_text("drive")? {
        Some(name) => take_drive(&name, &mut disk, config, drives)?,
        None if kind == DiskKind::Cdrom => {}
        None => return Err(KeyvalError::Missing("drive", "ID")),
    }
    if disk.node.is_none() && kind == DiskKind::Disk {
        let text = "the drive has no medium, which only a CD-ROM may lack; add file=FILE to it";
        return Err(wrong("drive", disk.backend.as_deref().unwrap_or(""), text));
    }
    disk.write_cache = write_cache.flatten().unwrap_or(disk.write_cache);
    device_keys(&mut keys, &mut disk)?;
    keys.finish()?;
    Ok(Placed {
        option: "device",
        disk,
        place,
    })
}

/// Stands where a disk's place is not yet known.
const FIRST: Vdev = Vdev::FIRST;

/// The `-drive` or `-blockdev` of this name becomes the device's image.
fn take_drive(
    name: &str,
    disk: &mut DiskConfig,
    config: &VmConfig,
    drives: &mut [Drive],
) -> Result<(), KeyvalError> {
    if let Some(drive) = drives.iter_mut().find(|drive| drive.id == name) {
        if drive.interface != Interface::None {
            let text = "the drive is a device by itself already; add if=none to it";
            return Err(wrong("drive", name, text));
        }
        if drive.taken {
            let text = "another device has this drive; give each its own";
            return Err(wrong("drive", name, text));
        }
        drive.taken = true;
        inherit(disk, drive);
        return Ok(());
    }
    let named = |node: &BlockNodeConfig| node.node.name.as_deref() == Some(name);
    let node = config.block_nodes.iter().find(|node| named(node));
    // A -drive may have a node-name, too.
    let of_drive = drives.iter().filter_map(|drive| drive.node.as_ref());
    let Some(node) = node.or_else(|| of_drive.into_iter().find(|node| named(node))) else {
        let text = "no -drive has this id and no -blockdev this node-name; add one";
        return Err(wrong("drive", name, text));
    };
    disk.read_only = node.node.read_only;
    disk.node = Some(name.to_owned());
    Ok(())
}

/// What a device has from its drive.
fn inherit(disk: &mut DiskConfig, drive: &Drive) {
    disk.backend = Some(drive.id.clone());
    disk.node = drive.node.as_ref().and_then(|node| node.node.name.clone());
    disk.read_only = drive.read_only;
    disk.write_cache = drive.write_cache;
    disk.read_error = drive.read_error.unwrap_or(disk.read_error);
    disk.write_error = drive.write_error.unwrap_or(disk.write_error);
    disk.serial = drive.serial.clone();
}

/// Properties of disks that say nothing of a paravirtual one.
const IDLE_PROPS: [&str; 46] = [
    "acpi-index",
    "addr",
    "ats",
    "backend_defaults",
    "bios-chs-trans",
    "bus",
    "channel",
    "class",
    "config-wce",
    "cyls",
    "device_id",
    "disable-legacy",
    "disable-modern",
    "discard-zeroes",
    "dpofua",
    "event_idx",
    "failover_pair_id",
    "heads",
    "indirect_desc",
    "ioeventfd",
    "iommu_platform",
    "iothread",
    "lcyls",
    "lheads",
    "lsecs",
    "lun",
    "max_io_size",
    "max_unmap_size",
    "min_io_size",
    "model",
    "multifunction",
    "opt_io_size",
    "packed",
    "page-per-vq",
    "pcie",
    "port",
    "port_wwn",
    "product",
    "queue-size",
    "removable",
    "rotation_rate",
    "scsi-id",
    "secs",
    "unit",
    "vendor",
    "wwn",
];
/// More of them.
const IDLE_PROPS_TOO: [&str; 12] = [
    "aer",
    "max_ioqpairs",
    "mdts",
    "msix_qsize",
    "quirk_mode_page_truncated",
    "request-merging",
    "rombar",
    "romfile",
    "scsi",
    "scsi_version",
    "seg-max-adjust",
    "ver",
];

/// Properties that all disks share.
fn device_keys(keys: &mut KeyVals, disk: &mut DiskConfig) -> Result<(), KeyvalError> {
    let action = |given: Option<Option<ErrorPolicy>>, known| given.flatten().unwrap_or(known);
    disk.read_error = action(
        keys.take_word("rerror", &drive::READ_ERRORS)?,
        disk.read_error,
    );
    disk.write_error = action(
        keys.take_word("werror", &drive::WRITE_ERRORS)?,
        disk.write_error,
    );
    disk.share_rw = keys.take_bool("share-rw")?.unwrap_or(false);
    disk.logical_block = block_size(keys, "logical_block_size")?;
    disk.physical_block = block_size(keys, "physical_block_size")?;
    disk.discard_granularity = keys
        .take_size("discard_granularity", 1)?
        .and_then(|bytes| u32::try_from(bytes).ok())
        // All bits set is how QEMU says that nothing was said.
        .filter(|bytes| *bytes != u32::MAX);
    // 65535 is QEMU's way to say "as many as there are vcpus".
    disk.queues = keys
        .take_number::<u16>("num-queues")?
        .filter(|queues| *queues != u16::MAX);
    disk.persistent_grants = keys.take_bool("persistent-grants")?.unwrap_or(false);
    disk.serial = keys.take_text("serial")?.or(disk.serial.take());
    disk.bootindex = keys.take_number::<i32>("bootindex")?;
    disk.read_only |= disk.kind == DiskKind::Cdrom;
    keys.accept(&IDLE_PROPS);
    keys.accept(&IDLE_PROPS_TOO);
    Ok(())
}

/// A block size; 0 leaves it to the image, as in QEMU.
fn block_size(keys: &mut KeyVals, key: &str) -> Result<Option<u32>, KeyvalError> {
    let size = keys.take_size(key, 1)?.filter(|bytes| *bytes != 0);
    match size.map(u32::try_from) {
        None => Ok(None),
        Some(Ok(bytes)) => Ok(Some(bytes)),
        Some(Err(_)) => Err(wrong(key, "...", "too large; write 512 or 4096")),
    }
}

/// Devices and the drives that are devices by themselves, in the order of their options.
fn merge_by_order(
    matches: &ArgMatches,
    devices: Vec<Placed>,
    drives: &mut [Drive],
) -> Result<Vec<Placed>, CliError> {
    let mut all = Vec::new();
    let mut devices = devices.into_iter();
    let mut drives = drives.iter_mut();
    let options: Vec<&'static str> = DRIVES.iter().chain(&["device"]).copied().collect();
    for (_, option, value) in in_order(matches, &options) {
        if option != "device" {
            all.extend(drives.next().and_then(by_itself));
        } else if device::is_disk(text(option, value)?) {
            all.extend(devices.next());
        }
    }
    Ok(all)
}

/// The device that a drive is without a `-device`.
fn by_itself(drive: &mut Drive) -> Option<Placed> {
    if drive.interface == Interface::None {
        return None;
    }
    drive.taken = true;
    let mut disk = DiskConfig::new(drive.interface.device(drive.kind), None, FIRST);
    disk.kind = drive.kind;
    inherit(&mut disk, drive);
    disk.read_only |= drive.kind == DiskKind::Cdrom;
    Some(Placed {
        option: drive.option,
        disk,
        place: drive.letter.map_or(Place::Next, Place::Index),
    })
}

/// Gives every disk its place: first those that ask for one, then the others in their order.
fn place(all: &mut [Placed]) -> Result<(), CliError> {
    let mut used: Vec<Vdev> = Vec::new();
    for placed in all.iter_mut() {
        if let Place::At(vdev) = placed.place {
            if used.contains(&vdev) {
                return Err(CliError::Invalid {
                    option: placed.option,
                    value: format!("vdev={vdev}"),
                    problem: "is another disk's place; choose another".to_owned(),
                });
            }
            placed.disk.vdev = vdev;
            used.push(vdev);
        }
    }
    for placed in all.iter_mut() {
        if let Place::Index(index) = placed.place {
            match Vdev::xvd(index).filter(|vdev| !used.contains(vdev)) {
                Some(vdev) => {
                    placed.disk.vdev = vdev;
                    used.push(vdev);
                }
                None => placed.place = Place::Next,
            }
        }
    }
    for placed in all.iter_mut() {
        if matches!(placed.place, Place::Next) {
            let free = (0..).map_while(Vdev::xvd).find(|vdev| !used.contains(vdev));
            let Some(vdev) = free else { continue };
            placed.disk.vdev = vdev;
            used.push(vdev);
        }
    }
    Ok(())
}
