//! A frontend: its nodes, its states, its rings.

use std::sync::Arc;

use xenner_xen_abi::io::xenbus::XenbusState;

use super::{MockDomain, MockPort, MockRing, MockStore};
use crate::domain::Domain;

/// The frontend of a device for tests.
#[derive(Debug)]
pub struct MockFrontend {
    domain: Arc<MockDomain>,
    store: Arc<MockStore>,
    path: String,
    backend: String,
}

impl MockFrontend {
    /// The frontend of a device that is (or will be) published.
    #[must_use]
    pub fn new(domain: &Arc<MockDomain>, store: &Arc<MockStore>, class: &str, id: u32) -> Self {
        let domid = domain.domid();
        Self {
            domain: domain.clone(),
            store: store.clone(),
            path: format!("/local/domain/{domid}/device/{class}/{id}"),
            backend: format!("/local/domain/0/backend/{class}/{domid}/{id}"),
        }
    }

    /// Its domain.
    #[must_use]
    pub fn domain(&self) -> &Arc<MockDomain> {
        &self.domain
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<MockStore> {
        &self.store
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The backend's directory.
    #[must_use]
    pub fn backend_path(&self) -> &str {
        &self.backend
    }

    /// Writes a node of its own (`queue-1/ring-ref` for one of a queue).
    pub fn write(&self, key: &str, value: impl ToString) {
        let path = format!("{}/{key}", self.path);
        self.store.set(&path, &value.to_string());
    }

    /// Removes a node of its own.
    pub fn remove(&self, key: &str) {
        self.store.take(&format!("{}/{key}", self.path));
    }

    /// Reads a node of its own.
    #[must_use]
    pub fn read(&self, key: &str) -> Option<String> {
        self.store.get(&format!("{}/{key}", self.path))
    }

    /// Reads a node of the backend.
    #[must_use]
    pub fn backend(&self, key: &str) -> Option<String> {
        self.store.get(&format!("{}/{key}", self.backend))
    }

    /// Shows a state.
    pub fn set_state(&self, state: XenbusState) {
        self.write("state", state as u8);
    }

    /// Waits for a state of the backend.
    pub fn wait_backend(&self, state: XenbusState) {
        let wanted = (state as u8).to_string();
        self.wait_backend_key("state", |value| value == Some(&wanted));
    }

    /// Waits for a node of the backend to be as wanted.
    pub fn wait_backend_key(&self, key: &str, wanted: impl Fn(Option<&str>) -> bool) {
        let path = format!("{}/{key}", self.backend);
        self.store.wait_until(&path, wanted);
    }

    /// All states that the backend has shown, in order.
    #[must_use]
    pub fn backend_states(&self) -> Vec<String> {
        self.store.history(&format!("{}/state", self.backend))
    }

    /// What the backend has written to its error node.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let domain0 = "/local/domain/0/";
        let path = self.backend.replace(domain0, "/local/domain/0/error/");
        self.store.get(&format!("{path}/error"))
    }

    /// A new ring of `pages` pages, whose references are written as Linux's frontends do: `key` for
    /// one page, `key` followed by 0, 1, ... for more (`key` may have `queue-N/` before it).
    #[must_use]
    pub fn share_ring(&self, key: &str, pages: usize, entry_size: usize) -> MockRing {
        let ring = MockRing::new(&self.domain, pages, entry_size);
        self.share(key, &ring);
        ring
    }

    /// Writes the references of a ring.
    pub fn share(&self, key: &str, ring: &MockRing) {
        match *ring.grefs() {
            [gref] => self.write(key, gref),
            ref grefs => {
                for (n, gref) in grefs.iter().enumerate() {
                    self.write(&format!("{key}{n}"), gref);
                }
            }
        }
    }

    /// A new event channel, whose port is written.
    #[must_use]
    pub fn share_port(&self, key: &str) -> MockPort {
        let port = self.domain.alloc_port();
        self.write(key, port.number());
        port
    }

    /// Goes away as a driver does that is unloaded: Closing, Closed, each answered.
    pub fn close(&self) {
        self.set_state(XenbusState::Closing);
        self.wait_backend(XenbusState::Closing);
        self.set_state(XenbusState::Closed);
        self.wait_backend(XenbusState::Closed);
    }

    /// Begins again after [`Self::close`].
    pub fn restart(&self) {
        self.set_state(XenbusState::Initialising);
        self.wait_backend(XenbusState::InitWait);
    }
}
