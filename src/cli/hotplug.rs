//! What a monitor plugs in at run time, read by the rules of the options that do it at the start.
//!
//! The values are JSON, as `-blockdev`, `-netdev` and `-device` take it.

use xenner_pvdevices::image::config::NodeConfig;

use super::error::CliError;
use super::keyval::KeyVals;
use super::{disk, netdev};
use crate::config::{DeviceRecord, DiskConfig, NetdevConfig, NicConfig, VmConfig};

/// A device that can be plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HotDevice {
    /// A disk, in the first place that is free or the one that it asks for.
    Disk(Box<DiskConfig>),
    /// A network device.
    Nic(NicConfig),
    /// A device that the guest does not see.
    Unseen,
}

/// A block node.
///
/// # Errors
/// As `-blockdev`.
pub fn block_node(json: &str) -> Result<NodeConfig, CliError> {
    disk::node(json)
}

/// A network device's host end. Notes go to `config`.
///
/// # Errors
/// As `-netdev`.
pub fn host_end(json: &str, config: &mut VmConfig) -> Result<NetdevConfig, CliError> {
    netdev::netdev(json, config)
}

/// A device beside those of `config`.
///
/// # Errors
/// As `-device`.
pub fn device(json: &str, config: &VmConfig) -> Result<HotDevice, CliError> {
    let in_value = CliError::in_value("device");
    let mut keys = KeyVals::parse_or_json(json, Some("driver")).map_err(&in_value)?;
    let driver = keys.need_text("driver", "NAME").map_err(&in_value)?;
    if let Some(disk) = disk::hot_disk(json, config)? {
        return Ok(HotDevice::Disk(Box::new(disk)));
    }
    if super::device::is_nic(&driver) {
        let nic = netdev::device(&driver, keys, config).map_err(&in_value)?;
        return Ok(HotDevice::Nic(nic));
    }
    let has_chardev = keys.take_text("chardev").map_err(&in_value)?.is_some();
    super::device::may_be_unseen(&driver, has_chardev)?;
    Ok(HotDevice::Unseen)
}

/// Whether a device is a PV console or a channel, which stay for the life of the process.
pub fn is_console(device: &DeviceRecord) -> bool {
    super::device::is_console(&device.driver, device.properties.contains_key("chardev"))
}
