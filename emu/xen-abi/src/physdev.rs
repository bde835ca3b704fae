//! `physdev.h`: `physdev_op` commands and the arguments that a domU uses.

use core::mem::offset_of;

/// Legacy.
pub const PHYSDEVOP_IRQ_UNMASK_NOTIFY: u32 = 4;
/// Status of an interrupt.
pub const PHYSDEVOP_IRQ_STATUS_QUERY: u32 = 5;
/// I/O privilege level.
pub const PHYSDEVOP_SET_IOPL: u32 = 6;
/// I/O bitmap.
pub const PHYSDEVOP_SET_IOBITMAP: u32 = 7;
/// Read an I/O APIC.
pub const PHYSDEVOP_APIC_READ: u32 = 8;
/// Write an I/O APIC.
pub const PHYSDEVOP_APIC_WRITE: u32 = 9;
/// Allocate a vector.
pub const PHYSDEVOP_ALLOC_IRQ_VECTOR: u32 = 10;
/// Free a vector.
pub const PHYSDEVOP_FREE_IRQ_VECTOR: u32 = 11;
/// End of interrupt.
pub const PHYSDEVOP_EOI: u32 = 12;
/// Map an interrupt.
pub const PHYSDEVOP_MAP_PIRQ: u32 = 13;
/// Unmap it.
pub const PHYSDEVOP_UNMAP_PIRQ: u32 = 14;
/// PCI.
pub const PHYSDEVOP_MANAGE_PCI_ADD: u32 = 15;
/// PCI.
pub const PHYSDEVOP_MANAGE_PCI_REMOVE: u32 = 16;
/// Page of end-of-interrupt bits.
pub const PHYSDEVOP_PIRQ_EOI_GMFN_V1: u32 = 17;
/// PCI.
pub const PHYSDEVOP_RESTORE_MSI: u32 = 19;
/// PCI.
pub const PHYSDEVOP_MANAGE_PCI_ADD_EXT: u32 = 20;
/// Set a global interrupt up.
pub const PHYSDEVOP_SETUP_GSI: u32 = 21;
/// Find a free interrupt.
pub const PHYSDEVOP_GET_FREE_PIRQ: u32 = 23;
/// PCI.
pub const PHYSDEVOP_PCI_MMCFG_RESERVED: u32 = 24;
/// PCI.
pub const PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25;
/// PCI.
pub const PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26;
/// PCI.
pub const PHYSDEVOP_RESTORE_MSI_EXT: u32 = 27;
/// Page of end-of-interrupt bits.
pub const PHYSDEVOP_PIRQ_EOI_GMFN_V2: u32 = 28;
/// Debug port.
pub const PHYSDEVOP_DBGP_OP: u32 = 29;
/// PCI.
pub const PHYSDEVOP_PREPARE_MSIX: u32 = 30;
/// PCI.
pub const PHYSDEVOP_RELEASE_MSIX: u32 = 31;

/// Argument of `PHYSDEVOP_SET_IOPL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PhysdevSetIopl {
    /// Level, 0 to 3.
    pub iopl: u32,
}

const _: () = assert!(size_of::<PhysdevSetIopl>() == 4);
const _: () = assert!(offset_of!(PhysdevSetIopl, iopl) == 0);

/// Argument of `PHYSDEVOP_SET_IOBITMAP`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PhysdevSetIobitmap {
    /// Address of the bitmap.
    pub bitmap: u64,
    /// Ports that it covers.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<PhysdevSetIobitmap>() == 16);
const _: () = assert!(offset_of!(PhysdevSetIobitmap, bitmap) == 0);
const _: () = assert!(offset_of!(PhysdevSetIobitmap, nr_ports) == 8);
const _: () = assert!(offset_of!(PhysdevSetIobitmap, pad) == 12);

/// Argument of `PHYSDEVOP_IRQ_STATUS_QUERY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PhysdevIrqStatusQuery {
    /// Interrupt.
    pub irq: u32,
    /// Out: flags.
    pub flags: u32,
}

const _: () = assert!(size_of::<PhysdevIrqStatusQuery>() == 8);
const _: () = assert!(offset_of!(PhysdevIrqStatusQuery, irq) == 0);
const _: () = assert!(offset_of!(PhysdevIrqStatusQuery, flags) == 4);
