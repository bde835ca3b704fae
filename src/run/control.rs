//! What the monitor's commands do: [`Control`] for the process around the domain.

use std::sync::{MutexGuard, PoisonError};

use log::warn;
use xenner_console::FdSource;
use xenner_emu_abi::layout::{DOMID, PAGE_SIZE};
use xenner_pvdevices::consback::ConsoleBackend;
use xenner_pvdevices::netback::Direction;

use super::life::{Halt, Host};
use super::nics::Nic;
use super::{consoles, lock, report};
use crate::config::{PanicAction, RebootAction, ShutdownAction, Uuid};
use crate::domain::Domain;
use crate::qmp::control::{
    Actions, Answer, BlockInfo, BlockNode, BlockStats, BlockTarget, ChardevInfo, Control,
    DeviceInfo, DomainStats, Identity, NamedFds, PanicSetting, Properties, RebootSetting,
    RingStats, RunState, ShutdownSetting, StoreNode, Vcpu, VcpuStats,
};
use crate::qmp::events::{BalloonChange, LifeChange, ShutdownCause};
use crate::qmp::{Event, QmpError};

impl Host {
    /// Runs what monitors were asked, and tells their clients what happened.
    pub(super) fn serve_monitors(&mut self) {
        self.note_balloon();
        if let Some(mut server) = self.server.take() {
            server.serve(self);
            self.server = Some(server);
        }
        self.forget_vcpus();
    }

    /// Tells the monitors of a turn in the domain's life.
    pub(super) fn tell(&self, event: Event) {
        self.told.emit(event);
    }

    /// SHUTDOWN.
    pub(super) fn tell_shutdown(&self, guest: bool, reason: ShutdownCause) {
        self.tell(Event::Shutdown(LifeChange { guest, reason }));
    }

    fn console_rings(&self) -> Vec<RingStats> {
        let consoles = (0..).zip(self.all_consoles());
        consoles
            .map(|(number, console)| consoles::ring(number, console))
            .collect()
    }

    /// The console on a character device, as a monitor names it.
    fn console_on(&self, chardev: &str) -> Answer<MutexGuard<'_, ConsoleBackend>> {
        let mut consoles = self.all_consoles().map(|console| lock(console));
        let console = consoles.find(|console| console.end().id() == chardev);
        console.ok_or_else(|| QmpError::generic(format!("Device '{chardev}' not found")))
    }

    /// BALLOON_CHANGE, if the domain's memory is not what it was.
    fn note_balloon(&mut self) {
        let Some(running) = &self.running else { return };
        let actual = pages(&running.domain) * PAGE_SIZE;
        if std::mem::replace(&mut self.memory_told, actual) != actual {
            self.tell(Event::BalloonChange(BalloonChange { actual }));
        }
    }
}

/// Pages that the domain has.
fn pages(domain: &Domain) -> u64 {
    *domain
        .hypercalls
        .pages
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Control for Host {
    fn identity(&self) -> Identity {
        Identity {
            name: self.config.name.clone(),
            uuid: self.config.uuid.unwrap_or(Uuid([0; 16])),
            machine: self.config.machine,
            kvm: true,
            max_vcpus: self.config.vcpus.maximum,
        }
    }

    fn status(&self) -> RunState {
        match &self.running {
            None => self.ended.unwrap_or(RunState::Prelaunch),
            Some(running) => match running.halted {
                None => RunState::Running,
                Some(Halt::Prelaunch) => RunState::Prelaunch,
                Some(Halt::Monitor) => RunState::Paused,
                Some(Halt::IoError) => RunState::IoError,
            },
        }
    }

    fn stop(&mut self) -> Answer {
        self.halt(Halt::Monitor);
        Ok(())
    }

    fn cont(&mut self) -> Answer {
        if self.running.is_none() && self.reset_wanted.is_none() {
            let why = "Resetting the Virtual Machine is required";
            return Err(QmpError::generic(why));
        }
        if let Some(halted) = &mut self.reset_wanted {
            // it runs when it is there
            *halted = None;
            return Ok(());
        }
        self.go_on();
        Ok(())
    }

    fn powerdown(&mut self) -> Answer {
        self.tell(Event::powerdown());
        let path = format!("/local/domain/{DOMID}/control/shutdown");
        if self.running.is_some()
            && let Err(e) = self.store.write(&path, "poweroff")
        {
            warn!("the guest cannot be asked to power off: {e}");
        }
        Ok(())
    }

    fn reset(&mut self) -> Answer {
        let halted = match &self.running {
            Some(running) => running.halted.map(|_| Halt::Prelaunch),
            None => Some(Halt::Prelaunch),
        };
        self.reset_wanted = Some(halted);
        if let Some(running) = &self.running {
            running.domain.end.quit();
        }
        Ok(())
    }

    fn quit(&mut self) {
        self.quit_for(ShutdownCause::HostQmpQuit);
    }

    fn set_actions(&mut self, actions: &Actions) -> Answer {
        let lifecycle = &mut self.config.lifecycle;
        if let Some(reboot) = actions.reboot {
            lifecycle.reboot = match reboot {
                RebootSetting::Reset => RebootAction::Reset,
                RebootSetting::Shutdown => RebootAction::Shutdown,
            };
        }
        if let Some(shutdown) = actions.shutdown {
            lifecycle.shutdown = match shutdown {
                ShutdownSetting::Poweroff => ShutdownAction::Poweroff,
                ShutdownSetting::Pause => ShutdownAction::Pause,
            };
        }
        if let Some(panic) = actions.panic {
            lifecycle.panic = match panic {
                PanicSetting::Pause => PanicAction::Pause,
                PanicSetting::Shutdown => PanicAction::Shutdown,
                PanicSetting::ExitFailure => PanicAction::ExitFailure,
                PanicSetting::None => PanicAction::None,
            };
        }
        Ok(())
    }

    fn vcpus(&self) -> Vec<Vcpu> {
        let threads = self.running.as_ref().map(|running| running.threads.tids());
        self.vcpus.list(&threads.unwrap_or_default())
    }

    fn inject_nmi(&mut self) -> Answer {
        let running = self.running.as_ref().ok_or_else(over)?;
        let sent = running.domain.send_nmi();
        sent.map_err(|e| QmpError::generic(e.to_string()))
    }

    fn memory(&self) -> u64 {
        self.config.memory.size
    }

    fn chardevs(&self) -> Vec<ChardevInfo> {
        let mut all = self.monitor_chardevs.list();
        if !self.config.consoles.is_empty() {
            all.push(consoles::info(&self.console, true));
        }
        let others = self.consoles.iter();
        all.extend(others.map(|console| consoles::info(&console.backend, console.used)));
        all
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        self.config.devices.clone()
    }

    fn balloon_actual(&self) -> Answer<u64> {
        let running = self.running.as_ref();
        Ok(running.map_or(self.config.memory.size, |running| {
            pages(&running.domain) * PAGE_SIZE
        }))
    }

    fn set_balloon(&mut self, bytes: u64) -> Answer {
        // a domain cannot have more than it began with
        let kib = bytes.min(self.config.memory.size) >> 10;
        let path = format!("/local/domain/{DOMID}/memory/target");
        let written = self.store.write(&path, kib.to_string());
        written.map_err(|e| QmpError::generic(format!("The guest cannot be told: {e}")))
    }

    fn balloon_stats(&self) -> Answer<(Vec<(&'static str, u64)>, u64)> {
        // a PV guest tells the hypervisor nothing of its memory's use
        Ok((Vec::new(), 0))
    }

    fn balloon_polling(&self) -> Answer<u64> {
        Ok(self.balloon_polling)
    }

    fn set_balloon_polling(&mut self, seconds: u64) -> Answer {
        self.balloon_polling = seconds;
        Ok(())
    }

    fn ringbuf_read(&mut self, chardev: &str, max: usize) -> Answer<Vec<u8>> {
        let mut console = self.console_on(chardev)?;
        let read = console.end_mut().ringbuf_read(max);
        read.ok_or_else(|| QmpError::generic(format!("{chardev} is not a ringbuf device")))
    }

    fn ringbuf_write(&mut self, chardev: &str, data: &[u8]) -> Answer {
        let mut console = self.console_on(chardev)?;
        match console.end_mut().ringbuf_write(data) {
            true => Ok(()),
            false => Err(QmpError::generic(format!(
                "{chardev} is not a ringbuf device"
            ))),
        }
    }

    fn blocks(&self) -> Vec<BlockInfo> {
        self.disks.blocks()
    }

    fn block_stats(&self, nodes: bool) -> Vec<BlockStats> {
        self.disks.stats(nodes)
    }

    fn block_nodes(&self) -> Vec<BlockNode> {
        self.disks.block_nodes()
    }

    fn blockdev_add(&mut self, properties: Properties, fds: &mut dyn FdSource) -> Answer {
        self.add_block_node(properties, fds)
    }

    fn blockdev_del(&mut self, node: &str) -> Answer {
        self.delete_block_node(node)
    }

    fn block_resize(&mut self, target: &BlockTarget, size: u64) -> Answer {
        self.resize_disk(target, size)
    }

    fn open_tray(&mut self, id: &str, _force: bool) -> Answer {
        // a PV guest cannot lock the tray
        self.move_tray(id, true)
    }

    fn close_tray(&mut self, id: &str) -> Answer {
        self.move_tray(id, false)
    }

    fn remove_medium(&mut self, id: &str) -> Answer {
        self.take_medium(id)
    }

    fn insert_medium(&mut self, id: &str, node: &str, fds: &mut dyn FdSource) -> Answer {
        self.put_medium(id, node, fds)
    }

    fn device_add(
        &mut self,
        driver: &str,
        properties: Properties,
        fds: &mut dyn FdSource,
    ) -> Answer {
        self.plug(driver, properties, fds)
    }

    fn device_del(&mut self, id: &str) -> Answer {
        self.unplug(id)
    }

    fn netdev_add(
        &mut self,
        kind: &str,
        properties: Properties,
        named: &mut dyn NamedFds,
        fds: &mut dyn FdSource,
    ) -> Answer {
        self.add_host_end(kind, properties, named, fds)
    }

    fn netdev_del(&mut self, id: &str) -> Answer {
        self.delete_host_end(id)
    }

    fn set_link(&mut self, name: &str, up: bool) -> Answer {
        self.put_link(name, up)
    }

    fn networks(&self) -> Vec<(String, String)> {
        let nics = self.nics.iter();
        nics.map(|nic| {
            let config = &nic.config;
            let link = if nic.control.link() { "up" } else { "down" };
            let name = config
                .id
                .clone()
                .unwrap_or_else(|| format!("vif{}", nic.handle));
            let what = format!(
                "type=nic,model={},macaddr={},netdev={},link={link}",
                config.model, config.mac, config.netdev
            );
            (name, what)
        })
        .collect()
    }

    fn stats(&self) -> Answer<DomainStats> {
        let running = self.running.as_ref().ok_or_else(over)?;
        let exits = running.threads.exits();
        let vcpus = (0..)
            .zip(exits)
            .map(|(vcpu, userspace_exits)| VcpuStats {
                vcpu,
                hypercalls: report::hypercalls(&running.domain, vcpu)
                    .into_iter()
                    .map(|(name, count)| (name.to_owned(), count.into()))
                    .collect(),
                userspace_exits,
                kvm: running.kvm_counters(vcpu),
            })
            .collect();
        Ok(DomainStats {
            vcpus,
            rings: [
                self.disks.rings(),
                nic_rings(&self.nics),
                self.console_rings(),
            ]
            .concat(),
        })
    }

    fn xenstore(&self, path: &str) -> Answer<Vec<StoreNode>> {
        let dump = self.store.dump();
        let below = format!("{}/", path.trim_end_matches('/'));
        let mut nodes: Vec<StoreNode> = dump
            .into_iter()
            .map(|(at, value, perms)| StoreNode {
                path: at.to_string(),
                value: value.escape_ascii().to_string(),
                permissions: perms
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            })
            .filter(|node| node.path == path || node.path.starts_with(&below))
            .collect();
        if nodes.is_empty() {
            return Err(QmpError::generic(format!("There is no node '{path}'")));
        }
        nodes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(nodes)
    }
}

/// The network devices' part of the statistics, as the guest sees the directions.
fn nic_rings(nics: &[Nic]) -> Vec<RingStats> {
    let direction = |name: &'static str, counts: Direction| {
        [
            (format!("{name}-packets"), counts.packets.into()),
            (format!("{name}-bytes"), counts.bytes.into()),
            (format!("{name}-drops"), counts.drops.into()),
            (format!("{name}-errors"), counts.errors.into()),
            (format!("{name}-notifications"), counts.events.into()),
        ]
    };
    let ring = |nic: &Nic| {
        let stats = nic.control.stats();
        RingStats {
            name: format!("vif {}", nic.handle),
            counters: [direction("tx", stats.tx), direction("rx", stats.rx)]
                .into_iter()
                .flatten()
                .collect(),
        }
    };
    nics.iter().map(ring).collect()
}

fn over() -> QmpError {
    QmpError::generic("The domain is over")
}
