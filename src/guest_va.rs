//! Guest-virtual memory, reached through the guest's page tables.
//!
//! Everything here is the guest's to change at any moment: tables and data are read once,
//! and a mapping that is not there is a fault that the guest is told of.

use xenner_emu_abi::layout::{PAGE_SIZE, in_hole};
use xenner_emu_abi::pte::{self, P, PSE, RW};
use xenner_xen_abi::errno::EFAULT;

use crate::domain::layout::MachineMap;
use crate::frames::Held;
use crate::memory::Memory;

#[cfg(test)]
mod tests;

/// A pointer of the guest that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

impl From<Fault> for i64 {
    fn from(_: Fault) -> i64 {
        EFAULT
    }
}

/// A guest's address space.
#[derive(Clone, Copy, Debug)]
pub struct GuestVa<'a> {
    memory: &'a Memory,
    map: &'a MachineMap,
    cr3: u64,
}

impl<'a> GuestVa<'a> {
    /// The address space whose L4 is at machine address `cr3`.
    pub fn new(memory: &'a Memory, map: &'a MachineMap, cr3: u64) -> Self {
        Self { memory, map, cr3 }
    }

    /// Machine address that `va` is mapped to.
    ///
    /// # Errors
    /// It is not mapped (or not writable, for a write), or it is the hypervisor's.
    pub fn translate(&self, va: u64, write: bool) -> Result<u64, Fault> {
        if in_hole(va) || !canonical(va) {
            return Err(Fault);
        }
        let mut table = self.cr3 & pte::ADDR;
        for level in (1..=4).rev() {
            if table >= self.map.ram_end && !self.shared(table) {
                return Err(Fault);
            }
            let at = table + pte::index(va, level) as u64 * 8;
            let e = self.memory.load(at).map_err(|_| Fault)?;
            if e & P == 0 || write && e & RW == 0 || level > 1 && e & PSE != 0 {
                return Err(Fault);
            }
            table = e & pte::ADDR;
        }
        if table < self.map.ram_end || self.shared(table) {
            Ok(table | va & (PAGE_SIZE - 1))
        } else {
            Err(Fault)
        }
    }

    fn shared(&self, ma: u64) -> bool {
        (self.map.shared_info..self.map.shared_end).contains(&ma)
    }

    fn each_page(
        &self,
        va: u64,
        len: usize,
        write: bool,
        mut f: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = va.checked_add(done as u64).ok_or(Fault)?;
            let n = ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(len - done);
            f(self.translate(at, write)?, done..done + n)?;
            done += n;
        }
        Ok(())
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// Not all of it is mapped.
    pub fn read(&self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let memory = self.memory;
        self.each_page(va, buf.len(), false, |ma, range| {
            memory.read(ma, &mut buf[range]).map_err(|_| Fault)
        })
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// Not all of it is mapped writable; what was before the fault is written.
    pub fn write(&self, va: u64, buf: &[u8]) -> Result<(), Fault> {
        let memory = self.memory;
        self.each_page(va, buf.len(), true, |ma, range| {
            let _held = Held::new(memory, self.map, ma)?;
            memory.write(ma, &buf[range]).map_err(|_| Fault)
        })
    }

    /// Reads a fixed number of bytes.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn bytes<const N: usize>(&self, va: u64) -> Result<[u8; N], Fault> {
        let mut b = [0; N];
        self.read(va, &mut b)?;
        Ok(b)
    }

    /// Reads a 16-bit number.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn u16(&self, va: u64) -> Result<u16, Fault> {
        self.bytes(va).map(u16::from_le_bytes)
    }

    /// Reads a 32-bit number.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn u32(&self, va: u64) -> Result<u32, Fault> {
        self.bytes(va).map(u32::from_le_bytes)
    }

    /// Reads a 64-bit number.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn u64(&self, va: u64) -> Result<u64, Fault> {
        self.bytes(va).map(u64::from_le_bytes)
    }
}

/// Whether bits 47 to 63 of an address are the same.
const fn canonical(va: u64) -> bool {
    ((va << 16) as i64 >> 16) as u64 == va
}
