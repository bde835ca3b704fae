//! The domain's vcpus as they are plugged in and out.
//!
//! A domain is built with as many vcpus as it may ever have, and the guest finds all of them by
//! vcpu_op, as it does under Xen: a place without a vcpu is one whose `cpu/N/availability` in the
//! store says `offline`. The guest has a watch on that and brings the vcpu up or down; a vcpu that
//! is down waits in the emulator. Nothing keeps a guest from using what it was not given.

use serde_json::Value;
use thiserror::Error;
use xenner_emu_abi::layout::DOMID;

use super::life::Host;
use super::plug::because;
use crate::config::VcpuConfig;
use crate::qmp::control::{Answer, Properties, VCPU_TYPE, Vcpu};
use crate::qmp::events::DeviceDeleted;
use crate::qmp::{Event, QmpError};
use crate::xenstore::set_availability;

/// How the drivers of QEMU's processors end.
pub(super) const TYPES: &str = "-x86_64-cpu";

/// The keys of a place, from the outside in.
const PLACE: [&str; 3] = ["socket-id", "core-id", "thread-id"];
/// The keys of a level that there is one of, or none.
const SINGLE: [&str; 2] = ["die-id", "node-id"];

/// Why a vcpu is not plugged in or out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum VcpuError {
    /// A processor of another make.
    #[error("Invalid CPU type '{0}'; the domain's is '{VCPU_TYPE}'")]
    Type(String),
    /// Something that a vcpu does not have.
    #[error("Property '{VCPU_TYPE}.{0}' not found; leave it out")]
    Property(String),
    /// No number.
    #[error("Invalid parameter type for '{0}', expected: integer")]
    NotANumber(&'static str),
    /// Part of the place is missing.
    #[error("CPU {0} is not set; query-hotpluggable-cpus has the properties of each place")]
    NotSet(&'static str),
    /// No such place.
    #[error(
        "Invalid CPU {key}: {value} must be in range 0:{last}; query-hotpluggable-cpus lists the \
         places that there are"
    )]
    Range {
        /// Which part of the place.
        key: &'static str,
        /// What was given.
        value: u64,
        /// The last one that there is.
        last: u32,
    },
    /// There is a vcpu.
    #[error(
        "CPU[{0}] exists already; places without a qom-path in query-hotpluggable-cpus are free"
    )]
    Taken(u32),
    /// There still is a vcpu.
    #[error("CPU[{0}] is being unplugged; wait for DEVICE_DELETED")]
    Leaving(u32),
    /// The guest boots on it.
    #[error("CPU[0] cannot be unplugged, because the guest boots on it; unplug another one")]
    First,
}

/// A vcpu in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plugged {
    /// Its device's id; those that are there from the start have none.
    id: Option<String>,
    /// Its path among the objects.
    path: String,
    /// The guest was asked to do without it.
    leaving: bool,
}

/// All places for vcpus; the guest's numbers are the indices.
#[derive(Debug)]
pub(super) struct Vcpus {
    config: VcpuConfig,
    places: Vec<Option<Plugged>>,
}

impl Vcpus {
    /// The vcpus at the start.
    pub(super) fn new(config: VcpuConfig) -> Self {
        let at_start = |id: u32| Plugged {
            id: None,
            path: format!("/machine/unattached/device[{id}]"),
            leaving: false,
        };
        let place = |id| (id < config.count).then(|| at_start(id));
        Self {
            config,
            places: (0..config.maximum).map(place).collect(),
        }
    }

    /// The numbers of those that there are.
    pub(super) fn plugged(&self) -> impl Iterator<Item = u32> {
        let numbered = (0..).zip(&self.places);
        numbered.filter_map(|(id, vcpu)| vcpu.is_some().then_some(id))
    }

    /// For each place: the guest is to use the vcpu.
    pub(super) fn availability(&self) -> Vec<bool> {
        let wanted = |vcpu: &Option<Plugged>| vcpu.as_ref().is_some_and(|vcpu| !vcpu.leaving);
        self.places.iter().map(wanted).collect()
    }

    /// All of them for the monitor, with the threads of the domain that is there.
    pub(super) fn list(&self, threads: &[i32]) -> Vec<Vcpu> {
        let numbered = (0..).zip(&self.places);
        numbered
            .map(|(id, vcpu)| Vcpu {
                id,
                place: self.place(id),
                path: vcpu.as_ref().map(|vcpu| vcpu.path.clone()),
                thread: vcpu.as_ref().and(threads.get(id as usize).copied()),
            })
            .collect()
    }

    /// Socket, core and thread of a vcpu.
    fn place(&self, id: u32) -> [u32; 3] {
        let (cores, threads) = (self.config.cores.max(1), self.config.threads.max(1));
        [id / threads / cores, id / threads % cores, id % threads]
    }

    /// The number of the vcpu at the place that `properties` name; all of them are looked at.
    fn number(&self, properties: &Properties) -> Result<u32, VcpuError> {
        let known = |key: &str| key == "id" || PLACE.contains(&key) || SINGLE.contains(&key);
        if let Some(other) = properties.keys().find(|key| !known(key)) {
            return Err(VcpuError::Property(other.clone()));
        }
        for key in SINGLE {
            within(key, number_of(properties, key)?.unwrap_or(0), 1)?;
        }
        let VcpuConfig {
            sockets,
            cores,
            threads,
            ..
        } = self.config;
        let mut number = 0;
        for (key, count) in PLACE.into_iter().zip([sockets, cores, threads]) {
            let value = number_of(properties, key)?.ok_or(VcpuError::NotSet(key))?;
            number = number * count + within(key, value, count)?;
        }
        Ok(number)
    }

    /// Takes the place that `properties` name; gives its number.
    fn plug(&mut self, id: Option<String>, properties: &Properties) -> Result<u32, VcpuError> {
        let number = self.number(properties)?;
        let place = self.places.get_mut(number as usize);
        let place = place.ok_or(VcpuError::Taken(number))?;
        match place {
            Some(vcpu) if vcpu.leaving => return Err(VcpuError::Leaving(number)),
            Some(_) => return Err(VcpuError::Taken(number)),
            None => {}
        }
        let path = match &id {
            Some(id) => format!("/machine/peripheral/{id}"),
            None => format!("/machine/peripheral-anon/device[{number}]"),
        };
        *place = Some(Plugged {
            id,
            path,
            leaving: false,
        });
        Ok(number)
    }

    /// The number of the vcpu of this id or path.
    pub(super) fn named(&self, name: &str) -> Option<u32> {
        let is_this = |vcpu: &Option<Plugged>| {
            let vcpu = vcpu.as_ref();
            vcpu.is_some_and(|vcpu| vcpu.id.as_deref() == Some(name) || vcpu.path == name)
        };
        let at = self.places.iter().position(is_this)?;
        u32::try_from(at).ok()
    }

    /// Notes that the guest is to do without a vcpu.
    fn ask_to_leave(&mut self, number: u32) -> Result<(), VcpuError> {
        if number == 0 {
            return Err(VcpuError::First);
        }
        if let Some(Some(vcpu)) = self.places.get_mut(number as usize) {
            vcpu.leaving = true;
        }
        Ok(())
    }

    /// Takes out those that were to leave and that the guest does not have up.
    fn take_left(&mut self, is_up: impl Fn(u32) -> bool) -> Vec<Plugged> {
        let numbered = (0..).zip(&mut self.places);
        numbered
            .filter_map(|(number, place)| place.take_if(|vcpu| vcpu.leaving && !is_up(number)))
            .collect()
    }
}

fn number_of(properties: &Properties, key: &'static str) -> Result<Option<u64>, VcpuError> {
    let number = |value: &Value| value.as_u64().ok_or(VcpuError::NotANumber(key));
    properties.get(key).map(number).transpose()
}

/// The number if it is one of `count`, which is not 0.
fn within(key: &'static str, value: u64, count: u32) -> Result<u32, VcpuError> {
    let range = || VcpuError::Range {
        key,
        value,
        last: count.saturating_sub(1),
    };
    let number = u32::try_from(value).map_err(|_| range())?;
    (number < count).then_some(number).ok_or_else(range)
}

impl Host {
    /// `device_add` of a processor: the guest is told that it may use it.
    pub(super) fn plug_vcpu(
        &mut self,
        driver: &str,
        id: Option<String>,
        properties: &Properties,
    ) -> Answer {
        if driver != VCPU_TYPE {
            return Err(because(&VcpuError::Type(driver.to_owned())));
        }
        let number = self.vcpus.plug(id, properties);
        self.offer_vcpu(number.map_err(|e| because(&e))?, true)
    }

    /// `device_del` of one: the guest is asked to do without it. A guest that does not answer keeps
    /// it; asked again, the guest is told again.
    pub(super) fn unplug_vcpu(&mut self, number: u32) -> Answer {
        self.vcpus.ask_to_leave(number).map_err(|e| because(&e))?;
        self.offer_vcpu(number, false)
    }

    fn offer_vcpu(&self, number: u32, online: bool) -> Answer {
        let told = set_availability(&self.store, DOMID, number, online);
        told.map_err(|e| QmpError::generic(format!("The guest cannot be told: {e}")))
    }

    /// Forgets vcpus that were unplugged and that the guest has taken down, or that no guest has,
    /// and tells the monitors.
    pub(super) fn forget_vcpus(&mut self) {
        let domain = self.running.as_ref().map(|running| &running.domain);
        let left = self
            .vcpus
            .take_left(|number| domain.is_some_and(|domain| domain.is_vcpu_up(number)));
        for Plugged { id, path, .. } in left {
            if let Some(id) = &id {
                let devices = &mut self.config.devices;
                devices.retain(|device| device.id.as_ref() != Some(id));
            }
            self.tell(Event::DeviceDeleted(DeviceDeleted { device: id, path }));
        }
    }
}

#[cfg(test)]
mod tests;
