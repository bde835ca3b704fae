//! The domain's network devices and their host ends.

use std::collections::HashSet;

use thiserror::Error;
pub use xenner_pvdevices::netback::MacAddr;
pub use xenner_pvdevices::netend::config::NetdevConfig;

use super::VmConfig;

/// The most network devices of a domain.
pub const MAX_NICS: usize = 32;

/// One network device: a vif, whose number is its place in [`VmConfig::nics`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicConfig {
    /// `id=`, by which a monitor refers to it.
    pub id: Option<String>,
    /// QEMU's name of the device that was asked for; the guest sees a vif, whichever it is.
    pub model: String,
    /// `mac=`, or the next that was free.
    pub mac: MacAddr,
    /// The `id` of its host end.
    pub netdev: String,
    /// `host_mtu=`: the most bytes of a packet that the guest should send.
    pub mtu: Option<u16>,
}

/// Why the network of a configuration makes no sense.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NetError {
    /// Two host ends of one name.
    #[error("-netdev: Id '{0}' is given twice; choose another for one of them")]
    DuplicateNetdev(String),
    /// Two devices of one name.
    #[error("-device: Id '{0}' is given to two network devices; choose another for one of them")]
    DuplicateNic(String),
    /// A device on a host end that is not there.
    #[error("-device: No host end has the id '{0}'; add -netdev ...,id={0}")]
    NoNetdev(String),
    /// Two devices on one host end.
    #[error("-device: Host end '{0}' is in use already; give the device one of its own")]
    NetdevInUse(String),
    /// Too many.
    #[error("-device: {0} network devices are too many; this version has {MAX_NICS}")]
    TooMany(usize),
}

impl VmConfig {
    /// The host end of this id, if there is one.
    #[must_use]
    pub fn netdev(&self, id: &str) -> Option<&NetdevConfig> {
        self.netdevs.iter().find(|netdev| netdev.id == id)
    }

    /// The first of QEMU's addresses (52:54:00:12:34:56 and up) that no device has.
    #[must_use]
    pub fn free_mac(&self) -> MacAddr {
        let taken = |mac: &MacAddr| self.nics.iter().any(|nic| nic.mac == *mac);
        let mut macs = (0..=u8::MAX).map(MacAddr::nth);
        // There are more of them than devices.
        macs.find(|mac| !taken(mac)).unwrap_or(MacAddr::nth(0))
    }

    pub(super) fn validate_net(&self) -> Result<(), NetError> {
        let mut ids = HashSet::new();
        for netdev in &self.netdevs {
            if !ids.insert(netdev.id.as_str()) {
                return Err(NetError::DuplicateNetdev(netdev.id.clone()));
            }
        }
        if self.nics.len() > MAX_NICS {
            return Err(NetError::TooMany(self.nics.len()));
        }
        let (mut names, mut used) = (HashSet::new(), HashSet::new());
        for nic in &self.nics {
            if let Some(id) = nic.id.as_deref().filter(|id| !names.insert(*id)) {
                return Err(NetError::DuplicateNic(id.to_owned()));
            }
            if !ids.contains(nic.netdev.as_str()) {
                return Err(NetError::NoNetdev(nic.netdev.clone()));
            }
            if !used.insert(nic.netdev.as_str()) {
                return Err(NetError::NetdevInUse(nic.netdev.clone()));
            }
        }
        Ok(())
    }
}
