//! The domain's network devices: host ends opened from the configuration, and a vif on each that the
//! guest is given.

use thiserror::Error;
use xenner_console::FdSource;
use xenner_pvdevices::netback::{NetBack, NetControl, VifConfig};
use xenner_pvdevices::netend::{self, NetEnd, NetEndError};

use super::devices::Place;
use crate::config::{NicConfig, VmConfig};

/// Why there is no network device.
#[derive(Debug, Error)]
pub enum NicError {
    /// Its host end cannot be opened.
    #[error("-netdev id={netdev}")]
    End {
        /// The host end.
        netdev: String,
        /// Why.
        #[source]
        source: NetEndError,
    },
    /// It names a host end that is not there.
    #[error("-device {model}: No host end has the id '{netdev}'; add -netdev ...,id={netdev}")]
    NoNetdev {
        /// The device.
        model: String,
        /// The host end.
        netdev: String,
    },
}

/// One network device of the guest.
#[derive(Debug)]
pub struct Nic {
    /// What was asked for.
    pub config: NicConfig,
    /// Its number.
    pub handle: u32,
    /// The running backend.
    pub control: NetControl,
}

/// A network device that is to become a device of the domain.
pub type NewDevice = (Place, Box<NetBack>);

/// Opens the network devices of the configuration.
///
/// # Errors
/// [`NicError`], which names the option.
pub fn open(
    config: &VmConfig,
    fds: &mut dyn FdSource,
) -> Result<(Vec<Nic>, Vec<NewDevice>), NicError> {
    let (mut nics, mut devices) = (Vec::new(), Vec::new());
    for (handle, nic) in (0..).zip(&config.nics) {
        let (opened, device) = attach(config, nic, handle, fds)?;
        nics.push(opened);
        devices.push(device);
    }
    Ok((nics, devices))
}

/// Opens one network device as the guest's `handle`th.
///
/// # Errors
/// [`NicError`].
fn attach(
    config: &VmConfig,
    nic: &NicConfig,
    handle: u32,
    fds: &mut dyn FdSource,
) -> Result<(Nic, NewDevice), NicError> {
    let netdev = config
        .netdev(&nic.netdev)
        .ok_or_else(|| NicError::NoNetdev {
            model: nic.model.clone(),
            netdev: nic.netdev.clone(),
        })?;
    let ends = netend::open(netdev, fds).map_err(|source| NicError::End {
        netdev: netdev.id.clone(),
        source,
    })?;
    Ok(on_ends(nic, handle, ends))
}

/// One network device on its open host end.
pub fn on_ends(nic: &NicConfig, handle: u32, ends: Vec<Box<dyn NetEnd>>) -> (Nic, NewDevice) {
    let vif = VifConfig {
        handle,
        mac: nic.mac,
        mtu: nic.mtu,
        link: true,
    };
    let device = Box::new(NetBack::new(vif, ends));
    let place = Place {
        class: "vif",
        id: handle,
        frontend: device.frontend_keys(),
    };
    let opened = Nic {
        config: nic.clone(),
        handle,
        control: device.control(),
    };
    (opened, (place, device))
}
