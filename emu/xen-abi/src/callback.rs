//! `callback.h`: `callback_op` commands.

use core::mem::offset_of;

/// Register.
pub const CALLBACKOP_REGISTER: u32 = 0;
/// Unregister.
pub const CALLBACKOP_UNREGISTER: u32 = 1;

/// Events.
pub const CALLBACKTYPE_EVENT: u16 = 0;
/// Segment loads that fail.
pub const CALLBACKTYPE_FAILSAFE: u16 = 1;
/// SYSCALL from 64-bit user mode.
pub const CALLBACKTYPE_SYSCALL: u16 = 2;
/// Not served any more.
pub const CALLBACKTYPE_SYSENTER_DEPRECATED: u16 = 3;
/// NMI.
pub const CALLBACKTYPE_NMI: u16 = 4;
/// SYSENTER.
pub const CALLBACKTYPE_SYSENTER: u16 = 5;
/// SYSCALL from 32-bit user mode.
pub const CALLBACKTYPE_SYSCALL32: u16 = 7;
/// Mask events on entry.
pub const CALLBACKF_MASK_EVENTS: u16 = 1;

/// Argument of `CALLBACKOP_REGISTER`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CallbackRegister {
    /// `CALLBACKTYPE_*`.
    pub kind: u16,
    /// `CALLBACKF_*`.
    pub flags: u16,
    /// Padding.
    pub pad: u32,
    /// Handler.
    pub address: u64,
}

const _: () = assert!(size_of::<CallbackRegister>() == 16);
const _: () = assert!(offset_of!(CallbackRegister, kind) == 0);
const _: () = assert!(offset_of!(CallbackRegister, flags) == 2);
const _: () = assert!(offset_of!(CallbackRegister, pad) == 4);
const _: () = assert!(offset_of!(CallbackRegister, address) == 8);

/// Argument of `CALLBACKOP_UNREGISTER`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CallbackUnregister {
    /// `CALLBACKTYPE_*`.
    pub kind: u16,
    /// Unused.
    pub unused: u16,
}

const _: () = assert!(size_of::<CallbackUnregister>() == 4);
const _: () = assert!(offset_of!(CallbackUnregister, kind) == 0);
const _: () = assert!(offset_of!(CallbackUnregister, unused) == 2);
