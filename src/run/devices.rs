//! The domain's devices: made once for the process, connected anew for each domain.
//!
//! A device keeps its host end (an open image, a network interface) over the guest's reboots; its
//! thread, its nodes in the store and its grants belong to one domain.

use std::io;
use std::sync::Arc;

use xenner_pvdevices::domain::{Domain, Store};
use xenner_pvdevices::xenbus::{self, Bus, Device, DeviceThread, Keys};

/// What a device is to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `vbd`, `vif`, `console`.
    pub class: &'static str,
    /// The number within its class.
    pub id: u32,
    /// The frontend's nodes besides those that every device has.
    pub frontend: Keys,
}

#[derive(Debug)]
enum State {
    /// No domain is there.
    Idle(Box<dyn Device>),
    /// Serves a domain.
    Running(DeviceThread),
    /// Unplugged, or its thread has failed.
    Gone,
}

#[derive(Debug)]
struct Slot {
    place: Place,
    state: State,
}

/// Told of a device that is gone: its class and number. Called on the device's thread.
#[derive(Clone)]
pub struct GoneHook(pub Arc<dyn Fn(&'static str, u32) + Send + Sync>);

impl std::fmt::Debug for GoneHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GoneHook")
    }
}

/// What devices need to serve a domain.
#[derive(Debug, Clone)]
pub struct Host {
    /// The domain.
    pub domain: Arc<dyn Domain>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Who is told of devices that are gone.
    pub on_gone: GoneHook,
}

/// The devices.
#[derive(Debug, Default)]
pub struct Devices {
    slots: Vec<Slot>,
    host: Option<Host>,
}

impl Devices {
    /// The devices of a domain that is not there yet.
    ///
    /// # Errors
    /// As [`Devices::add`].
    pub fn add_all<D: Device + 'static>(&mut self, new: Vec<(Place, Box<D>)>) -> io::Result<()> {
        new.into_iter()
            .try_for_each(|(place, device)| self.add(place, device))
    }

    /// Adds a device; one that is added while a domain is there is plugged into it.
    ///
    /// # Errors
    /// `AlreadyExists` if there is a device in this place; what [`xenbus::spawn`] gives.
    pub fn add(&mut self, place: Place, device: Box<dyn Device>) -> io::Result<()> {
        self.sweep();
        let taken = |s: &Slot| s.place.class == place.class && s.place.id == place.id;
        if self.slots.iter().any(taken) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut slot = Slot {
            place,
            state: State::Idle(device),
        };
        if let Some(host) = &self.host {
            slot.start(host)?;
        }
        self.slots.push(slot);
        Ok(())
    }

    /// A new domain is there: offers it every device.
    ///
    /// # Errors
    /// What [`xenbus::spawn`] gives.
    pub fn start(&mut self, host: Host) -> io::Result<()> {
        self.sweep();
        self.slots
            .iter_mut()
            .try_for_each(|slot| slot.start(&host))?;
        self.host = Some(host);
        Ok(())
    }

    /// The domain is over: devices finish what is under way and let go of its memory.
    pub fn stop(&mut self) {
        self.host = None;
        self.slots.iter_mut().for_each(Slot::stop);
        self.sweep();
    }

    /// The running device in a place, if there is one.
    pub fn thread(&self, class: &str, id: u32) -> Option<&DeviceThread> {
        self.slots.iter().find_map(|slot| match &slot.state {
            State::Running(thread) if slot.place.class == class && slot.place.id == id => {
                (!thread.is_gone()).then_some(thread)
            }
            _ => None,
        })
    }

    /// Unplugs a device. The one told by [`Host::on_gone`] is told when it is gone; false if it is
    /// gone already, for no domain had it.
    pub fn unplug(&mut self, class: &str, id: u32) -> bool {
        if let Some(thread) = self.thread(class, id) {
            thread.unplug(false);
            return true;
        }
        self.forget(class, id);
        false
    }

    /// Lets go of a device that is gone: what it had open is closed on return.
    pub fn forget(&mut self, class: &str, id: u32) {
        self.slots
            .retain(|slot| slot.place.class != class || slot.place.id != id);
    }

    /// Forgets what was unplugged.
    fn sweep(&mut self) {
        self.slots.retain(|slot| match &slot.state {
            State::Idle(_) => true,
            State::Running(thread) => !thread.is_gone(),
            State::Gone => false,
        });
    }
}

impl Slot {
    fn start(&mut self, host: &Host) -> io::Result<()> {
        let (class, id, hook) = (self.place.class, self.place.id, host.on_gone.clone());
        let bus = Bus {
            store: host.store.clone(),
            domain: host.domain.clone(),
            class: self.place.class,
            id: self.place.id,
            frontend: self.place.frontend.clone(),
            on_gone: Some(Box::new(move || hook.0(class, id))),
        };
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(device) => State::Running(xenbus::spawn(device, bus)?),
            other => other,
        };
        Ok(())
    }

    fn stop(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Running(thread) if !thread.is_gone() => {
                thread.stop().map_or(State::Gone, State::Idle)
            }
            State::Running(_) | State::Gone => State::Gone,
            State::Idle(device) => State::Idle(device),
        };
    }
}

#[cfg(test)]
mod tests;
