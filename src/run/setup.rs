//! What is put around a new domain before its vcpus run: keys in the store, rings, devices.

use std::io::Write;
use std::sync::{Arc, Mutex};

use event_manager::SubscriberOps;
use kvm_ioctls::VcpuFd;
use log::warn;
use xenner_emu_abi::layout::{DOMID, PAGE_SIZE};
use xenner_pvdevices::domain::Notify;

use super::devices;
use super::ends::{DomainEnd, GuestConsole, Wish};
use super::life::{Host, Subscriber};
use super::pages::{GuestPage, PortNotify};
use super::{RunError, host, lock, open_hvlog};
use crate::backend::{BackendDomain, BackendStore};
use crate::config::{HvLog, Uuid};
use crate::domain::builder::{CONSOLE_PORT, STORE_PORT};
use crate::domain::{Domain, DomainConfig, DomainError};
use crate::grants::Grants;
use crate::kvm::stats::VcpuStatistics;
use crate::loader::KernelImage;
use crate::xenstore::DomainKeys;
use crate::xenstore::domain_keys::ConsoleType;
use crate::xenstore::service::GuestLink;

impl Host {
    pub(super) fn domain_config<'a>(&self, kernel: &'a KernelImage) -> DomainConfig<'a> {
        DomainConfig {
            kernel,
            initrd: self.config.initrd.clone(),
            command_line: self.config.append.clone(),
            pages: self.config.memory.size / PAGE_SIZE,
            vcpus: self.config.vcpus.maximum,
            package: self.config.vcpus.cores * self.config.vcpus.threads,
            uuid: self.config.uuid.unwrap_or(Uuid([0; 16])),
            wall_clock_ahead: self.wall_clock_ahead,
        }
    }

    pub(super) fn connect_hypervisor_console(&self, domain: &Domain) -> Result<(), RunError> {
        if let Some(mut file) = open_hvlog(&self.config)? {
            domain.set_console_out(Box::new(move |text| {
                if let Err(e) = file.write_all(text) {
                    warn!("-xenner hvlog: {e}");
                }
            }));
        } else if self.config.hvlog != HvLog::Off {
            let console = self.console.clone();
            domain.set_console_out(Box::new(move |text| lock(&console).write_debug(text)));
        }
        Ok(())
    }

    pub(super) fn publish_keys(&self, domain: &Domain) -> Result<DomainKeys, RunError> {
        let filename = lock(&self.console).end().filename();
        let tty = filename.strip_prefix("pty:").map(str::to_owned);
        let keys = DomainKeys {
            domid: DOMID,
            uuid: self.config.uuid.unwrap_or(Uuid([0; 16])).to_string(),
            name: self.name.clone(),
            memory_kib: self.config.memory.size >> 10,
            vcpus: self.vcpus.availability(),
            store_port: STORE_PORT,
            store_mfn: domain.built.store_mfn,
            console_port: CONSOLE_PORT,
            console_mfn: domain.built.console_mfn,
            console_type: ConsoleType::Xenconsoled,
            console_output: if tty.is_some() {
                "pty".into()
            } else {
                filename
            },
            console_tty: tty,
            console_limit: 1 << 20,
        };
        keys.publish(&self.store)?;
        Ok(keys)
    }

    /// Connects the rings of this domain; returns what is to be taken out of the loop at its end.
    pub(super) fn connect_rings(
        &mut self,
        domain: &Arc<Domain>,
    ) -> Result<Vec<event_manager::SubscriberId>, RunError> {
        let bind = |port| {
            domain
                .events
                .bind_backend(port)
                .map_err(|e| host("event descriptor")(std::io::Error::from_raw_os_error(e as i32)))
        };
        let page = |mfn| GuestPage::new(&domain.memory, mfn).map_err(DomainError::from);
        let notify = |port| PortNotify {
            events: domain.events.clone(),
            port,
        };
        let store_notify = notify(STORE_PORT);
        lock(&self.service).attach_guest(GuestLink {
            domid: DOMID,
            page: Box::new(page(domain.built.store_mfn)?),
            port: bind(STORE_PORT)?,
            notify: Box::new(move || Notify::notify(&store_notify)),
        });
        let console_port = bind(CONSOLE_PORT)?;
        lock(&self.console).connect(
            Box::new(page(domain.built.console_mfn)?),
            Box::new(notify(CONSOLE_PORT)),
        );
        let guest_end = GuestConsole {
            port: console_port,
            console: self.console.clone(),
        };
        let end = DomainEnd {
            domain: domain.clone(),
        };
        Ok(vec![
            self.events
                .add_subscriber(Arc::new(Mutex::new(guest_end)) as Subscriber),
            self.events
                .add_subscriber(Arc::new(Mutex::new(end)) as Subscriber),
        ])
    }

    pub(super) fn connect_devices(&mut self, domain: &Domain) -> Result<(), RunError> {
        let backend = BackendDomain {
            grants: Grants::new(domain.memory.clone(), domain.map),
            events: domain.events.clone(),
        };
        let inbox = self.inbox.clone();
        let host_of_devices = devices::Host {
            domain: Arc::new(backend),
            store: Arc::new(BackendStore(self.store.clone())),
            on_gone: devices::GoneHook(Arc::new(move |class, id| {
                inbox.put(Wish::Gone { class, id });
            })),
        };
        self.devices
            .start(host_of_devices)
            .map_err(host("device thread"))
    }

    /// KVM's counters, kept open while the domain runs if statistics may be wanted.
    pub(super) fn exit_counters(&self, vcpus: &[VcpuFd]) -> Arc<[VcpuStatistics]> {
        if !self.config.stats && self.config.monitors.is_empty() {
            return Arc::default();
        }
        let opened: std::io::Result<_> = vcpus.iter().map(VcpuStatistics::open).collect();
        opened
            .unwrap_or_else(|e| {
                warn!("no exit counts: {e} (KVM has them since Linux 5.14)");
                Vec::new()
            })
            .into()
    }
}
