//! `-drive` and its short forms `-hda` to `-hdd` and `-cdrom`: an image, and perhaps the device on it.

use std::path::PathBuf;

use xenner_pvdevices::image::config::{
    CacheMode, Driver, FileConfig, FileKind, NodeConfig, NodeRef,
};

use super::blockdev::{self, wrong};
use super::keyval::{KeyVals, KeyvalError};
use crate::config::{BlockNodeConfig, DiskKind, ErrorPolicy};

/// A drive before a device takes it.
#[derive(Debug)]
pub(super) struct Drive {
    /// The option that made it.
    pub(super) option: &'static str,
    /// `id=`, or the name that QEMU would give it.
    pub(super) id: String,
    /// `if=`.
    pub(super) interface: Interface,
    /// Its place among the drives of its interface.
    pub(super) index: u32,
    /// The `xvd` disk that it asks for, counted from 0.
    pub(super) letter: Option<u32>,
    pub(super) kind: DiskKind,
    /// The image; `None` is an empty CD-ROM drive.
    pub(super) node: Option<BlockNodeConfig>,
    pub(super) read_only: bool,
    pub(super) write_cache: bool,
    pub(super) read_error: Option<ErrorPolicy>,
    pub(super) write_error: Option<ErrorPolicy>,
    pub(super) serial: Option<String>,
    /// A device has it.
    pub(super) taken: bool,
}

/// `if=`: which device a drive becomes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interface {
    None,
    Xen,
    Virtio,
    Ide,
    Scsi,
    Sd,
}

const INTERFACES: [(&str, Interface); 6] = [
    ("xen", Interface::Xen),
    ("virtio", Interface::Virtio),
    ("ide", Interface::Ide),
    ("scsi", Interface::Scsi),
    ("sd", Interface::Sd),
    ("none", Interface::None),
];

impl Interface {
    /// The name of a drive that has no id, as QEMU makes it up.
    fn default_id(self, index: u32, kind: DiskKind) -> String {
        let medium = match kind {
            DiskKind::Disk => "hd",
            DiskKind::Cdrom => "cd",
        };
        let (name, units) = match self {
            Self::None => return format!("none{index}"),
            Self::Xen => return format!("xen{index}"),
            Self::Virtio => return format!("virtio{index}"),
            Self::Sd => return format!("sd{index}"),
            Self::Ide => ("ide", 2),
            Self::Scsi => ("scsi", 7),
        };
        format!("{name}{}-{medium}{}", index / units, index % units)
    }

    /// The device that QEMU would make.
    pub(super) fn device(self, kind: DiskKind) -> &'static str {
        match (self, kind) {
            (Self::Xen | Self::None, DiskKind::Disk) => "xen-disk",
            (Self::Xen | Self::None, DiskKind::Cdrom) => "xen-cdrom",
            (Self::Virtio, _) => "virtio-blk-pci",
            (Self::Ide, DiskKind::Disk) => "ide-hd",
            (Self::Ide, DiskKind::Cdrom) => "ide-cd",
            (Self::Scsi, DiskKind::Disk) => "scsi-hd",
            (Self::Scsi, DiskKind::Cdrom) => "scsi-cd",
            (Self::Sd, _) => "sd-card",
        }
    }
}

/// What `rerror=` may say.
pub(super) const READ_ERRORS: [(&str, Option<ErrorPolicy>); 4] = [
    ("report", Some(ErrorPolicy::Report)),
    ("ignore", Some(ErrorPolicy::Ignore)),
    ("stop", Some(ErrorPolicy::Stop)),
    ("auto", None),
];
/// What `werror=` may say.
pub(super) const WRITE_ERRORS: [(&str, Option<ErrorPolicy>); 5] = [
    ("report", Some(ErrorPolicy::Report)),
    ("ignore", Some(ErrorPolicy::Ignore)),
    ("stop", Some(ErrorPolicy::Stop)),
    ("enospc", Some(ErrorPolicy::Enospc)),
    ("auto", None),
];

/// The short form of an option, as `-drive` has it.
pub(super) fn short_form(option: &'static str, file: &str) -> Option<KeyVals> {
    let more = match option {
        "hda" => "index=0,media=disk",
        "hdb" => "index=1,media=disk",
        "hdc" => "index=2,media=disk",
        "hdd" => "index=3,media=disk",
        _ => "media=cdrom",
    };
    let file = file.replace(',', ",,");
    KeyVals::parse(&format!("if=ide,{more},file={file}"), None).ok()
}

/// Reads one drive. `earlier` are those before it; `snapshot` is the option of that name.
pub(super) fn parse(
    option: &'static str,
    mut keys: KeyVals,
    earlier: &[Drive],
    snapshot: bool,
) -> Result<Drive, KeyvalError> {
    refuse_the_rest(&mut keys)?;
    let interface = interface(&mut keys)?;
    let kind = keys
        .take_word(
            "media",
            &[("disk", DiskKind::Disk), ("cdrom", DiskKind::Cdrom)],
        )?
        .unwrap_or_default();
    let wanted = index(&mut keys, interface)?;
    let index = match wanted {
        Some(index) => index,
        None => next_index(earlier, interface),
    };
    let id = keys.take_text("id")?;
    let write_cache = keys.take_bool("cache.writeback")?;
    let read_error = keys.take_word("rerror", &READ_ERRORS)?.flatten();
    let write_error = keys.take_word("werror", &WRITE_ERRORS)?.flatten();
    let serial = keys.take_text("serial")?;
    let (node, mode) = image(&mut keys, kind, snapshot)?;
    keys.finish()?;
    let drive = Drive {
        option,
        id: id.unwrap_or_else(|| interface.default_id(index, kind)),
        interface,
        index,
        letter: wanted.filter(|_| interface != Interface::None),
        kind,
        read_only: node.as_ref().is_some_and(|node| node.node.read_only),
        node,
        write_cache: write_cache.unwrap_or_else(|| mode.is_none_or(CacheMode::writeback)),
        read_error,
        write_error,
        serial,
        taken: false,
    };
    check_place(&drive, earlier)?;
    Ok(drive)
}

fn check_place(drive: &Drive, earlier: &[Drive]) -> Result<(), KeyvalError> {
    for other in earlier {
        let same = other.interface == drive.interface && other.index == drive.index;
        if same && drive.interface != Interface::None {
            let text = "another drive has this place; choose another";
            return Err(wrong("index", &drive.index.to_string(), text));
        }
        if other.id == drive.id {
            let text = "another drive has this id; choose another";
            return Err(wrong("id", &drive.id, text));
        }
    }
    Ok(())
}

fn interface(keys: &mut KeyVals) -> Result<Interface, KeyvalError> {
    let Some(name) = keys.take_text("if")? else {
        return Ok(Interface::Xen);
    };
    if ["floppy", "pflash", "mtd"].contains(&name.as_str()) {
        let text = "not supported by this version; write if=xen";
        return Err(wrong("if", &name, text));
    }
    let found = INTERFACES.iter().find(|(known, _)| *known == name);
    found.map(|(_, interface)| *interface).ok_or_else(|| {
        let known: Vec<&str> = INTERFACES.iter().map(|(known, _)| *known).collect();
        let text = format!("not known; write one of {}", known.join(", "));
        wrong("if", &name, &text)
    })
}

/// `index=`, or `bus=` and `unit=`, which say the same.
fn index(keys: &mut KeyVals, interface: Interface) -> Result<Option<u32>, KeyvalError> {
    let index = keys.take_number::<u32>("index")?;
    let bus = keys.take_number::<u32>("bus")?;
    let unit = keys.take_number::<u32>("unit")?;
    if index.is_some() && (bus.is_some() || unit.is_some()) {
        return Err(KeyvalError::SeveralOf("index and bus with unit"));
    }
    let units = match interface {
        Interface::Ide => 2,
        Interface::Scsi => 7,
        _ => 1,
    };
    let place = match (bus, unit) {
        (None, None) => index,
        (bus, unit) => bus.unwrap_or(0).checked_mul(units).and_then(|first| {
            let unit = unit.unwrap_or(0);
            first.checked_add(unit)
        }),
    };
    Ok(place)
}

fn next_index(earlier: &[Drive], interface: Interface) -> u32 {
    let used = |index: u32| {
        earlier
            .iter()
            .any(|drive| drive.interface == interface && drive.index == index)
    };
    (0..).find(|index| !used(*index)).unwrap_or(0)
}

/// The image's node, and what `cache=` said.
fn image(
    keys: &mut KeyVals,
    kind: DiskKind,
    snapshot: bool,
) -> Result<(Option<BlockNodeConfig>, Option<CacheMode>), KeyvalError> {
    let mode = keys.take_word("cache", &CacheMode::WORDS)?;
    let readonly = keys.take_bool("readonly")?;
    let aio = keys.take_word("aio", &blockdev::AIO)?;
    let snapshot = keys.take_bool("snapshot")?.unwrap_or(snapshot);
    let format = match (keys.take_text("format")?, keys.take_text("driver")?) {
        (Some(_), Some(_)) => return Err(KeyvalError::SeveralOf("format and driver")),
        (format, driver) => format.or(driver),
    };
    let given = [
        keys.take_bool("cache.direct")?,
        keys.take_bool("cache.no-flush")?,
    ];
    let mut node = NodeConfig::new(Driver::Null { size: 0 });
    blockdev::common(keys, &mut node)?;
    if readonly.is_some() && node.read_only {
        return Err(KeyvalError::SeveralOf("readonly and read-only"));
    }
    node.cache = mode.map(CacheMode::config).unwrap_or_default();
    node.cache.direct = given[0].unwrap_or(node.cache.direct);
    node.cache.no_flush = given[1].unwrap_or(node.cache.no_flush);
    node.read_only |= readonly.unwrap_or(false) || kind == DiskKind::Cdrom;
    node.snapshot = snapshot && !node.read_only;
    let Some((mut file, shown)) = protocol(keys, format.as_deref())? else {
        return match kind {
            DiskKind::Cdrom => Ok((None, mode)),
            DiskKind::Disk => Err(KeyvalError::Missing("file", "FILE")),
        };
    };
    file.read_only = node.read_only || node.snapshot;
    file.auto_read_only = true;
    file.cache = node.cache;
    file.force_share = node.force_share;
    if let (Driver::File(file), Some(aio)) = (&mut file.driver, aio) {
        file.aio = aio;
    }
    node.driver = over(format.as_deref(), file, keys)?;
    let origin = format!("file={shown}");
    Ok((Some(BlockNodeConfig { origin, node }), mode))
}

/// The format's driver over the file.
fn over(format: Option<&str>, file: NodeConfig, keys: &mut KeyVals) -> Result<Driver, KeyvalError> {
    if matches!(file.driver, Driver::Null { .. }) {
        return Ok(file.driver);
    }
    let file = NodeRef::from(file);
    match format {
        None => Ok(Driver::Probe { file }),
        Some("file" | "host_device" | "host_cdrom") => blockdev::format("raw", file, keys, 0),
        Some(format) => blockdev::format(format, file, keys, 0)
            .map_err(|_| blockdev::no_driver("format", format)),
    }
}

/// The node that has the bytes, from `file=` or `file.KEY=`, and how a message shows it.
fn protocol(
    keys: &mut KeyVals,
    format: Option<&str>,
) -> Result<Option<(NodeConfig, String)>, KeyvalError> {
    let text = keys.take_text("file")?.filter(|text| !text.is_empty());
    let object = keys.take_object("file");
    let driver = match (text, object) {
        (None, None) => return Ok(None),
        (Some(text), object) => named_file(&text, object, format)?,
        (None, Some(object)) => nested_file(object)?,
    };
    let shown = match &driver {
        Driver::File(file) => file.path.display().to_string(),
        other => other.name().to_owned(),
    };
    Ok(Some((NodeConfig::new(driver), shown)))
}

/// `file=NAME`, and perhaps `file.locking=` beside it.
fn named_file(
    text: &str,
    object: Option<KeyVals>,
    format: Option<&str>,
) -> Result<Driver, KeyvalError> {
    let (path, kind) = filename(text)?;
    let mut file = FileConfig::new(PathBuf::from(path));
    file.kind = match format {
        Some("host_device") => FileKind::HostDevice,
        Some("host_cdrom") => FileKind::HostCdrom,
        _ => kind,
    };
    if let Some(mut object) = object {
        if object.take_text("driver")?.is_some() {
            return Err(KeyvalError::SeveralOf("file and file.driver"));
        }
        blockdev::file_keys(&mut object, &mut file)?;
        object.finish()?;
    }
    Ok(Driver::File(file))
}

/// `file.driver=...,file.filename=...`.
fn nested_file(mut object: KeyVals) -> Result<Driver, KeyvalError> {
    let name = object.take_text("driver")?;
    let name = name.unwrap_or_else(|| "file".to_owned());
    if !PROTOCOLS.contains(&name.as_str()) {
        return Err(blockdev::no_driver("file.driver", &name));
    }
    let driver = blockdev::driver(&name, &mut object, 0)?;
    object.finish()?;
    Ok(driver)
}

/// Drivers that stand on no other node.
const PROTOCOLS: [&str; 5] = ["file", "host_device", "host_cdrom", "null-co", "null-aio"];

/// The path of a file name, which may have a protocol in front: `file:`, `host_device:`.
fn filename(text: &str) -> Result<(&str, FileKind), KeyvalError> {
    let Some((protocol, path)) = text
        .split_once(':')
        .filter(|(protocol, _)| !protocol.contains('/'))
    else {
        return Ok((text, FileKind::File));
    };
    match protocol {
        "file" => Ok((path, FileKind::File)),
        "host_device" => Ok((path, FileKind::HostDevice)),
        "host_cdrom" => Ok((path, FileKind::HostCdrom)),
        _ => {
            let expected = "its protocol is not supported by this version; \
                            for a file whose name has a colon write file:NAME";
            Err(wrong("file", text, expected))
        }
    }
}

/// Keys of QEMU's that would change what the guest gets.
fn refuse_the_rest(keys: &mut KeyVals) -> Result<(), KeyvalError> {
    for key in THROTTLE {
        if let Some(limit) = keys.take_text(key)?.filter(|limit| limit != "0") {
            let text = "I/O throttling is not supported by this version; leave it out";
            return Err(wrong(key, &limit, text));
        }
    }
    let limits = keys
        .take_object("throttling")
        .map(|mut object| object.take_rest());
    let mut limits = limits.into_iter().flatten();
    if let Some((key, limit)) = limits.find(|(_, limit)| limit != "0") {
        let text = "I/O throttling is not supported by this version; leave it out";
        return Err(wrong(&format!("throttling.{key}"), &limit, text));
    }
    if keys.take_bool("copy-on-read")? == Some(true) {
        let text = "not supported by this version; leave it out";
        return Err(wrong("copy-on-read", "on", text));
    }
    keys.accept(&["stats-account-failed", "stats-account-invalid"]);
    Ok(())
}

/// QEMU's older names of its limits.
const THROTTLE: [&str; 14] = [
    "bps",
    "bps_max",
    "bps_rd",
    "bps_rd_max",
    "bps_wr",
    "bps_wr_max",
    "group",
    "iops",
    "iops_max",
    "iops_rd",
    "iops_rd_max",
    "iops_size",
    "iops_wr",
    "iops_wr_max",
];
