//! `-device`: which of QEMU's devices a PV domain can be given.
//!
//! One table says of every driver name whether it is a PV console or a channel, whether the
//! guest can do without it, or whether this version has to refuse it.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Map, Value};

use super::error::CliError;
use super::keyval::{KeyVals, KeyvalError, parse_bool};
use super::suggest::nearest;
use super::{Listing, asks_help, netdev, text};
use crate::config::{ChannelConfig, ConsoleConfig, DeviceRecord, DiskKind, VmConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "Device options")]
pub(super) struct DeviceOptions {
    /// Adds a device ('-device help' lists those there are). A serial port
    /// becomes a PV console, a virtserialport a channel, a disk a paravirtual
    /// one; what the guest can do without is taken and left out.
    #[arg(
        long,
        value_name = "DRIVER[,prop=value...]|{\"driver\":\"DRIVER\",...}"
    )]
    device: Vec<OsString>,
}

/// What becomes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A PV console on its `chardev`.
    Console,
    /// A PV console with a name, on its `chardev`; without one, left out.
    Channel,
    /// A paravirtual disk on its `drive`; see `disk`.
    Disk(DiskKind),
    /// A vif on its `netdev`; see `netdev`.
    Nic,
    /// Taken, and not there for the guest.
    LeftOut,
    /// Refused: a guest that is given it needs it.
    Refused(&'static str),
}

const DISK: Fate = Fate::Disk(DiskKind::Disk);
const CDROM: Fate = Fate::Disk(DiskKind::Cdrom);
const FLOPPY: Fate = Fate::Refused("Floppy disks are");
const NIC: Fate = Fate::Nic;
const DISPLAY: Fate = Fate::Refused("Displays are");
const MEMORY: Fate = Fate::Refused("Memory devices are");
const HOST: Fate = Fate::Refused("Host devices are");

/// Driver names, sorted.
const DEVICES: [(&str, Fate); 91] = [
    ("AC97", Fate::LeftOut),
    ("VGA", DISPLAY),
    ("ahci", Fate::LeftOut),
    ("bochs-display", DISPLAY),
    ("cirrus-vga", DISPLAY),
    ("e1000", NIC),
    ("e1000e", NIC),
    ("floppy", FLOPPY),
    ("hda-duplex", Fate::LeftOut),
    ("hda-micro", Fate::LeftOut),
    ("hda-output", Fate::LeftOut),
    ("i6300esb", Fate::LeftOut),
    ("i82551", NIC),
    ("i82557b", NIC),
    ("i82559er", NIC),
    ("ib700", Fate::LeftOut),
    ("ich9-ahci", Fate::LeftOut),
    ("ich9-intel-hda", Fate::LeftOut),
    ("ich9-usb-ehci1", Fate::LeftOut),
    ("ich9-usb-uhci1", Fate::LeftOut),
    ("ich9-usb-uhci2", Fate::LeftOut),
    ("ich9-usb-uhci3", Fate::LeftOut),
    ("ide-cd", CDROM),
    ("ide-hd", DISK),
    ("igb", NIC),
    ("intel-hda", Fate::LeftOut),
    ("ioh3420", Fate::LeftOut),
    ("isa-serial", Fate::Console),
    ("lsi53c895a", Fate::LeftOut),
    ("ne2k_pci", NIC),
    ("netfront", NIC),
    ("nvdimm", MEMORY),
    ("nvme", DISK),
    ("pc-dimm", MEMORY),
    ("pci-bridge", Fate::LeftOut),
    ("pci-serial", Fate::Console),
    ("pcie-pci-bridge", Fate::LeftOut),
    ("pcie-root-port", Fate::LeftOut),
    ("pcnet", NIC),
    ("piix3-usb-uhci", Fate::LeftOut),
    ("piix4-usb-uhci", Fate::LeftOut),
    ("pvpanic", Fate::LeftOut),
    ("pvpanic-pci", Fate::LeftOut),
    ("qemu-xhci", Fate::LeftOut),
    ("qxl", DISPLAY),
    ("qxl-vga", DISPLAY),
    ("ramfb", DISPLAY),
    ("rtl8139", NIC),
    ("sb16", Fate::LeftOut),
    ("scsi-cd", CDROM),
    ("scsi-hd", DISK),
    ("tulip", NIC),
    ("usb-ehci", Fate::LeftOut),
    ("usb-hub", Fate::LeftOut),
    ("usb-kbd", Fate::LeftOut),
    ("usb-mouse", Fate::LeftOut),
    ("usb-net", NIC),
    ("usb-storage", DISK),
    ("usb-tablet", Fate::LeftOut),
    ("vfio-pci", HOST),
    (
        "vhost-user-fs-pci",
        Fate::Refused("Shared file systems are"),
    ),
    ("virtconsole", Fate::Console),
    ("virtio-9p-pci", Fate::Refused("Shared file systems are")),
    ("virtio-balloon-device", Fate::LeftOut),
    ("virtio-balloon-pci", Fate::LeftOut),
    ("virtio-blk", DISK),
    ("virtio-blk-device", DISK),
    ("virtio-blk-pci", DISK),
    ("virtio-blk-pci-non-transitional", DISK),
    ("virtio-blk-pci-transitional", DISK),
    ("virtio-gpu-pci", DISPLAY),
    ("virtio-keyboard-pci", Fate::LeftOut),
    ("virtio-net", NIC),
    ("virtio-net-device", NIC),
    ("virtio-net-pci", NIC),
    ("virtio-net-pci-non-transitional", NIC),
    ("virtio-net-pci-transitional", NIC),
    ("virtio-rng-device", Fate::LeftOut),
    ("virtio-rng-pci", Fate::LeftOut),
    ("virtio-scsi-device", Fate::LeftOut),
    ("virtio-scsi-pci", Fate::LeftOut),
    ("virtio-serial-device", Fate::LeftOut),
    ("virtio-serial-pci", Fate::LeftOut),
    ("virtio-tablet-pci", Fate::LeftOut),
    ("virtio-vga", DISPLAY),
    ("virtserialport", Fate::Channel),
    ("vmxnet3", NIC),
    ("xen-cdrom", CDROM),
    ("xen-console", Fate::Console),
    ("xen-disk", DISK),
    ("xen-net-device", NIC),
];

/// Properties of the devices that become a PV console or a channel, beside `chardev`.
const CONSOLE_PROPS: [&str; 12] = [
    "addr",
    "bus",
    "id",
    "index",
    "iobase",
    "irq",
    "multifunction",
    "name",
    "nr",
    "prog_if",
    "romfile",
    "wakeup",
];

impl DeviceOptions {
    pub(super) fn listing(&self) -> Option<Listing> {
        let row = |(name, fate): &(&'static str, Fate)| match fate {
            Fate::Console => Some((*name, "a PV console: chardev=ID")),
            Fate::Channel => Some((*name, "a channel: chardev=ID[,name=NAME]")),
            Fate::Disk(DiskKind::Disk) => Some((*name, "a paravirtual disk: drive=ID[,vdev=xvda]")),
            Fate::Disk(DiskKind::Cdrom) => Some((*name, "a paravirtual CD-ROM: [drive=ID]")),
            Fate::Nic => Some((*name, "a network device: netdev=ID[,mac=ADDRESS]")),
            Fate::LeftOut => Some((*name, "taken; the guest does not see it")),
            Fate::Refused(_) => None,
        };
        self.device.iter().any(asks_help).then(|| Listing {
            title: "Devices:",
            rows: DEVICES.iter().filter_map(row).collect(),
        })
    }

    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        for value in &self.device {
            let value = text("device", value)?;
            let mut keys = KeyVals::parse_or_json(value, Some("driver"))
                .map_err(CliError::in_value("device"))?;
            let driver = keys
                .need_text("driver", "NAME")
                .map_err(CliError::in_value("device"))?;
            config.devices.push(record(&driver, value, keys.clone()));
            match fate(&driver)? {
                Fate::Console => {
                    let console = console(keys).map_err(CliError::in_value("device"))?;
                    config.consoles.push(console);
                }
                Fate::Channel => match channel(keys).map_err(CliError::in_value("device"))? {
                    Some(channel) => config.channels.push(channel),
                    None => config.notes.push(unseen(&driver)),
                },
                // These are read together with the drives.
                Fate::Disk(_) => {}
                Fate::Nic => {
                    let nic = netdev::device(&driver, keys, config);
                    let nic = nic.map_err(CliError::in_value("device"))?;
                    config.nics.push(nic);
                }
                Fate::LeftOut => config.notes.push(unseen(&driver)),
                Fate::Refused(what) => {
                    return Err(CliError::UnsupportedValue {
                        option: "device",
                        value: driver,
                        what,
                    });
                }
            }
        }
        Ok(())
    }
}

fn unseen(driver: &str) -> String {
    format!("-device: the guest does not see {driver}")
}

/// The device as the monitor shows it. The types of values are those of the JSON form; in the
/// other form numbers and switches are known by their look.
fn record(driver: &str, value: &str, mut keys: KeyVals) -> DeviceRecord {
    let json = serde_json::from_str::<Map<String, Value>>(value);
    let mut properties = json.unwrap_or_else(|_| {
        let pairs = keys.take_rest().into_iter();
        pairs.map(|(key, text)| (key, guessed(text))).collect()
    });
    let id = properties.remove("id");
    properties.remove("driver");
    DeviceRecord {
        id: id.and_then(|id| id.as_str().map(str::to_owned)),
        driver: driver.to_owned(),
        properties,
    }
}

fn guessed(text: String) -> Value {
    match (text.parse::<i64>(), parse_bool(&text)) {
        (Ok(number), _) => number.into(),
        (_, Some(switch)) => switch.into(),
        _ => text.into(),
    }
}

/// Whether a device is a PV console or a channel.
pub(super) fn is_console(driver: &str, has_chardev: bool) -> bool {
    match fate(driver) {
        Ok(Fate::Console) => true,
        Ok(Fate::Channel) => has_chardev,
        _ => false,
    }
}

/// What a driver is if it is a disk.
pub(super) fn disk_kind(driver: &str) -> Option<DiskKind> {
    match DEVICES.iter().find(|(known, _)| *known == driver) {
        Some((_, Fate::Disk(kind))) => Some(*kind),
        _ => None,
    }
}

/// Whether a value of `-device` is a disk's.
pub(super) fn is_disk(value: &str) -> bool {
    let keys = KeyVals::parse_or_json(value, Some("driver"));
    let driver = keys.and_then(|mut keys| keys.need_text("driver", "NAME"));
    driver.is_ok_and(|driver| disk_kind(&driver).is_some())
}

/// Whether a driver is a network device.
pub(super) fn is_nic(driver: &str) -> bool {
    DEVICES.contains(&(driver, Fate::Nic))
}

/// Whether a device is one that the guest can do without.
pub(super) fn may_be_unseen(driver: &str, has_chardev: bool) -> Result<(), CliError> {
    let what = match fate(driver)? {
        Fate::LeftOut => return Ok(()),
        Fate::Channel if !has_chardev => return Ok(()),
        Fate::Refused(what) => what,
        _ => "Plugging such a device in at run time is",
    };
    Err(CliError::UnsupportedValue {
        option: "device",
        value: driver.to_owned(),
        what,
    })
}

fn fate(driver: &str) -> Result<Fate, CliError> {
    if let Some((_, fate)) = DEVICES.iter().find(|(known, _)| *known == driver) {
        return Ok(*fate);
    }
    let problem = match nearest(driver, DEVICES.iter().map(|(known, _)| *known)) {
        Some(near) => format!("is not a device; did you mean '{near}'?"),
        None => "is not a device; '-device help' lists them".to_owned(),
    };
    Err(CliError::Invalid {
        option: "device",
        value: driver.to_owned(),
        problem,
    })
}

fn console(mut keys: KeyVals) -> Result<ConsoleConfig, KeyvalError> {
    let chardev = keys.need_text("chardev", "ID")?;
    keys.accept(&CONSOLE_PROPS);
    keys.finish()?;
    Ok(ConsoleConfig { chardev })
}

/// Nothing if it is on no character device.
fn channel(mut keys: KeyVals) -> Result<Option<ChannelConfig>, KeyvalError> {
    let Some(chardev) = keys.take_text("chardev")? else {
        return Ok(None);
    };
    let (id, name) = (keys.take_text("id")?, keys.take_text("name")?);
    keys.accept(&CONSOLE_PROPS);
    keys.finish()?;
    let name = name
        .or_else(|| id.clone())
        .unwrap_or_else(|| chardev.clone());
    Ok(Some(ChannelConfig { chardev, name, id }))
}
