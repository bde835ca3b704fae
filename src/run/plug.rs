//! Devices and images that come and go while the domain runs, for the monitor.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use log::warn;
use serde_json::Value;
use xenner_console::FdSource;
use xenner_pvdevices::netend;

use super::consoles;
use super::disks::Disk;
use super::life::Host;
use super::nics;
use super::vcpus;
use crate::cli::hotplug::{self, HotDevice};
use crate::config::{BlockNodeConfig, DeviceRecord, DiskConfig, DiskKind, NicConfig};
use crate::disks::{OpenDisk, attachment, user_name};
use crate::logging::with_causes;
use crate::qmp::control::{Answer, BlockTarget, NamedFds, Properties};
use crate::qmp::events::{DeviceDeleted, TrayMoved};
use crate::qmp::{Event, QmpError};

/// An error of the host's side with all its causes, for a client.
pub(super) fn because(error: &dyn Error) -> QmpError {
    QmpError::generic(with_causes(error))
}

/// The properties as the JSON value of an option.
fn json(properties: Properties) -> String {
    Value::Object(properties).to_string()
}

/// Descriptors that a client sent, before those that the process was started with.
struct Handed<'a> {
    sent: BTreeMap<RawFd, OwnedFd>,
    rest: &'a mut dyn FdSource,
}

impl FdSource for Handed<'_> {
    fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        match self.sent.remove(&fd) {
            Some(fd) => Ok(fd),
            None => self.rest.take(fd),
        }
    }

    fn fdset(&mut self, set: u32) -> io::Result<OwnedFd> {
        self.rest.fdset(set)
    }

    fn fdset_for(&mut self, set: u32, write: bool) -> io::Result<OwnedFd> {
        self.rest.fdset_for(set, write)
    }
}

/// Replaces the names of descriptors under `key`, parted by colons, by their numbers.
fn resolve(
    key: &str,
    properties: &mut Properties,
    named: &mut dyn NamedFds,
    sent: &mut BTreeMap<RawFd, OwnedFd>,
) -> Answer {
    let Some(Value::String(names)) = properties.get(key) else {
        return Ok(());
    };
    let mut numbers = Vec::new();
    for name in names.split(':') {
        // a number is a descriptor that the process was started with
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            numbers.push(name.to_owned());
            continue;
        }
        let missing =
            || QmpError::generic(format!("File descriptor named '{name}' has not been found"));
        let fd = named.take_fd(name).ok_or_else(missing)?;
        numbers.push(fd.as_raw_fd().to_string());
        sent.insert(fd.as_raw_fd(), fd);
    }
    properties.insert(key.to_owned(), numbers.join(":").into());
    Ok(())
}

impl Host {
    pub(super) fn add_block_node(
        &mut self,
        properties: Properties,
        fds: &mut dyn FdSource,
    ) -> Answer {
        let node = hotplug::block_node(&json(properties)).map_err(|e| because(&e))?;
        let name = self.disks.nodes.add(&node, fds).map_err(|e| because(&e))?;
        let origin = format!("blockdev-add {name}");
        self.config
            .block_nodes
            .push(BlockNodeConfig { origin, node });
        Ok(())
    }

    pub(super) fn delete_block_node(&mut self, name: &str) -> Answer {
        if self.disks.nodes.info(name).is_none() {
            let why = format!("Failed to find node with node-name='{name}'");
            return Err(QmpError::generic(why));
        }
        self.disks.nodes.remove(name).map_err(|e| because(&e))?;
        let nodes = &mut self.config.block_nodes;
        nodes.retain(|node| node.node.name.as_deref() != Some(name));
        Ok(())
    }

    pub(super) fn plug(
        &mut self,
        driver: &str,
        mut properties: Properties,
        fds: &mut dyn FdSource,
    ) -> Answer {
        let id = properties
            .get("id")
            .and_then(Value::as_str)
            .map(str::to_owned);
        if id.is_some() && self.config.devices.iter().any(|device| device.id == id) {
            let id = id.unwrap_or_default();
            return Err(QmpError::generic(format!("Duplicate device ID '{id}'")));
        }
        if driver.ends_with(vcpus::TYPES) {
            self.plug_vcpu(driver, id.clone(), &properties)?;
        } else {
            self.plug_device(driver, properties.clone(), fds)?;
        }
        properties.remove("id");
        self.config.devices.push(DeviceRecord {
            id,
            driver: driver.to_owned(),
            properties,
        });
        Ok(())
    }

    fn plug_device(
        &mut self,
        driver: &str,
        mut properties: Properties,
        fds: &mut dyn FdSource,
    ) -> Answer {
        properties.insert("driver".into(), driver.into());
        let device = hotplug::device(&json(properties), &self.config);
        match device.map_err(|e| because(&e))? {
            HotDevice::Disk(disk) => self.plug_disk(*disk, fds),
            HotDevice::Nic(nic) => self.plug_nic(&nic),
            HotDevice::Unseen => Ok(()),
        }
    }

    fn plug_disk(&mut self, config: DiskConfig, fds: &mut dyn FdSource) -> Answer {
        let image = match &config.node {
            Some(node) => {
                let image = self.disks.nodes.attach(node, &attachment(&config), fds);
                Some(image.map_err(|e| because(&e))?)
            }
            None => None,
        };
        let user = user_name(&config);
        self.config.disks.push(config.clone());
        let disk = OpenDisk { config, image };
        let vcpus = self.config.vcpus.maximum;
        let (place, device) = self.disks.add(disk, vcpus, &self.inbox);
        let number = place.id;
        self.devices.add(place, device).map_err(|e| {
            self.forget_disk(number);
            QmpError::generic(format!("The guest cannot be given {user}: {e}"))
        })
    }

    fn plug_nic(&mut self, nic: &NicConfig) -> Answer {
        let ends = self.spare_ends.remove(&nic.netdev).ok_or_else(|| {
            let netdev = &nic.netdev;
            QmpError::generic(format!(
                "Property '{}.netdev' can't find value '{netdev}'",
                nic.model
            ))
        })?;
        let used = |handle: &u32| self.nics.iter().any(|nic| nic.handle == *handle);
        let handle = (0..).find(|handle| !used(handle)).unwrap_or(u32::MAX);
        let (opened, (place, device)) = nics::on_ends(nic, handle, ends);
        self.devices
            .add(place, device)
            .map_err(|e| QmpError::generic(format!("The guest cannot be given the device: {e}")))?;
        self.config.nics.push(nic.clone());
        self.nics.push(opened);
        Ok(())
    }

    pub(super) fn unplug(&mut self, id: &str) -> Answer {
        if let Some(vcpu) = self.vcpus.named(id) {
            return self.unplug_vcpu(vcpu);
        }
        let place = self.place_of(id);
        let known = |device: &DeviceRecord| device.id.as_deref() == Some(id);
        if place.is_none() && !self.config.devices.iter().any(known) {
            return Err(QmpError::no_device(id));
        }
        let stays = |device: &DeviceRecord| known(device) && hotplug::is_console(device);
        if self.config.devices.iter().any(stays) {
            let why = format!("Device '{id}' does not support hotplugging");
            return Err(QmpError::generic(why));
        }
        match place {
            Some((class, number)) if self.devices.unplug(class, number) => {}
            Some((class, number)) => self.device_gone(class, number),
            None => self.record_gone(id),
        }
        Ok(())
    }

    /// What the guest has of the device of this id.
    fn place_of(&self, id: &str) -> Option<(&'static str, u32)> {
        let disk = self
            .disks
            .disks
            .iter()
            .find(|disk| disk.config.id.as_deref() == Some(id));
        if let Some(disk) = disk {
            return Some(("vbd", disk.config.vdev.number()));
        }
        let nic = self
            .nics
            .iter()
            .find(|nic| nic.config.id.as_deref() == Some(id));
        nic.map(|nic| ("vif", nic.handle))
    }

    /// A device has left the guest.
    pub(super) fn device_gone(&mut self, class: &'static str, number: u32) {
        self.devices.forget(class, number);
        let id = match class {
            "vbd" => self.forget_disk(number),
            // its user's end stays
            consoles::CLASS => None,
            _ => {
                let nic = self.nics.iter().position(|nic| nic.handle == number);
                let nic = nic.map(|at| self.nics.remove(at).config);
                nic.and_then(|nic| {
                    self.config.nics.retain(|other| other.netdev != nic.netdev);
                    nic.id
                })
            }
        };
        if let Some(id) = id {
            self.record_gone(&id);
        }
    }

    /// Forgets a disk; returns its id.
    fn forget_disk(&mut self, number: u32) -> Option<String> {
        let disks = &mut self.disks.disks;
        let at = disks
            .iter()
            .position(|disk| disk.config.vdev.number() == number)?;
        let disk = disks.remove(at);
        let config = disk.config.clone();
        drop(disk);
        self.disks.nodes.detach(&user_name(&config));
        self.config
            .disks
            .retain(|other| other.vdev.number() != number);
        config.id
    }

    fn record_gone(&mut self, id: &str) {
        self.config
            .devices
            .retain(|device| device.id.as_deref() != Some(id));
        self.tell(Event::DeviceDeleted(DeviceDeleted {
            device: Some(id.to_owned()),
            path: format!("/machine/peripheral/{id}"),
        }));
    }

    pub(super) fn add_host_end(
        &mut self,
        kind: &str,
        mut properties: Properties,
        named: &mut dyn NamedFds,
        fds: &mut dyn FdSource,
    ) -> Answer {
        let mut sent = BTreeMap::new();
        for key in ["fd", "fds"] {
            resolve(key, &mut properties, named, &mut sent)?;
        }
        properties.insert("type".into(), kind.into());
        let netdev = hotplug::host_end(&json(properties), &mut self.config);
        let netdev = netdev.map_err(|e| because(&e))?;
        if self.config.netdev(&netdev.id).is_some() {
            let id = &netdev.id;
            return Err(QmpError::generic(format!("Duplicate ID '{id}' for netdev")));
        }
        let ends = netend::open(&netdev, &mut Handed { sent, rest: fds });
        let ends = ends.map_err(|e| because(&e))?;
        self.spare_ends.insert(netdev.id.clone(), ends);
        self.config.netdevs.push(netdev);
        Ok(())
    }

    pub(super) fn delete_host_end(&mut self, id: &str) -> Answer {
        if self.config.netdev(id).is_none() {
            return Err(QmpError::no_device(id));
        }
        if self.nics.iter().any(|nic| nic.config.netdev == id) {
            let why = format!("Host end '{id}' is in use; unplug its device first");
            return Err(QmpError::generic(why));
        }
        self.spare_ends.remove(id);
        self.config.netdevs.retain(|netdev| netdev.id != id);
        Ok(())
    }

    pub(super) fn put_link(&mut self, name: &str, up: bool) -> Answer {
        let nic = self
            .nics
            .iter()
            .find(|nic| nic.config.id.as_deref() == Some(name) || nic.config.netdev == name);
        let nic = nic.ok_or_else(|| QmpError::no_device(name))?;
        nic.control.set_link(up);
        Ok(())
    }

    fn drive(&mut self, name: &str) -> Answer<&mut Disk> {
        let named = |disk: &&mut Disk| {
            let names = [&disk.config.id, &disk.config.backend];
            names.into_iter().flatten().any(|known| known == name)
        };
        let disk = self.disks.disks.iter_mut().find(named);
        disk.ok_or_else(|| QmpError::no_device(name))
    }

    fn removable(&mut self, name: &str) -> Answer<&mut Disk> {
        let disk = self.drive(name)?;
        match disk.config.kind {
            DiskKind::Cdrom => Ok(disk),
            DiskKind::Disk => {
                let why = format!("Device '{name}' is not removable");
                Err(QmpError::generic(why))
            }
        }
    }

    /// A drive whose medium can be changed.
    fn open_drive(&mut self, name: &str) -> Answer<&mut Disk> {
        let disk = self.removable(name)?;
        if !disk.tray_open {
            let why = format!("Tray of device '{name}' is not open");
            return Err(QmpError::generic(why));
        }
        Ok(disk)
    }

    pub(super) fn move_tray(&mut self, name: &str, open: bool) -> Answer {
        let disk = self.removable(name)?;
        if std::mem::replace(&mut disk.tray_open, open) == open {
            return Ok(());
        }
        let event = TrayMoved {
            device: disk.config.backend.clone().unwrap_or_default(),
            id: user_name(&disk.config),
            tray_open: open,
        };
        self.tell(Event::TrayMoved(event));
        Ok(())
    }

    pub(super) fn take_medium(&mut self, name: &str) -> Answer {
        let disk = self.open_drive(name)?;
        disk.config.node = None;
        let (config, control) = (disk.config.clone(), disk.control.clone());
        let (keys, flushed) = control.change_medium(None);
        if let Err(e) = flushed {
            warn!("{name}: the medium that was taken out could not be flushed: {e}");
        }
        self.tell_frontend(&config, keys);
        self.disks.nodes.detach(&user_name(&config));
        self.note_medium(&config);
        Ok(())
    }

    pub(super) fn put_medium(&mut self, name: &str, node: &str, fds: &mut dyn FdSource) -> Answer {
        let disk = self.open_drive(name)?;
        if disk.config.node.is_some() {
            let why = format!("There already is a medium in device '{name}'");
            return Err(QmpError::generic(why));
        }
        let (mut config, control) = (disk.config.clone(), disk.control.clone());
        config.node = Some(node.to_owned());
        let image = self.disks.nodes.attach(node, &attachment(&config), fds);
        let image = image.map_err(|e| because(&e))?;
        let (keys, flushed) = control.change_medium(Some(image));
        flushed.map_err(|e| because(&e))?;
        self.drive(name)?.config.node.clone_from(&config.node);
        self.tell_frontend(&config, keys);
        self.note_medium(&config);
        Ok(())
    }

    /// A reboot of the guest finds the drive as it is now.
    fn note_medium(&mut self, changed: &DiskConfig) {
        let disks = self.config.disks.iter_mut();
        for disk in disks.filter(|disk| disk.vdev == changed.vdev) {
            disk.node.clone_from(&changed.node);
        }
    }

    fn tell_frontend(&self, disk: &DiskConfig, keys: xenner_pvdevices::xenbus::Keys) {
        if let Some(thread) = self.devices.thread("vbd", disk.vdev.number()) {
            thread.update(keys);
        }
    }

    pub(super) fn resize_disk(&mut self, target: &BlockTarget, size: u64) -> Answer {
        let disks = self.disks.disks.iter();
        let mut wanted = disks.filter(|disk| {
            let config = &disk.config;
            let by_node = target.node.is_some() && target.node == config.node;
            let by_name = target.device.is_some()
                && (target.device == config.backend || target.device == config.id);
            by_node || by_name
        });
        let disk = wanted.next().ok_or_else(|| {
            let device = target.device.as_deref().unwrap_or_default();
            let node = target.node.as_deref().unwrap_or_default();
            let why = format!("Cannot find device='{device}' nor node-name='{node}'");
            QmpError::generic(why)
        })?;
        let image = disk.control.image();
        let image = image.ok_or_else(|| QmpError::generic("There is no medium"))?;
        image.resize(size).map_err(|e| because(&e))?;
        let keys = disk.control.resized();
        self.tell_frontend(&disk.config, keys);
        Ok(())
    }
}
