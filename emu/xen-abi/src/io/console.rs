//! `io/console.h`: the console ring page. Indices run freely; the ring's size
//! masks them.

use core::mem::offset_of;

/// Bytes of the ring towards the domain.
pub const XENCONS_IN_SIZE: usize = 1024;
/// Bytes of the ring from the domain.
pub const XENCONS_OUT_SIZE: usize = 2048;

/// The console page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct XenconsInterface {
    /// Towards the domain (`in`).
    pub input: [u8; XENCONS_IN_SIZE],
    /// From the domain (`out`).
    pub output: [u8; XENCONS_OUT_SIZE],
    /// Domain's index.
    pub in_cons: u32,
    /// Backend's index.
    pub in_prod: u32,
    /// Backend's index.
    pub out_cons: u32,
    /// Domain's index.
    pub out_prod: u32,
    /// 0 connected, 1 disconnected; newer backends write it.
    pub connection: u8,
    /// Padding.
    pub pad: [u8; 3],
}

impl Default for XenconsInterface {
    fn default() -> Self {
        Self {
            input: [0; XENCONS_IN_SIZE],
            output: [0; XENCONS_OUT_SIZE],
            in_cons: 0,
            in_prod: 0,
            out_cons: 0,
            out_prod: 0,
            connection: 0,
            pad: [0; 3],
        }
    }
}

const _: () = assert!(size_of::<XenconsInterface>() == 3092);
const _: () = assert!(offset_of!(XenconsInterface, input) == 0);
const _: () = assert!(offset_of!(XenconsInterface, output) == 1024);
const _: () = assert!(offset_of!(XenconsInterface, in_cons) == 3072);
const _: () = assert!(offset_of!(XenconsInterface, in_prod) == 3076);
const _: () = assert!(offset_of!(XenconsInterface, out_cons) == 3080);
const _: () = assert!(offset_of!(XenconsInterface, out_prod) == 3084);
const _: () = assert!(offset_of!(XenconsInterface, connection) == 3088);
const _: () = assert!(offset_of!(XenconsInterface, pad) == 3089);
