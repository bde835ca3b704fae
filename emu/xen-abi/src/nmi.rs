//! `nmi.h`: `nmi_op`.

use core::mem::offset_of;

/// Register.
pub const XENNMI_REGISTER_CALLBACK: u32 = 0;
/// Unregister.
pub const XENNMI_UNREGISTER_CALLBACK: u32 = 1;

/// I/O error.
pub const XEN_NMIREASON_IO_ERROR: u64 = 1;
/// PCI error.
pub const XEN_NMIREASON_PCI_SERR: u64 = 2;
/// Unknown.
pub const XEN_NMIREASON_UNKNOWN: u64 = 4;

/// Argument of `XENNMI_REGISTER_CALLBACK`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct XennmiCallback {
    /// Handler.
    pub handler_address: u64,
    /// Unused.
    pub pad: u64,
}

const _: () = assert!(size_of::<XennmiCallback>() == 16);
const _: () = assert!(offset_of!(XennmiCallback, handler_address) == 0);
const _: () = assert!(offset_of!(XennmiCallback, pad) == 8);
