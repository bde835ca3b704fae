//! The state machine of a backend, without its thread: what each state of the frontend leads to.
//!
//! It looks at the frontend's current state, not at the way there: a frontend that was quick, or a
//! kernel that another one replaced, may have skipped what others do.

use std::sync::Arc;

use xenner_xen_abi::io::xenbus::XenbusState;

use super::error::{DeviceError, shown};
use super::frontend::decimal;
use super::thread::{Bus, Closer, Commands};
use super::{Device, Frontend, Keys};
use crate::domain::{BACKEND_DOMID, DeviceNodes, Domain, Store, StoreRefused, Watch};

/// `EINVAL`, with which the backend's error node begins as `xenbus_dev_error` writes it.
const EINVAL: u32 = 22;

/// Characters of a message in the error node, far below what the store takes.
const ERROR_CHARACTERS: usize = 500;

/// Faults of the frontend that are told in the log; it could make them without end.
const TOLD_FAULTS: u32 = 10;

/// A device, its nodes and its state.
pub(super) struct Machine {
    device: Box<dyn Device>,
    store: Arc<dyn Store>,
    domain: Arc<dyn Domain>,
    commands: Commands,
    name: String,
    /// The directories' paths.
    frontend: String,
    backend: String,
    /// What the `state` node says.
    state: XenbusState,
    /// Between the device's `connect` and `disconnect`.
    connected: bool,
    /// Counts connections.
    connection: u64,
    /// False once unplugged.
    online: bool,
    gone: bool,
    faults: u32,
}

impl Machine {
    /// Makes both directories; the backend waits for its frontend from the start, because GRUB goes
    /// on with any state but that one.
    pub fn publish(
        device: Box<dyn Device>,
        bus: Bus,
        commands: Commands,
    ) -> Result<Self, StoreRefused> {
        let (domid, class, id) = (bus.domain.domid(), bus.class, bus.id);
        let machine = Self {
            device,
            store: bus.store,
            domain: bus.domain,
            commands,
            name: format!("{class} {id}"),
            frontend: format!("/local/domain/{domid}/device/{class}/{id}"),
            backend: format!("/local/domain/{BACKEND_DOMID}/backend/{class}/{domid}/{id}"),
            state: XenbusState::InitWait,
            connected: false,
            connection: 0,
            online: true,
            gone: false,
            faults: 0,
        };
        machine.store.remove(&machine.error_path())?;
        machine.store.publish_device(&DeviceNodes {
            domid,
            frontend: machine.frontend.clone(),
            frontend_keys: machine.frontend_keys(bus.frontend),
            frontend_labels: machine.device.labels(),
            backend: machine.backend.clone(),
            backend_keys: machine.backend_keys(domid),
        })?;
        Ok(machine)
    }

    fn frontend_keys(&self, own: Keys) -> Keys {
        let mut keys = vec![
            key("backend", &self.backend),
            key("backend-id", BACKEND_DOMID),
        ];
        keys.extend(own);
        keys.push(key("state", XenbusState::Initialising as u8));
        keys
    }

    fn backend_keys(&self, domid: u16) -> Keys {
        let mut keys = vec![
            key("frontend", &self.frontend),
            key("frontend-id", domid),
            key("online", 1),
        ];
        keys.extend(self.device.offer());
        // What a hotplug script writes: the host's side is there.
        keys.push(key("hotplug-status", "connected"));
        keys.push(key("state", XenbusState::InitWait as u8));
        keys
    }

    /// Watches what the machine looks at.
    pub fn watch(&self) -> Result<Box<dyn Watch>, StoreRefused> {
        let state = format!("{}/state", self.frontend);
        let online = format!("{}/online", self.backend);
        self.store.watch(&[&state, &online])
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn state(&self) -> XenbusState {
        self.state
    }

    pub fn is_gone(&self) -> bool {
        self.gone
    }

    pub fn into_device(self) -> Box<dyn Device> {
        self.device
    }

    /// Looks at the nodes and does what they ask for.
    pub fn look(&mut self) {
        if self.gone {
            return;
        }
        match self.store.read(&format!("{}/online", self.backend)) {
            // A toolstack has removed the device without asking.
            Ok(None) => return self.vanish(),
            // A toolstack asks to unplug it.
            Ok(Some(online)) if online == "0" && self.online => return self.unplug(false),
            Ok(Some(_)) => (),
            Err(error) => return self.store_failed(&error),
        }
        match self.store.read(&format!("{}/state", self.frontend)) {
            Ok(None) => self.step(XenbusState::Unknown),
            Ok(Some(text)) => match parse_state(&text) {
                Some(state) => self.step(state),
                None => self.fault(&format!("the frontend's state is '{}'", shown(&text))),
            },
            // What the frontend wrote is not text.
            Err(error) => self.fault(&error.to_string()),
        }
    }

    /// What the frontend's state leads to.
    fn step(&mut self, frontend: XenbusState) {
        use XenbusState as S;
        log::debug!(
            target: "xenbus",
            "{}: backend {:?}, frontend {frontend:?}", self.name, self.state
        );
        match frontend {
            S::Initialising => self.frontend_starts(),
            S::Initialised | S::Connected => self.frontend_ready(frontend),
            S::Reconfiguring if self.state == S::Connected => self.reconfigure(),
            S::Closing => {
                self.disconnect();
                if !matches!(self.state, S::Closing | S::Closed) {
                    self.set_state(S::Closing, Keys::new());
                }
            }
            // Without a frontend's node there is nobody to wait for either.
            S::Closed | S::Unknown => {
                self.disconnect();
                if !self.online {
                    return self.vanish();
                }
                if self.state != S::Closed {
                    self.set_state(S::Closed, Keys::new());
                }
            }
            S::InitWait | S::Reconfiguring | S::Reconfigured => (),
        }
    }

    /// The frontend is at its beginning: it has not come yet, or it comes again (GRUB has handed
    /// over, the driver was loaded again, another kernel was started).
    fn frontend_starts(&mut self) {
        if !self.online {
            // No driver has taken the device up: nobody can be asked.
            self.disconnect();
            return self.vanish();
        }
        if self.state != XenbusState::InitWait {
            self.disconnect();
            self.remove(&self.error_path());
            let offer = self.device.offer();
            self.set_state(XenbusState::InitWait, offer);
        }
    }

    fn frontend_ready(&mut self, frontend: XenbusState) {
        match self.state {
            XenbusState::InitWait => self.connect(),
            XenbusState::Reconfigured if frontend == XenbusState::Connected => {
                self.set_state(XenbusState::Connected, Keys::new());
            }
            _ => (),
        }
    }

    fn frontend(&self) -> Frontend {
        Frontend {
            store: self.store.clone(),
            domain: self.domain.clone(),
            path: self.frontend.clone(),
            closer: Closer {
                commands: self.commands.clone(),
                connection: self.connection,
            },
        }
    }

    fn connect(&mut self) {
        self.connection += 1;
        let frontend = self.frontend();
        match self.device.connect(&frontend) {
            Ok(keys) => {
                self.connected = true;
                self.set_state(XenbusState::Connected, keys);
            }
            Err(error) => self.fail(&error),
        }
    }

    fn reconfigure(&mut self) {
        let frontend = self.frontend();
        match self.device.reconfigure(&frontend) {
            Ok(keys) => self.set_state(XenbusState::Reconfigured, keys),
            Err(error) => self.fail(&error),
        }
    }

    /// Disconnects the device if it is connected.
    pub fn disconnect(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.device.disconnect();
        }
    }

    /// One of the device's threads gives up on a connection.
    pub fn close(&mut self, connection: u64, reason: &DeviceError) {
        if self.connected && self.connection == connection {
            self.fail(reason);
        }
    }

    /// Disconnects, and tells the frontend and the log why.
    fn fail(&mut self, error: &DeviceError) {
        self.disconnect();
        let told = error.to_string();
        self.fault(&told);
        let node = format!("{}/error", self.error_path());
        let value = format!("{EINVAL} {told:.*}", ERROR_CHARACTERS);
        if let Err(error) = self.store.write(&node, &value) {
            self.store_failed(&error);
        }
        self.set_state(XenbusState::Closing, Keys::new());
    }

    fn fault(&mut self, what: &str) {
        self.faults = self.faults.saturating_add(1);
        match self.faults {
            ..TOLD_FAULTS => log::warn!(target: "xenbus", "{}: {what}", self.name),
            TOLD_FAULTS => log::warn!(
                target: "xenbus",
                "{}: {what}; no more of this device's faults are told", self.name
            ),
            _ => log::debug!(target: "xenbus", "{}: {what}", self.name),
        }
    }

    /// Asks the frontend to let go, or does not.
    pub fn unplug(&mut self, force: bool) {
        if self.gone {
            return;
        }
        let asked = !std::mem::replace(&mut self.online, false);
        if force {
            self.disconnect();
            return self.vanish();
        }
        if !asked {
            let offline = vec![key("online", 0)];
            if self.state == XenbusState::Closed {
                self.write(offline);
            } else {
                self.set_state(XenbusState::Closing, offline);
            }
        }
        self.look();
    }

    /// Writes nodes of the backend, and tells a connected frontend to look at them.
    pub fn update(&mut self, keys: Keys) {
        if self.gone {
            return;
        }
        if self.connected && self.state == XenbusState::Connected {
            self.set_state(XenbusState::Connected, keys);
        } else {
            self.write(keys);
        }
    }

    /// The device is gone, and with it all its nodes.
    fn vanish(&mut self) {
        self.disconnect();
        for path in [&self.frontend, &self.backend, &self.error_path()] {
            self.remove(path);
        }
        self.state = XenbusState::Closed;
        self.gone = true;
    }

    /// The device has panicked, and is not to be called again.
    pub fn abandon(&mut self) {
        self.connected = false;
        self.vanish();
    }

    fn remove(&self, path: &str) {
        if let Err(error) = self.store.remove(path) {
            self.store_failed(&error);
        }
    }

    /// The directory of the backend's error node.
    fn error_path(&self) -> String {
        let base = format!("/local/domain/{BACKEND_DOMID}/");
        self.backend.replacen(&base, &format!("{base}error/"), 1)
    }

    /// Shows a state, together with other nodes.
    fn set_state(&mut self, state: XenbusState, mut keys: Keys) {
        keys.push(key("state", state as u8));
        self.state = state;
        self.write(keys);
    }

    fn write(&self, keys: Keys) {
        let full = |(key, value)| (format!("{}/{key}", self.backend), value);
        let nodes: Keys = keys.into_iter().map(full).collect();
        if let Err(error) = self.store.write_all(&nodes) {
            self.store_failed(&error);
        }
    }

    /// The store is xenner's own and refuses domain 0 nothing but nodes beyond its limits.
    fn store_failed(&self, error: &StoreRefused) {
        log::error!(target: "xenbus", "{}: {error}", self.name);
    }
}

fn key(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

/// A state as frontends write it, perhaps with the NUL that ends a string in C.
fn parse_state(text: &str) -> Option<XenbusState> {
    let number = decimal(text.trim_end_matches('\0'))?;
    XenbusState::from_number(number)
}
