//! `-machine none`: a process without a domain, to be asked about itself.

use super::MonitorChardevs;
use super::control::{
    Actions, Answer, ChardevInfo, Control, DeviceInfo, DomainStats, Identity, RunState, StoreNode,
    Vcpu,
};
use super::error::QmpError;
use super::events::{Event, EventSink, LifeChange, ShutdownCause};
use crate::config::{Machine, Uuid};

/// A [`Control`] without a domain.
#[derive(Debug)]
pub struct Nothing {
    events: EventSink,
    kvm: bool,
    running: bool,
    quit: bool,
    chardevs: MonitorChardevs,
}

impl Nothing {
    /// `kvm`: this process may use KVM.
    pub fn new(events: EventSink, kvm: bool) -> Self {
        Self {
            events,
            kvm,
            running: false,
            quit: false,
            chardevs: MonitorChardevs::default(),
        }
    }

    /// The process is to end.
    pub fn has_quit(&self) -> bool {
        self.quit
    }

    /// What `query-chardev` lists.
    pub fn set_chardevs(&mut self, chardevs: MonitorChardevs) {
        self.chardevs = chardevs;
    }
}

impl Control for Nothing {
    fn identity(&self) -> Identity {
        Identity {
            name: None,
            uuid: Uuid([0; 16]),
            machine: Machine::None,
            kvm: self.kvm,
            max_vcpus: 1,
        }
    }

    fn status(&self) -> RunState {
        match self.running {
            true => RunState::Running,
            false => RunState::Prelaunch,
        }
    }

    fn stop(&mut self) -> Answer {
        if std::mem::replace(&mut self.running, false) {
            self.events.emit(Event::stop());
        }
        Ok(())
    }

    fn cont(&mut self) -> Answer {
        if !std::mem::replace(&mut self.running, true) {
            self.events.emit(Event::resume());
        }
        Ok(())
    }

    fn powerdown(&mut self) -> Answer {
        self.events.emit(Event::powerdown());
        Ok(())
    }

    fn reset(&mut self) -> Answer {
        self.events.emit(Event::Reset(LifeChange {
            guest: false,
            reason: ShutdownCause::HostQmpSystemReset,
        }));
        Ok(())
    }

    fn quit(&mut self) {
        self.quit = true;
        self.events.emit(Event::Shutdown(LifeChange {
            guest: false,
            reason: ShutdownCause::HostQmpQuit,
        }));
    }

    fn set_actions(&mut self, _: &Actions) -> Answer {
        Ok(())
    }

    fn vcpus(&self) -> Vec<Vcpu> {
        Vec::new()
    }

    fn memory(&self) -> u64 {
        0
    }

    fn chardevs(&self) -> Vec<ChardevInfo> {
        self.chardevs.list()
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        Vec::new()
    }

    fn stats(&self) -> Answer<DomainStats> {
        Err(no_domain())
    }

    fn xenstore(&self, _: &str) -> Answer<Vec<StoreNode>> {
        Err(no_domain())
    }
}

fn no_domain() -> QmpError {
    QmpError::generic("There is no domain (-machine none)")
}
