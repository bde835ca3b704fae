//! Pages of the guest as device backends and the xenstore see them.

use log::error;
use xenner_emu_abi::layout::PAGE_SIZE;
use xenner_pvdevices::domain::{Notify, SharedPage};

use crate::evtchn::EventChannels;
use crate::memory::{Memory, MemoryError};
use crate::xenstore::RingPage;

/// One frame of the domain's memory, checked to be there when it was made.
#[derive(Clone, Debug)]
pub struct GuestPage {
    memory: Memory,
    start: u64,
}

impl GuestPage {
    /// The frame `mfn`.
    ///
    /// # Errors
    /// The frame is not memory.
    pub fn new(memory: &Memory, mfn: u64) -> Result<Self, MemoryError> {
        let start = mfn.saturating_mul(PAGE_SIZE);
        memory.load(start)?;
        memory.load(start + PAGE_SIZE - 8)?;
        Ok(Self {
            memory: memory.clone(),
            start,
        })
    }

    /// What cannot fail but by a mistake of ours: offsets beyond the page.
    fn checked<T: Default>(&self, r: Result<T, MemoryError>) -> T {
        r.unwrap_or_else(|e| {
            error!("{e}");
            T::default()
        })
    }

    fn load(&self, off: usize) -> u32 {
        self.checked(self.memory.load_u32(self.start + off as u64))
    }

    fn store(&self, off: usize, value: u32) {
        self.checked(self.memory.store_u32(self.start + off as u64, value));
    }

    fn copy_out(&self, off: usize, buf: &mut [u8]) {
        self.checked(self.memory.read(self.start + off as u64, buf));
    }

    fn copy_in(&self, off: usize, data: &[u8]) {
        self.checked(self.memory.write(self.start + off as u64, data));
    }
}

impl SharedPage for GuestPage {
    fn load_u32(&self, off: usize) -> u32 {
        self.load(off)
    }
    fn store_u32(&self, off: usize, value: u32) {
        self.store(off, value);
    }
    fn read(&self, off: usize, buf: &mut [u8]) {
        self.copy_out(off, buf);
    }
    fn write(&self, off: usize, data: &[u8]) {
        self.copy_in(off, data);
    }
}

impl RingPage for GuestPage {
    fn read_u32(&self, off: usize) -> u32 {
        self.load(off)
    }
    fn write_u32(&self, off: usize, v: u32) {
        self.store(off, v);
    }
    fn read_bytes(&self, off: usize, buf: &mut [u8]) {
        self.copy_out(off, buf);
    }
    fn write_bytes(&self, off: usize, buf: &[u8]) {
        self.copy_in(off, buf);
    }
}

/// A backend's end of an event channel.
#[derive(Clone, Debug)]
pub struct PortNotify {
    /// The domain's event channels.
    pub events: EventChannels,
    /// The guest's port.
    pub port: u32,
}

impl Notify for PortNotify {
    fn notify(&self) {
        self.events.raise(self.port);
    }
}
