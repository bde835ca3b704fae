//! A made-up domain: memory, grants and event channels, and an account of what backends hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::{MockPort, Ports};
use super::memory::{MockGrants, MockMemory, MockPage};
use crate::domain::{Access, Channel, ChannelError, Domain, GrantTable, SharedPage};

/// A domain for tests. When it is dropped, no backend may hold a grant or a port of it.
#[derive(Debug)]
pub struct MockDomain {
    domid: u16,
    memory: Arc<MockMemory>,
    grants: Arc<MockGrants>,
    ports: Arc<Ports>,
    free: Mutex<Vec<u64>>,
}

impl MockDomain {
    /// A domain with so many pages of memory.
    #[must_use]
    pub fn new(domid: u16, pages: usize) -> Arc<Self> {
        let memory = MockMemory::new(pages);
        Arc::new(Self {
            domid,
            grants: Arc::new(MockGrants::new(memory.clone())),
            ports: Arc::default(),
            free: Mutex::new((0..memory.pages()).rev().collect()),
            memory,
        })
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<MockMemory> {
        &self.memory
    }

    fn free(&self) -> MutexGuard<'_, Vec<u64>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page that nothing else uses, with what its last user left in it.
    #[must_use]
    pub fn alloc_page(&self) -> MockPage {
        let frame = self.free().pop();
        self.memory
            .page(frame.expect("the made-up domain has a free page"))
    }

    /// Gives a page back.
    pub fn free_page(&self, page: &MockPage) {
        self.free().push(page.frame());
    }

    /// Grants domain 0 a frame, which need not be one of the domain's; returns the reference.
    #[must_use]
    pub fn grant(&self, frame: u64, access: Access) -> u32 {
        self.grants.grant(frame, access)
    }

    /// Ends a grant as Linux does: false (and it stays) while a backend has it mapped.
    #[must_use]
    pub fn end_grant(&self, gref: u32) -> bool {
        self.grants.end(gref)
    }

    /// Wipes a grant's entry although it may be mapped, as no honest domain does.
    pub fn revoke_grant(&self, gref: u32) {
        self.grants.revoke(gref);
    }

    /// Makes a frame one that must not be written, as if it were a page table now.
    pub fn protect(&self, frame: u64) {
        self.grants.protect(frame);
    }

    /// A new page, granted to domain 0.
    #[must_use]
    pub fn granted_page(self: &Arc<Self>, access: Access) -> GrantedPage {
        let page = self.alloc_page();
        GrantedPage {
            gref: self.grant(page.frame(), access),
            page,
            domain: self.clone(),
        }
    }

    /// Allocates a port for domain 0 (`EVTCHNOP_alloc_unbound`).
    #[must_use]
    pub fn alloc_port(&self) -> MockPort {
        self.ports.alloc()
    }

    /// The references that backends have mapped now.
    #[must_use]
    pub fn mapped(&self) -> Vec<u32> {
        self.grants.mapped()
    }

    /// How often a grant was mapped so far, refusals included.
    #[must_use]
    pub fn maps(&self) -> u64 {
        self.grants.maps()
    }

    /// Panics if a backend holds a grant or a port.
    pub fn assert_released(&self) {
        assert_eq!(self.mapped(), [0; 0], "grants that are still mapped");
        assert_eq!(self.ports.bound(), [0; 0], "ports that are still bound");
    }
}

impl Domain for MockDomain {
    fn domid(&self) -> u16 {
        self.domid
    }

    fn grants(&self) -> Arc<dyn GrantTable> {
        self.grants.clone()
    }

    fn bind(&self, port: u32) -> Result<Arc<dyn Channel>, ChannelError> {
        self.ports.bind(port)
    }
}

impl Drop for MockDomain {
    fn drop(&mut self) {
        // A second panic would hide the first.
        if !std::thread::panicking() {
            self.assert_released();
        }
    }
}

/// A page granted to domain 0. When dropped, grant and page are given back; the page is lost to the
/// domain if a backend has it mapped still, as it is to Linux.
#[derive(Debug)]
pub struct GrantedPage {
    page: MockPage,
    gref: u32,
    domain: Arc<MockDomain>,
}

impl GrantedPage {
    /// Its reference.
    #[must_use]
    pub fn gref(&self) -> u32 {
        self.gref
    }

    /// Its frame.
    #[must_use]
    pub fn frame(&self) -> u64 {
        self.page.frame()
    }

    /// The page, for the domain's own accesses.
    #[must_use]
    pub fn page(&self) -> &MockPage {
        &self.page
    }

    /// Copies bytes out of the page.
    #[must_use]
    pub fn bytes(&self, off: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.page.read(off, &mut bytes);
        bytes
    }

    /// Copies bytes into the page.
    pub fn put(&self, off: usize, data: &[u8]) {
        self.page.write(off, data);
    }
}

impl Drop for GrantedPage {
    fn drop(&mut self) {
        if self.domain.end_grant(self.gref) {
            self.domain.free_page(&self.page);
        }
    }
}
